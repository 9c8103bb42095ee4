"""Run a program in an environment of its own: readers of other versions of what the project itself uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

# What uv says where there is no way to the packages; anything else is a failure of ours.
_NO_NETWORK = re.compile(
    r"dns error|error sending request|failed to fetch|timed out|network is unreachable|connection refused", re.IGNORECASE
)


def run_isolated(packages: Sequence[str], program: str, *arguments: object, **environment: str) -> None:
    """Run the Python `program` with `packages` installed; skip where there is no network to get them, fail where it fails."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not there to make the environment")
    command = ["uv", "run", "--isolated", "--no-project", "--python", sys.executable, *_with(packages), "python", "-c"]
    made = _run([*command, "pass"], environment)
    if made.returncode and _NO_NETWORK.search(made.stderr):
        pytest.skip(f"{', '.join(packages)} cannot be fetched: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr[-3000:]
    ran = _run([*command, program, *map(str, arguments)], environment)
    assert ran.returncode == 0, ran.stderr[-3000:]


def _with(packages: Sequence[str]) -> list[str]:
    return [part for name in packages for part in ("--with", name)]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
