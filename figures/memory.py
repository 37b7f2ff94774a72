"""How much memory this process has held at most."""

import re
import sys
from pathlib import Path


def peak_mib() -> float:
    """In MiB; NaN where the system does not say, as on Windows.

    `getrusage` on Linux counts the parent's as well, so not that there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) / 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
