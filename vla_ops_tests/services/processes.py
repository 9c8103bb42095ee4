"""Programs that tests start as services: where to get them, free ports, and ending them by the pid that was started."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_NO_NETWORK = re.compile(
    r"dns error|error sending request|failed to fetch|timed out|network is unreachable|connection refused", re.IGNORECASE
)


def program(package: str, name: str, folder: Path) -> str:
    """The path of a program that a package on the index brings, installed into `folder`; skip where there is no network to get it."""
    if shutil.which("uv") is None:
        pytest.skip(f"uv is not there to get {package}")
    for command in (["venv", "--python", sys.executable, str(folder)], ["pip", "install", "--python", str(folder / "bin/python"), package]):
        made = subprocess.run(["uv", *command], capture_output=True, text=True, check=False)
        if made.returncode and _NO_NETWORK.search(made.stderr):
            pytest.skip(f"{package} cannot be fetched: {made.stderr[-300:]}")
        assert made.returncode == 0, made.stderr[-2000:]
    assert (folder / "bin" / name).is_file(), f"{package} brings no {name}"
    return str(folder / "bin" / name)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; held together while they are chosen, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service until the end of the block; what it says goes to `log`."""
    with open(log, "ab") as said:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=1)  # Its data are thrown away: nothing is lost by killing it.
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], log: Path, seconds: float = 240.0) -> None:
    """Ask until the service answers; fail with what it said where it ended or does not answer."""
    deadline = time.monotonic() + seconds
    while not is_ready():
        said = log.read_text(errors="replace")[-2000:]
        assert process.poll() is None, f"the service ended with {process.returncode}: {said}"
        assert time.monotonic() < deadline, f"the service does not answer: {said}"
        time.sleep(0.05)
