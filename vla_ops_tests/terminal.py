"""Run `vla-ops` in the process of the test, with the robots and the store of one folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from vla_ops import cli
from vla_ops_tests.episodes.ingesting import ALOHA, write_arm


@dataclass(frozen=True)
class Ran:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Terminal:
    """Runs `vla-ops` in this process, with the robots and the store of one folder."""

    folder: Path
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    # VLA_OPS_HOME, where it is not the folder's `home`.
    home: str = ""

    def __call__(self, *words: str | Path) -> Ran:
        self.patch.setenv("VLA_OPS_ROBOTS", str(self.folder / "robots"))
        self.patch.setenv("VLA_OPS_HOME", self.home or str(self.folder / "home"))
        self.patch.setattr(sys, "argv", ["vla-ops", *map(str, words)])
        self.capture.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = self.capture.readouterr()
        return Ran(int(left.value.code or 0), printed.out, printed.err)


def add_robot(folder: Path, name: str = "arm", recordings: int = 2) -> None:
    """A robot with small recordings and its YAML, in `folder`/robots/`name`."""
    for k in range(recordings):
        write_arm(folder / f"robots/{name}/recordings/{k}.hdf5", seed=k)
    read = {"uri": "recordings", "pattern": "*.hdf5", "format": "hdf5", "source_rate_hz": 20, "settle_s": 0}
    path = folder / f"robots/{name}/defs.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"type": "vla_ops.RobotPipeline", "attributes": {"recordings": read, **ALOHA}}))


def assert_refused(ran: Ran, *words: str) -> None:
    """One message on stderr, an exit code, nothing else."""
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("vla-ops: ")
    assert "Traceback" not in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    missing = [word for word in words if word not in ran.err]
    assert not missing, f"{missing} not in: {ran.err}"
