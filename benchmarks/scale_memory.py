"""Peak memory of a process."""

from __future__ import annotations

from pathlib import Path


def peak_mb(pid: int) -> float:
    """The most memory a process has had, in MB. `getrusage` would count what its parent had before it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))
