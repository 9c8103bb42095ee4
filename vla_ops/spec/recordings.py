"""The sections on what is recorded: where it is, its time, its cameras, its task text."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from vla_ops.recordings.base import Clock, Source
from vla_ops.recordings.partitions import PartitionBy
from vla_ops.spec.base import Resample, Role, Strict

# In `must_say`: a folder of the recording's id, counted from 0.
PLACEHOLDER = re.compile(r"\{(\d+)\}")


class RecordingsSpec(Strict):
    """Where the raw recordings are and how they are read."""

    uri: str
    """Folder of the recordings: a path (relative to this YAML's folder) or any fsspec URI (s3://, gs://, hf://)."""
    pattern: str
    """Glob below the folder, such as `station*/*.mcap`. `**` crosses folders. A folder that matches is one recording."""
    format: Literal["mcap", "hdf5", "zarr", "lerobot"]
    """The reader to use."""
    clock: Clock = "log"
    """MCAP: which stamp is the time of a message: `log` (recorder), `publish` (sender) or `header` (sensor)."""
    times: dict[str, str] = Field(default_factory=dict)
    """HDF5 and Zarr: stream -> dataset of its stamps (s, ms, us or ns); `"*"` for all. Without it, sample k is at k / source_rate_hz."""
    source_rate_hz: float | None = Field(default=None, gt=0)
    """HDF5 and Zarr: the rate they were recorded at. Needed where `times` does not say where their stamps are."""
    truncated: Literal["quarantine", "keep_whole"] = "quarantine"
    """A file that was cut off (power loss): put it in quarantine, or convert the part that is whole."""
    duplicates: Literal["quarantine", "keep"] = "quarantine"
    """A recording with the same bytes as an earlier one: counted twice it would be weighted twice in training."""
    must_say: dict[str, str] = Field(default_factory=dict)
    """What each recording's own metadata must say, such as `{task_name: put_cup}`; one that says otherwise is quarantined.

    `{0}` stands for the first folder of the recording's id, `{1}` for the second, ...: `{task_name: "{0}", station: "{1}"}` holds
    `put_cup/station3/7.mcap` against what it says of itself. A key may be written without what stands before its last dot
    (`task_info.task_name`); `task` is the task text. `vla-ops inspect` shows what a recording says.
    """
    settle_s: float = Field(default=10.0, ge=0)
    """A file changed less than this many seconds ago is still being written and is left alone until it is older."""
    partition_by: PartitionBy = "file"
    """What one partition in Dagster is: a recording (`file`), a `folder` of recordings, or a `day`, the first date in a recording's id.

    From some ten thousand recordings on, `folder` or `day` (docs/scale.md). A change converts nothing again.
    """

    @model_validator(mode="after")
    def _placeholders_are_folders(self) -> Self:
        known = None if "**" in self.pattern else len(PurePosixPath(self.pattern).parent.parts)
        for key, text in self.must_say.items():
            if not key.strip() or not text.strip():
                raise ValueError(f"must_say: {key!r}: {text!r} says nothing; write a key of the recording's metadata and its value")
            if set("{}") & set(PLACEHOLDER.sub("", text)):
                raise ValueError(f"must_say: {key}: {text!r}; in braces stand only numbers: {{0}} is the first folder, {{1}} the second")
            deepest = max(map(int, PLACEHOLDER.findall(text)), default=-1)
            if known is not None and deepest >= known:
                raise ValueError(
                    f"must_say: {key}: {{{deepest}}} is folder number {deepest + 1} of a recording, and {self.pattern!r} has {known}"
                )
        return self


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
    clock_offsets: dict[str, Literal["start"] | float] = Field(default_factory=dict)
    """Streams on another clock: milliseconds to add to their stamps, or `start`: their first sample is when all the others have begun.

    A camera's `time_offset_ms` comes on top of either.
    """
    min_frames: int = Field(default=2, ge=2)
    """Episodes shorter than this are dropped, and said so."""


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
    """Where the task text (the prompt) comes from: exactly one of the three keys."""

    origin: Literal["recording", "folder"] | None = Field(default=None, alias="from")
    """`recording`: the file's own task text; `folder`: the name of the folder it lies in, underscores as spaces."""
    text: str | None = Field(default=None, min_length=1)
    """The same text for every episode."""
    file: str | None = Field(default=None, pattern=r"^[^/]+$")
    """Name of a text file in the recording's folder, such as `inst.txt`: its first line that says something, without a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.text is not None and self.text.startswith("DECIDE"):
            raise ValueError("task: this text is still the one that was suggested; it would be the prompt of every episode")
        if sum(key is not None for key in (self.origin, self.text, self.file)) != 1:
            raise ValueError("task: write either {from: recording}, {from: folder}, {file: inst.txt} or {text: ...}")
        return self
