"""The sections of a robot's YAML, each a frozen model with a described field, checked where one section alone can tell.

`vla_ops.robot` puts them together, checks across them and derives everything positional.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from vla_ops.recordings.base import Clock, Source

type Kind = Literal[
    "joint", "gripper", "position", "quaternion_xyzw", "quaternion_wxyz",
    "rotation_vector", "rotation_rpy", "rotation_6d", "velocity", "other",
]  # fmt: skip
type Unit = Literal["rad", "deg", "m", "mm", "rad/s", "m/s", "N", "Nm", "px", "ratio", "1"]
type Resample = Literal["nearest", "hold", "linear"]
type Level = Literal["ignore", "note", "warn", "quarantine"]
# A list rather than a tuple: Dagster cannot draw a sample of a tuple's JSON schema.
type Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
type Role = Literal["base", "left_wrist", "right_wrist"]

# How many numbers each form of a rotation has.
ROTATION_WIDTHS = {"quaternion_xyzw": 4, "quaternion_wxyz": 4, "rotation_vector": 3, "rotation_rpy": 3, "rotation_6d": 6}

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_]*$")
_GRIPPER_NAME = re.compile(r"grip|claw|finger|jaw", re.IGNORECASE)


class Strict(BaseModel):
    """Refuse unknown keys and say which known one is nearest."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields and not _is_alias(cls, key):
                    known = [f.alias or n for n, f in cls.model_fields.items()]
                    raise PydanticCustomError("unknown_key", "{said}", {"said": unknown_key(str(key), known), "key": str(key)})
        return data


def _is_alias(model: type[BaseModel], key: str) -> bool:
    return any(field.alias == key for field in model.model_fields.values())


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that is not in the schema."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


class RecordingsSpec(Strict):
    """Where the raw recordings are and how they are read."""

    uri: str
    """Folder of the recordings: a path (relative to this YAML's folder) or any fsspec URI (s3://, gs://, hf://)."""
    pattern: str
    """Glob below the folder, such as `station*/*.mcap`. `**` crosses folders. A folder that matches is one recording."""
    format: Literal["mcap", "hdf5", "zarr"]
    """The reader to use."""
    clock: Clock = "log"
    """MCAP: which stamp is the time of a message: `log` (recorder), `publish` (sender) or `header` (sensor)."""
    times: dict[str, str] = {}
    """HDF5 and Zarr: stream -> dataset of its stamps (s, ms, us or ns); `"*"` for all. Without it, sample k is at k / source_rate_hz."""
    source_rate_hz: float | None = Field(default=None, gt=0)
    """HDF5 and Zarr without stamps: the rate they were recorded at. Default: the timeline's rate."""
    truncated: Literal["quarantine", "keep_whole"] = "quarantine"
    """A file that was cut off (power loss): put it in quarantine, or convert the part that is whole."""
    duplicates: Literal["quarantine", "keep"] = "quarantine"
    """A recording with the same bytes as an earlier one: counted twice it would be weighted twice in training."""
    settle_s: float = Field(default=10.0, ge=0)
    """A file changed less than this many seconds ago is still being written and is left alone until it is older."""


class TimelineSpec(Strict):
    """The one fixed-rate timeline all streams are brought to. Frame k is at exactly k / rate_hz."""

    rate_hz: int = Field(gt=0, le=1000)
    """Frames per second of the dataset. An integer: LeRobot's fps is one."""
    numbers: Resample = "linear"
    """Numbers between samples: `linear` (angles unwrapped, rotations slerped), `hold` the last, or `nearest`."""
    images: Literal["nearest", "hold"] = "nearest"
    """Which image belongs to a frame: the `nearest` in time, or the last one before it (`hold`: what a policy would have seen)."""
    max_skew_ms: float = Field(default=50.0, gt=0)
    """How far from its frame a sample may be. For `linear`: how far the nearer of the two neighbours may be."""
    max_gap_ms: float = Field(default=200.0, gt=0)
    """A hole between two samples of a stream that is longer than this is a gap."""
    on_gap: Literal["quarantine", "split"] = "quarantine"
    """What a gap does: put the recording in quarantine, or end the episode before it and begin another after it."""
    on_clock_jump: Literal["quarantine", "split"] = "quarantine"
    """What a clock that jumps back does: quarantine, or begin another episode at the jump."""
    clock_offsets: dict[str, Literal["start"] | float] = {}
    """Streams on another clock: milliseconds to add to their stamps, or `start`: their first sample is when all the others have begun.

    A camera's `time_offset_ms` comes on top of either.
    """
    min_frames: int = Field(default=2, ge=2)
    """Episodes shorter than this are dropped, and said so."""


class VectorPart(Strict):
    """Some dimensions of the state or action vector, in the order they stand in it."""

    source: str
    """STREAM, STREAM.field, STREAM[0:6]: what to read."""
    names: list[str] = Field(min_length=1)
    """One name a dimension. Everything later speaks of dimensions by these names."""
    unit: Unit
    """Unit the recording is in. `rad` and `deg` are unwrapped when interpolated."""
    kind: Kind = "joint"
    """What these dimensions are. `gripper` stays absolute in a delta action space.

    Rotations are interpolated as rotations (slerp) and written so that they do not jump from one frame to the next:
    `quaternion_xyzw` and `quaternion_wxyz` (4 names): unit quaternions, by where w stands;
    `rotation_vector` (3 names, rad or deg): the axis times the angle, as UMI, UR and SciPy's `as_rotvec` have it;
    `rotation_rpy` (3 names, rad or deg): roll, pitch, yaw about the fixed axes x, then y, then z (SciPy's `xyz`);
    `rotation_6d` (6 names): the first two columns of the rotation matrix, one after the other.
    """
    joints: list[str] | None = None
    """Select by the names the messages carry instead of by column, whatever order they come in."""
    limits: list[Pair] | Pair | None = None
    """[low, high] of each dimension (or one pair for all) in `unit`: values outside are reported."""
    numbers: Resample | None = None
    """Overrides timeline.numbers for these dimensions."""

    @field_validator("source")
    @classmethod
    def _parses(cls, text: str) -> str:
        Source.parse(text)
        return text

    @field_validator("kind", mode="before")
    @classmethod
    def _says_which_rotation(cls, kind: Any) -> Any:
        if kind == "rotation":
            raise ValueError(
                "kind 'rotation' does not say which numbers these are; write `rotation_vector` (axis times angle), "
                "`rotation_rpy` (roll, pitch, yaw) or `rotation_6d` (two columns of the matrix)"
            )
        return kind

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.names:
            if not _NAME.match(name):
                raise ValueError(f"names: {name!r} may hold only letters, digits and underscores")
            if _GRIPPER_NAME.search(name) and self.kind != "gripper":
                raise ValueError(
                    f"{name!r} of source {self.source!r} looks like a gripper but is not marked as one (kind: {self.kind}); unmarked it "
                    f"would be delta-encoded. Give it its own entry with `kind: gripper` (slice the source, e.g. {self.source}[6:7])"
                )
        self._check_width()
        self._check_rotation()
        if len(self.each_limits()) not in (0, len(self.names)):
            raise ValueError(f"source {self.source!r}: {len(self.each_limits())} limits for {len(self.names)} names")
        for low, high in self.each_limits():
            if low >= high:
                raise ValueError(f"source {self.source!r}: limits [{low}, {high}] are not [low, high]")
        return self

    def _check_rotation(self) -> None:
        needed = ROTATION_WIDTHS.get(self.kind, len(self.names))
        if len(self.names) != needed:
            raise ValueError(f"source {self.source!r}: kind {self.kind} needs {needed} names, found {len(self.names)}: {self.names}")
        if self.kind in ("rotation_vector", "rotation_rpy") and self.unit not in ("rad", "deg"):
            raise ValueError(f"source {self.source!r}: kind {self.kind} is in `rad` or `deg`, found unit {self.unit!r}")

    def _check_width(self) -> None:
        if self.joints is not None and len(self.joints) != len(self.names):
            raise ValueError(f"source {self.source!r}: {len(self.joints)} joints selected for {len(self.names)} names {self.names}")
        columns = Source.parse(self.source).columns
        if isinstance(columns, slice) and columns.stop is not None and columns.stop >= 0 and (columns.start or 0) >= 0:
            width = columns.stop - (columns.start or 0)
        elif isinstance(columns, tuple):
            width = len(columns)
        else:
            return
        if width != len(self.names):
            raise ValueError(f"source {self.source!r} selects {width} columns but there are {len(self.names)} names: {self.names}")

    def picks(self) -> list[tuple[str, str]]:
        """What is read, as far as the text tells: (stream and field, which of its columns or joints)."""
        source = Source.parse(self.source)
        columns, whole = source.columns, str(replace(source, columns=None))
        if self.joints is not None:
            return [(whole, f"joint {joint}") for joint in self.joints]
        if isinstance(columns, slice) and columns.stop is not None and columns.stop > 0:
            return [(whole, f"column {k}") for k in range(columns.start or 0, columns.stop)]
        return [(whole, f"column {k}") for k in columns] if isinstance(columns, tuple) else [(whole, "all that follows")]

    def each_limits(self) -> list[tuple[float, float]]:
        """[low, high] for every name; an empty list where no limits are given."""
        if self.limits is None:
            return []
        pairs = [limit for limit in self.limits if isinstance(limit, list)]
        single = [limit for limit in self.limits if not isinstance(limit, list)]
        return [(low, high) for low, high in pairs or [single] * len(self.names)]


class NextState(Strict):
    """The action is the state some steps later: for recordings without commands."""

    origin: Literal["next_state"] = Field(alias="from")
    """`next_state`: action k = state k + steps; the last `steps` frames have no action and are dropped."""
    steps: int = Field(default=1, ge=1)
    """How many frames ahead."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class CameraSpec(Strict):
    """One camera of the dataset."""

    source: str
    """Topic, attachment, dataset or array of the images."""
    role: Role | None = None
    """Which of the model's camera slots it fills. Without a role it is in the dataset but no pi0 model sees it."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Channel order of *raw* images as stored. OpenCV collectors store bgr: faces look blue."""
    time_offset_ms: float = 0.0
    """Constant latency to add to this camera's stamps."""

    @field_validator("source")
    @classmethod
    def _parses(cls, text: str) -> str:
        Source.parse(text)
        return text


class TaskFrom(Strict):
    """Where the task text (the prompt) comes from: exactly one of the two keys."""

    origin: Literal["recording", "folder"] | None = Field(default=None, alias="from")
    """`recording`: the file's own task text; `folder`: the name of the folder it lies in, underscores as spaces."""
    text: str | None = Field(default=None, min_length=1)
    """The same text for every episode."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.text is not None and self.text.startswith("DECIDE"):
            raise ValueError("task: this text is still the one that was suggested; it would be the prompt of every episode")
        if (self.origin is None) == (self.text is None):
            raise ValueError("task: write either {from: recording}, {from: folder} or {text: ...}")
        return self


class VideoSpec(Strict):
    """How camera images are stored."""

    codec: Literal["av1", "h264", "copy"] = "av1"
    """`av1` and `h264` encode; `copy` keeps the recorded JPEG packets bit for bit (larger files, no generation loss)."""
    crf: int = Field(default=30, ge=0, le=63)
    """Quality: lower is better and larger. 30 is LeRobot's default for AV1."""
    gop: int = Field(default=2, ge=1)
    """Frames from one keyframe to the next: 2 makes random access cheap (LeRobot's default)."""
    preset: int = Field(default=12, ge=0, le=13)
    """SVT-AV1 speed preset; LeRobot's default. H.264 always uses `veryfast`."""


class Threshold(Strict):
    """One quality check: what crossing `limit` does to the episode."""

    level: Level
    """`ignore`, `note` (in the report), `warn` (the asset check warns) or `quarantine` (the episode is not in the dataset)."""
    limit: float
    """In the unit that the check's name ends with."""


class QualitySpec(Strict):
    """Thresholds of the quality report. A value *above* the limit (below, for `_min_`) triggers the level."""

    nonfinite_values: Threshold = Threshold(level="quarantine", limit=0)
    """NaN or Inf in state or action, count per dimension."""
    outside_limits_values: Threshold = Threshold(level="warn", limit=0)
    """Values outside a dimension's `limits`, count per dimension."""
    jump_sigma: Threshold = Threshold(level="warn", limit=20)
    """Largest step between two frames of a dimension over the robust spread of its steps, for joints and positions."""
    frozen_joint_s: Threshold = Threshold(level="note", limit=10)
    """Longest time in which a state dimension does not change at all while another one moves."""
    frozen_camera_s: Threshold = Threshold(level="warn", limit=1)
    """Longest time in which a camera shows exactly the same image."""
    black_camera_fraction: Threshold = Threshold(level="quarantine", limit=0.5)
    """Fraction of a camera's sampled images that are black (mean below 4/255)."""
    dropped_fraction: Threshold = Threshold(level="warn", limit=0.1)
    """Fraction of a camera's expected images that never arrived (from its own median rate)."""
    duplicated_fraction: Threshold = Threshold(level="note", limit=0.5)
    """Fraction of frames that repeat the previous frame's image because the camera is slower than the timeline."""
    skew_p99_ms: Threshold = Threshold(level="note", limit=25)
    """99th percentile of |sample time - frame time| of a stream."""
    gripper_span_min_ratio: Threshold = Threshold(level="note", limit=0.02)
    """Range a gripper moves through over its `limits` (or over 1): below it, it never really opens or closes."""


class DatasetSpec(Strict):
    """The dataset made from the episodes."""

    repo_id: str
    """Name on the Hugging Face Hub, `owner/name`; also the dataset's name locally."""
    formats: list[Literal["lerobot_v3.0"]] = ["lerobot_v3.0"]
    """Which views to make."""
    video: VideoSpec = VideoSpec()
    """Video settings."""
    licence: str = "other"
    """Licence in the dataset card, as an SPDX id or `other`."""

    @field_validator("repo_id")
    @classmethod
    def _hub_accepts(cls, repo_id: str) -> str:
        # The Hub's own rules (huggingface_hub.utils.validate_repo_id), without importing it on the path that loads definitions.
        name = repo_id.split("/")
        if len(name) != 2 or not all(re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?", part) for part in name):
            raise ValueError(
                f"repo_id {repo_id!r}: the Hub takes `owner/name` of letters, digits, '-', '_', '.', not starting or ending with '-' or '.'"
            )
        if "--" in repo_id or ".." in repo_id or repo_id.endswith(".git") or any(len(p) > 96 for p in name):
            raise ValueError(f"repo_id {repo_id!r}: the Hub refuses '--', '..', a name ending in '.git' and names over 96 characters")
        return repo_id


class NormStatsSpec(Strict):
    """What the action chunk looks like when the model sees it."""

    action_space: Literal["delta", "absolute"] = "delta"
    """`delta`: actions minus the current state, grippers excepted (openpi's DeltaActions)."""
    action_horizon: int = Field(default=50, ge=1)
    """Steps in a chunk: 50 for pi0's base checkpoints, 10 for libero and droid ones."""


class ReconvertSpec(Strict):
    """When to convert new recordings without being asked."""

    cron: str
    """Five-field cron expression, in `timezone`."""
    timezone: str = "UTC"
    """IANA name of the time zone the cron is in."""

    @field_validator("cron")
    @classmethod
    def _parses(cls, cron: str) -> str:
        from croniter import croniter

        if len(cron.split()) != 5 or not croniter.is_valid(cron):
            raise ValueError(f"cron {cron!r} does not parse; five fields, e.g. '0 2 * * *' for 02:00 every night")
        return cron

    @field_validator("timezone")
    @classmethod
    def _exists(cls, timezone: str) -> str:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            near = difflib.get_close_matches(timezone, sorted(available_timezones()), n=1)
            raise ValueError(f"timezone {timezone!r} does not exist" + (f"; did you mean {near[0]!r}?" if near else "")) from error
        return timezone
