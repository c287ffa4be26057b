"""What a run's files should hold: their checksums, and the runs that have none yet."""

import json
import shutil
from dataclasses import replace

import pytest

from paper_lib import runs
from paper_lib.runs import ROOT, checksums
from paper_lib.runs import __main__ as command_line
from paper_lib.system.reading import BrokenFile, digest


@pytest.fixture
def copied(smoke, elsewhere):
    """Results of one test's own: an implicit run."""
    folder = elsewhere / "results/smoke/runs" / smoke.IN.folder.name
    shutil.copytree(smoke.IN.folder, folder)
    return replace(smoke.IN, folder=folder)


COMMITTED = sorted(path.parent for path in ROOT.glob("results/cpu/runs/*/summary.json"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_every_committed_run_is_what_its_checksums_say(folder):
    remedy = "`python -m paper_lib.runs cpu --checksums` adds what is missing"
    assert (folder / checksums.NAME).exists(), remedy
    found = runs.RunResult.load(None, folder)
    for path in folder.iterdir():
        checksums.verify(path)
    assert len(found.metrics) or not found.summary["final"]


def test_a_run_is_finished_with_its_checksums(smoke):
    for run in (smoke.dvae, smoke.IN, smoke.complexity):
        written = json.loads((run.folder / checksums.NAME).read_text())
        files = {path.name for path in run.folder.iterdir()} - {checksums.NAME}
        assert written == {name: digest(run.folder / name) for name in files}


def test_a_run_from_before_is_read_and_given_its_checksums(copied, capsys):
    path = copied.folder / checksums.NAME
    content = path.read_text()
    path.unlink()
    assert runs.RunResult.load(copied.config, copied.folder).metrics.equals(copied.metrics)
    assert command_line.main(["smoke", "--checksums"]) == 0
    assert capsys.readouterr().out == f"{copied.folder.name}\n"
    assert path.read_text() == content
    assert command_line.main(["smoke", "--checksums"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["metrics.csv", "cell.safetensors", "samples.npz", "config.json"])
def test_what_cannot_be_read_is_given_none(copied, name, capsys):
    (copied.folder / checksums.NAME).unlink()
    path = copied.folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 6])
    assert command_line.main(["smoke", "--checksums"]) == 1
    said = capsys.readouterr()
    assert str(path) in said.err and "made again" in said.err and not said.out
    assert not (copied.folder / checksums.NAME).exists()


def test_a_run_from_before_that_lost_steps_is_refused_still(copied):
    """A table that is cut between two lines looks whole; the summary says where it ended."""
    (copied.folder / checksums.NAME).unlink()
    path = copied.folder / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(BrokenFile, match="does not end with step 6"):
        _ = copied.metrics


def test_a_file_is_read_for_its_checksum_once(copied, monkeypatch):
    read = []
    monkeypatch.setattr(checksums, "digest", lambda path: read.append(path.name) or digest(path))
    for _ in range(3):
        found = runs.RunResult.load(copied.config, copied.folder)
        assert len(found.metrics) == 6
    assert sorted(read) == ["config.json", "metrics.csv", "summary.json"]
    path = copied.folder / "metrics.csv"
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(BrokenFile, match="is not the file whose checksum"):
        _ = found.metrics


def test_the_list_of_runs_names_a_broken_one(copied, capsys):
    (copied.folder / "summary.json").write_text("{}")
    assert command_line.main(["smoke"]) == 0
    assert f"broken: {copied.folder / 'summary.json'}" in capsys.readouterr().out
    assert command_line.main(["smoke", copied.folder.name]) == 1
    assert str(copied.folder / "summary.json") in capsys.readouterr().err


def test_results_of_another_run_under_its_name_are_refused(copied, smoke):
    shutil.rmtree(copied.folder)
    shutil.copytree(smoke.vanilla.folder, copied.folder)
    with pytest.raises(BrokenFile, match=f"is of another run, '{smoke.vanilla.folder.name}'"):
        runs.RunResult.load(copied.config, copied.folder)
