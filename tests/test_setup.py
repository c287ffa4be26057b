"""The set-up that `make` does, with a stand-in for Python: when it is done, and done anew."""

import shutil
import subprocess

import pytest

from paper_lib.runs import ROOT

# It says what it was asked, makes environments as venv does, and a copy of itself in each.
PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
  echo "VIRTUAL_ENV='$(pwd -P)/$3'" > "$3/bin/activate"
fi
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with an odd name, beside its stand-in."""
    stub = tmp_path / "python3"
    stub.write_text(PYTHON)
    stub.chmod(0o755)
    folder = tmp_path / "für alle – 結果"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def set_up(folder):
    """Return what `make setup` says, and what it asks Python."""
    log = folder.parent / "log"
    log.write_text("")
    words = ["make", "setup", f"PYTHON={folder.parent / 'python3'}"]
    done = subprocess.run(
        words,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LOG": str(log)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, log.read_text()


def test_a_checkout_is_set_up_once(checkout):
    said, asked = set_up(checkout)
    assert "Setting up .venv" in said and "-m venv .venv" in asked
    assert "--editable ." in asked
    assert set_up(checkout)[1] == ""


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_checkout_that_is_moved_or_copied_is_set_up_anew(checkout, how):
    set_up(checkout)
    (checkout / ".venv/bin/jupyter").write_text("#!/the old place/.venv/bin/python\n")
    there = checkout.with_name("elsewhere")
    how(checkout, there)
    said, asked = set_up(there)
    assert "was set up in another place" in said and "-m venv .venv" in asked
    assert not (there / ".venv/bin/jupyter").exists(), "nothing of the old place is left"
    assert set_up(there)[1] == ""


def test_an_environment_of_ones_own_is_left_alone(checkout):
    """.venv may be a link to an environment that several checkouts share."""
    set_up(checkout)
    shutil.move(checkout / ".venv", checkout.parent / "shared")
    (checkout / ".venv").symlink_to(checkout.parent / "shared")
    other = checkout.with_name("other")
    shutil.copytree(checkout, other, symlinks=True)
    assert set_up(other)[1] == ""
