"""Does requirements.lock fit pyproject.toml, and hold everything that pip would install for it?

pip resolves both together, with nothing installed, and says what it would do: it refuses versions
that do not fit, and what it would add to the lock is missing there.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
extras = ",".join(project["optional-dependencies"])
with tempfile.TemporaryDirectory() as folder:
    venv.create(folder, with_pip=True)
    report = Path(folder) / "report.json"
    pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--dry-run"]
    given = ["--report", str(report), "-r", "requirements.lock", f".[{extras}]"]
    if subprocess.run([*pip, *given], cwd=ROOT).returncode:
        sys.exit("requirements.lock and pyproject.toml do not fit: make lock")
    installed = json.loads(report.read_text())["install"]

found = {canonical(item["metadata"]["name"]): item["metadata"]["version"] for item in installed}
del found[canonical(project["name"])]
lines = (ROOT / "requirements.lock").read_text().splitlines()
locked = {canonical(line.partition("==")[0]) for line in lines if not line.startswith("#")}
if missing := set(found) - locked:
    sys.exit(f"requirements.lock lacks {', '.join(sorted(missing))}: make lock")
print(f"requirements.lock holds all {len(found)} packages")
