"""Where a result comes from: code, machine, versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version

import torch

from paper_lib.runs.store import ROOT
from paper_lib.system.device import device_name


def provenance(config, device: str) -> dict:
    """Return the seed, machine, versions and commit of a run that starts now."""
    versions = {name: version(name) for name in ("torch", "numpy", "mitsuba")}
    return {
        "seed": config.seed,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": commit(),
    }


def commit() -> str:
    """Return the commit whose code runs; with "+" where the code was changed since."""
    try:
        head = _git("rev-parse", "HEAD")
    except OSError:  # no git on this machine
        return "unknown"
    if head.returncode:
        return "unknown"
    changed = _git("status", "--porcelain", "--", "paper_lib").stdout.strip()
    return head.stdout.strip() + ("+" if changed else "")


def _git(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
