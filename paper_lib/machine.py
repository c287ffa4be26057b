"""What machine this is, for the record of a measurement."""

import platform
from pathlib import Path


def processor() -> str:
    """The processor's model name, such as "AMD EPYC"; what `platform` knows where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
