"""Do the lowest and the highest versions that pyproject.toml allows work?

    make versions PYTHON=python3.12

uv resolves versions: the lowest for the oldest Python, whose wheels newer ones do not have, and the
highest for every Python. Those for the given one are installed into fresh environments, which takes
minutes and some 6 GB each while it is there, and have to pass a short suite.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = {"lowest-direct": PYTHONS[:1], "highest": PYTHONS}
SUITE = [
    *(f"tests/test_{name}.py" for name in ("fixed_point", "models", "training", "runs")),
    "tests/test_notebooks.py::test_a_notebook_runs_from_top_to_bottom[fig01_overview]",
]


def resolve(python, resolution, file):
    """Write the versions for a Python into a file, and return how many there are."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header"]
    uv += ["--resolution", resolution, "--python-version", python, "pyproject.toml"]
    subprocess.run([*uv, "--output-file", file], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return len(file.read_text().splitlines())


def passes(python, requirements, folder):
    """Install versions into a fresh environment, and return whether the suite passes there."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = folder / "bin/python"
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", requirements], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", "."], cwd=ROOT, check=True)
    return subprocess.run([inside, "-m", "pytest", *SUITE], cwd=ROOT).returncode == 0


def main(python="python3"):
    asked = "import platform; print(platform.python_version())"
    version = subprocess.check_output([python, "-c", asked], text=True).strip()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        for resolution, pythons in RESOLUTIONS.items():
            for minor in pythons:
                file = Path(name) / f"{resolution}-{minor}.txt"
                number = resolve(minor, resolution, file)
                print(f"Python {minor}, {resolution}: {number} packages go together", flush=True)
                if not version.startswith(f"{minor}."):
                    continue
                began = time.monotonic()
                passed = passes(python, file, Path(name) / resolution)
                failed |= not passed
                said = "the short suite passes" if passed else "THE SHORT SUITE FAILS"
                print(f"Python {version}, {resolution}: {said}, {time.monotonic() - began:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
