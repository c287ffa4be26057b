"""The house: who may import whom, and how the rooms are written."""

import ast
import subprocess
import sys

import pytest

from paper_lib.runs import ROOT

# Each package may import those before it; data and metrics depend on system alone.
LAYERS = ["system", "fixed_point", "models", "training", "runs", "paper", "explore"]
MAY_IMPORT = {name: set(LAYERS[:k]) for k, name in enumerate(LAYERS)}
MAY_IMPORT["fixed_point"] = set()  # pure tensors
MAY_IMPORT["data"] = MAY_IMPORT["metrics"] = {"system"}
for _name in ("training", "runs", "paper", "explore"):
    MAY_IMPORT[_name] |= {"data", "metrics"}
# The command line is where the paper's runs are handed to the engine, which does not know them.
DOORS = {"paper_lib/runs/__main__.py": "paper"}


def modules():
    return sorted((ROOT / "paper_lib").rglob("*.py"))


def imported_packages(path):
    """The packages of paper_lib that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "paper_lib" and len(parts) > 1:
                yield parts[1]
            assert parts[0] not in ("bench", "tests"), path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path):
    name = str(path.relative_to(ROOT))
    package = path.relative_to(ROOT / "paper_lib").parts[0]
    if package == "__init__.py":
        assert not list(imported_packages(path)), "the door sign is read, not run"
        return
    allowed = MAY_IMPORT[package] | {package, DOORS.get(name)}
    assert set(imported_packages(path)) <= allowed


def test_every_package_has_its_place():
    packages = {
        path.name for path in (ROOT / "paper_lib").iterdir() if (path / "__init__.py").exists()
    }
    assert packages == set(MAY_IMPORT)


def test_fixed_points_are_found_without_the_rest():
    """A user who wants the solvers alone gets no renderer, no plots and no notebooks."""
    code = (
        "import sys, paper_lib.fixed_point;"
        "print([m for m in ('matplotlib', 'mitsuba', 'papermill', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
