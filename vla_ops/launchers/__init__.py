"""Where a job runs: `Launcher` is what all of them do, `launcher_of` the one that a training asks for."""

from __future__ import annotations

from vla_ops.launchers.base import SAVE_LIMIT_S, Job, Launcher
from vla_ops.launchers.local import LocalLauncher

__all__ = ["SAVE_LIMIT_S", "Job", "Launcher", "LocalLauncher", "launcher_of"]


def launcher_of(kind: str) -> Launcher:
    """The launcher that `launcher:` of a training names."""
    return {"local": LocalLauncher}[kind]()
