"""Does requirements.lock fit pyproject.toml, hold everything that is needed, and work?

pip resolves both together, with nothing installed, and says what it would do: it refuses versions
that do not fit, and what it would add to the lock is missing there. Then the lock is installed, as
the README says, into a fresh environment, in which one notebook renders, trains and draws.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "test_a_notebook_runs_from_top_to_bottom[fig01_overview]"


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command, otherwise):
    """Run a command in the project's folder, or end with these words."""
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(otherwise)


def ensure_complete(python, folder):
    """Let pip resolve the lock and the project together, and find nothing to add."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ",".join(project["optional-dependencies"])
    report = Path(folder) / "report.json"
    pip = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", str(report)]
    fits = "requirements.lock and pyproject.toml do not fit: make lock"
    run(*pip, "-r", "requirements.lock", f".[{extras}]", otherwise=fits)
    installed = json.loads(report.read_text())["install"]
    found = {canonical(item["metadata"]["name"]) for item in installed}
    found -= {canonical(project["name"])}
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {canonical(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    if missing := found - locked:
        sys.exit(f"requirements.lock lacks {', '.join(sorted(missing))}: make lock")
    print(f"requirements.lock holds all {len(found)} packages", flush=True)


def ensure_works(python):
    """Install the lock and the project, and execute a notebook with it."""
    began = time.monotonic()
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "-r", "requirements.lock", otherwise="requirements.lock cannot be installed")
    run(*pip, "--no-deps", "--editable", ".", otherwise="the project cannot be installed on it")
    run(python, "-m", "pip", "check", otherwise="what is installed does not fit together")
    print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
    test = f"tests/test_notebooks.py::{NOTEBOOK}"
    run(python, "-m", "pytest", test, otherwise="what is installed does not work")
    print(f"and tried: {time.monotonic() - began:.0f} s", flush=True)


with tempfile.TemporaryDirectory() as folder:
    venv.create(folder, with_pip=True)
    os.environ["PATH"] = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
    ensure_complete(f"{folder}/bin/python", folder)
    ensure_works(f"{folder}/bin/python")
