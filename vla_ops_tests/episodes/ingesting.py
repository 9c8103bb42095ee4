"""Run the whole path on real files in tests: a robot without a YAML, and what a run made of its recordings."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vla_ops.curation import Curation
from vla_ops.episodes.convert import Conversion, ConversionJob, convert_recording
from vla_ops.episodes.ingest import Ingested, ingest
from vla_ops.episodes.plan import quarantine_reasons
from vla_ops.episodes.pool import Event, Lost
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers import workers_of
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot
from vla_ops_tests.recordings.hdf5_files import write_aloha

JOINTS = ["j1", "j2", "j3", "j4", "j5", "j6"]
RATE_HZ = 20
ALOHA: dict[str, Any] = {
    "timeline": {"rate_hz": RATE_HZ},
    "state": [
        {"source": "/observations/qpos[0:6]", "names": JOINTS, "unit": "rad"},
        {"source": "/observations/qpos[6:7]", "names": ["gripper"], "unit": "ratio", "kind": "gripper"},
    ],
    "action": {"from": "next_state"},
    "task": {"text": "pick the cube"},
    "dataset": {"repo_id": "local/arm", "video": {"codec": "h264"}},
}


def robot_at(folder: Path, pattern: str, format: str, *, recordings: Mapping[str, Any] | None = None, **sections: Any) -> Robot:
    """A robot whose recordings are in `folder`: the ALOHA layout unless `sections` say otherwise."""
    read = {"uri": str(folder), "pattern": pattern, "format": format, "settle_s": 0, **(recordings or {})}
    if format in ("hdf5", "zarr") and "times" not in read:
        read.setdefault("source_rate_hz", sections.get("timeline", ALOHA["timeline"])["rate_hz"])
    return Robot("arm", folder, RobotSpec.model_validate({"recordings": read, **ALOHA, **sections}))


def write_arm(path: Path, *, frames: int = 12, cameras: tuple[str, ...] = (), seed: int = 0, **options: Any) -> None:
    """One good ALOHA recording of `frames` steps, small enough to be converted in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aloha(path, frames=frames, cameras=cameras, size=(48, 80), images="jpeg_rows", width=7, seed=seed, **options)


class InThisProcess:
    """Converts one recording after the other; a worker process takes longer to start than most conversions of tests."""

    def convert(
        self, files: Sequence[tuple[RecordingFile, str]], *, spec: RobotSpec, store: Path, curation: Curation | None = None
    ) -> Generator[Event]:
        for file, version in files:
            trims = (curation or Curation()).trims(file.id)
            job = ConversionJob(file.id, file.uri, version, spec, store, uri=file.uri, trims=trims, stamp=file.stamp)
            yield convert_recording(job)


def convert_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that ask for worker processes of this machine convert here."""
    monkeypatch.setattr(
        "vla_ops.episodes.ingest.workers_of",
        lambda conversion, **asked: InThisProcess() if conversion.ray is None else workers_of(conversion, **asked),
    )


@dataclass
class Run:
    """One run of `ingest`: what it did, what it said, and the store after it."""

    ingested: Ingested
    store: RobotStore
    said: list[str] = field(default_factory=list)

    @property
    def states(self) -> dict[str, str]:
        """What became of each recording in this run: converted, quarantined or lost."""
        return {o.recording: _state(o) for o in self.ingested.outcomes}

    def reason(self, recording: str) -> str:
        """Why a recording is in quarantine."""
        (reason,) = [row["reason"] for row in quarantine_reasons(self.store) if row["recording"] == recording]
        return reason

    @property
    def left_behind(self) -> list[str]:
        """Half-written files and folders anywhere in the store."""
        return [str(path) for path in self.store.root.rglob("*") if ".tmp-" in path.name]


def _state(outcome: Conversion | Lost) -> str:
    if isinstance(outcome, Lost):
        return "lost"
    return "converted" if outcome.quarantined is None else "quarantined"


def run(robot: Robot, home: Path, *, say: Callable[[str], None] = lambda _: None, **options: Any) -> Run:
    """Ingest `robot` into a store below `home`, in this process unless `workers` are given; `say` is given each line as it comes."""
    said: list[str] = []
    store = RobotStore.of(robot.name, home)

    def tell(line: str) -> None:
        said.append(line)
        say(line)

    return Run(ingest(robot, store, say=tell, workers=options.pop("workers", None) or InThisProcess(), **options), store, said)


def assert_says(reason: str, *words: str) -> None:
    """A reason holds all these words and names exactly one file."""
    missing = [word for word in words if word not in reason]
    assert not missing, f"{missing} not in: {reason}"
    assert reason.count("[file") == 1, f"not exactly one file is named: {reason}"
