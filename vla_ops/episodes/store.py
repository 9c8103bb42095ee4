"""The episode folder: `episodes/<recording id>/<k>/` with frames.parquet, one mp4 a camera and episode.json.

A recording's episodes are written together and appear together. `recording.json` beside them says which bytes and which
part of the spec they were made from, so that "is it still true?" is one comparison.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vla_ops.errors import StoreError
from vla_ops.files import write_json
from vla_ops.home import home

FRAMES = "frames.parquet"
EPISODE = "episode.json"
RECORDING = "recording.json"


@dataclass(frozen=True)
class VideoInfo:
    """One camera's mp4: every packet is one frame, frame k at pts k / rate."""

    height: int
    width: int
    # av1, h264, hevc, mjpeg
    codec: str
    pix_fmt: str
    frames: int
    # Settings of the encoder (g, crf, preset, ...); empty where packets were copied.
    encoder: dict[str, Any] = field(default_factory=dict)
    # Of copied video: which parameter sets its packets need. Videos with different ones cannot be joined.
    header: str = ""


@dataclass(frozen=True)
class Finding:
    """One result of a quality check, on one stream or dimension."""

    check: str
    level: Literal["note", "warn", "quarantine"]
    # Stream, camera or dimension by name.
    where: str
    value: float
    limit: float
    message: str


@dataclass(frozen=True)
class EpisodeMeta:
    """What episode.json holds."""

    recording: str
    # Place in the recording, and the recording's own name for it (demo_3, rows 161:279).
    index: int
    name: str
    task: str
    length: int
    rate_hz: int
    state_names: list[str]
    action_names: list[str]
    videos: dict[str, VideoInfo]
    # LeRobot's per-episode statistics: feature -> {min, max, mean, std, count, q01, q10, q50, q90, q99} as nested lists.
    # Vectors: [n]. Images: [3][1][1] in 0..1.
    stats: dict[str, dict[str, Any]]
    # Measured: stream -> {p50, p99, max} of |skew| in ms, gaps, dropped, ...
    measured: dict[str, dict[str, Any]]
    findings: list[Finding]
    # Content hash of the recording and fingerprint of the part of the spec that conversion reads.
    source_version: str
    spec_fingerprint: str
    # Station, operator, collector version ... as the recording says.
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`<recording id>/<k>`."""
        return f"{self.recording}/{self.index}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of episode.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EpisodeMeta:
        """The inverse of `to_json`."""
        videos = {name: VideoInfo(**video) for name, video in value["videos"].items()}
        return cls(**{**value, "videos": videos, "findings": [Finding(**f) for f in value["findings"]]})


@dataclass(frozen=True)
class Episode:
    """An episode on disk. frames.parquet has one row a frame:

    `observation.state`, `action`: fixed_size_list<float32>; `timestamp`: float32, exactly k / rate;
    `skew_ns/<stream>`: int64, sample time minus frame time, for every mapped stream.
    """

    folder: Path
    meta: EpisodeMeta

    @property
    def id(self) -> str:
        """`<recording id>/<k>`."""
        return self.meta.id

    @property
    def version(self) -> str:
        """Changes when the recording or what conversion reads of the spec changes."""
        return f"{self.meta.source_version}-{self.meta.spec_fingerprint}-{self.meta.index}"

    @property
    def frames(self) -> Path:
        """frames.parquet."""
        return self.folder / FRAMES

    def video(self, camera: str) -> Path:
        """The mp4 of a camera."""
        return self.folder / f"{camera}.mp4"


@dataclass(frozen=True)
class RobotStore:
    """The folders of one robot under VLA_OPS_HOME."""

    root: Path

    @classmethod
    def of(cls, robot: str, root: Path | None = None) -> RobotStore:
        """The store of `robot` under `root` (default VLA_OPS_HOME)."""
        return cls((root or home()) / robot)

    @property
    def episodes(self) -> Path:
        """episodes/<recording id>/<k>/."""
        return self.root / "episodes"

    @property
    def quarantine(self) -> Path:
        """quarantine/<recording id>.json."""
        return self.root / "quarantine"

    def recording_folder(self, recording_id: str) -> Path:
        """Where a recording's episodes are."""
        return self.episodes / recording_id

    def quarantine_file(self, recording_id: str) -> Path:
        """Where the reason lies why a recording is not in the dataset."""
        return self.quarantine / f"{recording_id}.json"

    def read_recording(self, recording_id: str) -> dict[str, Any] | None:
        """recording.json of a converted recording, or None."""
        folder = self.recording_folder(recording_id)
        return _read_json(folder / RECORDING, to_delete=folder)

    def read_quarantine(self, recording_id: str) -> dict[str, Any] | None:
        """The quarantine entry of a recording, or None."""
        path = self.quarantine_file(recording_id)
        return _read_json(path, to_delete=path)

    def read_episodes(self, recording_id: str) -> list[Episode]:
        """The episodes of one converted recording, in order."""
        record = self.read_recording(recording_id)
        return [] if record is None else [load_episode(self.recording_folder(recording_id) / str(k)) for k in record["episodes"]]

    def quarantined(self) -> Iterator[dict[str, Any]]:
        """Every quarantine entry, by recording id."""
        for path in sorted(self.quarantine.rglob("*.json")):
            entry = _read_json(path, to_delete=path)
            if entry is not None:
                yield entry

    def write_quarantine(self, recording_id: str, entry: dict[str, Any]) -> None:
        """Write the reason a recording is not in the dataset."""
        write_json(self.quarantine_file(recording_id), {"recording": recording_id, **entry})


def load_episode(folder: Path) -> Episode:
    """Read an episode folder. Raise StoreError if it is not one."""
    value = _read_json(folder / EPISODE, to_delete=folder.parent)
    if value is None:
        raise StoreError("not an episode folder: episode.json is missing", file=folder, todo=_again(folder.parent))
    return Episode(folder, EpisodeMeta.from_json(value))


def _read_json(path: Path, *, to_delete: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"not valid JSON: {error}", file=path, todo=_again(to_delete)) from error


def _again(to_delete: Path) -> str:
    return f"The store was changed or damaged: delete {to_delete}, and the next run converts that recording again."
