"""`python -m vla_ops.launchers.with_parent PID COMMAND...` becomes the command, which gets SIGTERM when its parent PID dies.

A launcher that is killed cannot stop what it started. So the kernel does: the trainer saves a checkpoint and ends, and is not left on
a GPU where nobody sees it. Linux only; elsewhere the command is left running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        # It died before it could be watched.
        sys.exit(128 + signal.SIGTERM)
    try:
        os.execvp(command[0], command)  # noqa: S606 - a shell would not pass signals on
    except OSError as error:
        sys.stderr.write(f"vla-ops: {command[0]} cannot be started: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
