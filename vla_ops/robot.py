"""RobotSpec: the one schema of a robot's YAML, and everything positional that is derived from its names.

The delta mask comes from `kind: gripper`, the camera slots from `role`, widths from `names`. Nothing downstream counts
columns by hand. Reading the file, with line numbers, is `vla_ops.robot_file`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vla_ops.recordings.base import OpenOptions, Source
from vla_ops.spec import (
    ROTATION_WIDTHS,
    CameraSpec,
    ChecksSpec,
    ClientSpec,
    ConversionSpec,
    DatasetSpec,
    Kind,
    Means,
    NextState,
    NormStatsSpec,
    QualitySpec,
    ReconvertSpec,
    RecordingsSpec,
    Strict,
    TaskFrom,
    TimelineSpec,
    Trainings,
    TrainingSpec,
    Unit,
    VectorPart,
    unknown_key,
)

# Raise when the same recording and spec would now give other bytes: every episode becomes stale.
# 2: episode.json has each camera's signature and motion.
CONVERSION_VERSION = 2

# What of the recordings' section conversion reads. `must_say` decides which are used, not what they become: see `episodes.plan`.
_RECORDINGS_READ = {"format", "clock", "times", "source_rate_hz", "truncated"}
# What of the video settings a codec uses.
_VIDEO_SETTINGS: dict[str, set[str]] = {"av1": {"codec", "crf", "gop", "preset"}, "h264": {"codec", "crf", "gop"}, "copy": {"codec"}}
# Raise when a codec alone would now give other bytes. h264 1: with one thread on every machine.
_ENCODERS = {"h264": 1}

# What norm_stats.adapt_to_pi turns.
_ALOHA = ([("joint", "rad")] * 6 + [("gripper", "ratio")]) * 2

# openpi's camera slots, in the order its models take them.
SLOTS: dict[str, str] = {"base": "base_0_rgb", "left_wrist": "left_wrist_0_rgb", "right_wrist": "right_wrist_0_rgb"}


@dataclass(frozen=True)
class Dimension:
    """One named number of the state or action vector."""

    name: str
    unit: Unit
    kind: Kind
    limits: tuple[float, float] | None = None
    means: Means = "absolute"
    # Of a gripper: which end of its range is open.
    open_at: Literal["high", "low"] = "high"

    @property
    def is_delta(self) -> bool:
        """Whether a delta action space encodes it against the state: all absolute actions but grippers."""
        return self.kind != "gripper" and self.means == "absolute"


@dataclass(frozen=True)
class RotationGroup:
    """Dimensions [start, stop) that are one rotation together."""

    start: int
    stop: int
    kind: Kind
    unit: Unit


class RobotSpec(Strict):
    """A robot as data: where its recordings are and how they become episodes, datasets and norm stats."""

    recordings: RecordingsSpec
    """Where the raw recordings are."""
    timeline: TimelineSpec
    """The fixed-rate timeline."""
    state: list[VectorPart] = Field(min_length=1)
    """The state vector; order here is order in the vector."""
    action: NextState | list[VectorPart]
    """`{from: next_state}`, or a list like `state` that reads the leader arm's or controller's commands."""
    cameras: dict[str, CameraSpec] = Field(default_factory=dict)
    """Camera name -> source and role."""
    task: TaskFrom
    """Where the task text comes from."""
    dataset: DatasetSpec
    """The dataset made from the episodes."""
    quality: QualitySpec = QualitySpec()
    """Thresholds of the quality report."""
    checks: ChecksSpec = ChecksSpec()
    """What of the dataset is measured and held against this YAML."""
    norm_stats: NormStatsSpec = NormStatsSpec()
    """Action space and horizon of the norm stats."""
    conversion: ConversionSpec = ConversionSpec()
    """Where recordings are converted: on this machine or on a Ray cluster."""
    reconvert: ReconvertSpec | None = None
    """Schedule; the sensor picks up new recordings also without one."""
    client: ClientSpec | None = None
    """Keys of the robot's own program at the policy server, where they are not openpi's."""
    trainings: Trainings = Field(default_factory=dict)
    """Training name -> what is trained on the dataset, and how."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for vector, dims in (("state", self.state_dims), ("action", self.action_dims)):
            doubled = [name for name, count in Counter(d.name for d in dims).items() if count > 1]
            if doubled:
                raise ValueError(f"{vector}: dimension names must differ, {', '.join(doubled)} occurs more than once")
        self._check_means()
        self._check_trainings()
        self._check_composed()
        self._check_delta()
        self._check_adapt_to_pi()
        self._check_sources()
        self._check_cameras()
        self._check_client()
        self._check_clock_offsets()
        self._check_stamps()
        return self

    def _check_stamps(self) -> None:
        read = self.recordings
        has_arrays = read.format in ("hdf5", "zarr")
        if not has_arrays and (read.times or read.source_rate_hz):
            own = "an mcap has its own stamps (see `clock`)" if read.format == "mcap" else "a LeRobot dataset says its own fps"
            raise ValueError(f"recordings: `times` and `source_rate_hz` are for hdf5 and zarr; {own}")
        if has_arrays and not read.times and read.source_rate_hz is None:
            raise ValueError(
                f"recordings: {read.format} needs `source_rate_hz` (the rate it was recorded at) or `times` (where its stamps "
                "are); without either, the timeline's rate would silently stretch or shrink time"
            )
        if read.format != "mcap" and read.clock != "log":
            raise ValueError(f"recordings: `clock: {read.clock}` is for mcap; {read.format} stamps come from `times`")

    def _check_trainings(self) -> None:
        for name, training in self.trainings.items():
            if said := training_problem(name, training, horizon=self.norm_stats.action_horizon):
                raise ValueError(f"trainings: {said}")
            if training.export is not None and training.export.source is not None:
                raise ValueError(f"trainings: {name}.export.source is for mixtures; a robot is its only source: leave it out")

    def _check_means(self) -> None:
        if odd := [dim for dim in self.state_dims if dim.means != "absolute"]:
            raise ValueError(f"state: {odd[0].name} cannot mean a {odd[0].means}; `means` is for actions that were recorded")

    def _check_delta(self) -> None:
        """The models' delta transform subtracts state k from action k, by position: the two must be the same quantity."""
        state = self.state_dims
        names = {dim.name for dim in state}
        for k, (action, delta) in enumerate(zip(self.action_dims, self.delta_mask, strict=True)):
            paired = state[k] if k < len(state) else None
            elsewhere = paired is not None and action.name != paired.name and action.name in names
            if delta and (paired is None or paired.unit != action.unit or elsewhere):
                found = f"state {k}, which is {paired.name} in {paired.unit}" if paired else f"a state of only {len(state)} dimensions"
                raise ValueError(
                    f"action: delta action {k}, {action.name} in {action.unit}, would have {found} subtracted from it "
                    "(models pair them by position); order state and action alike, write `means: delta` or `means: velocity` if that is "
                    "what was recorded, or `norm_stats: {action_space: absolute}`"
                )

    def _check_composed(self) -> None:
        """The delta of a rotation is composed with the state's at the same place: the two must be rotations of one form and unit."""
        if self.norm_stats.rotation_delta == "subtracted":
            return
        mask, state, action = self.delta_mask, self.state_dims, self.action_dims
        unpaired = set(rotation_groups(state)) ^ set(rotation_groups(action))
        for group in sorted(unpaired, key=lambda group: group.start):
            if any(mask[group.start : group.stop]):
                raise ValueError(
                    f"action: the delta of {_at(action, group)} would be composed with {_at(state, group)} of the state (models pair them "
                    "by position), and these are not rotations of one form and unit; write `means: delta` if the action is a step already, "
                    "correct `kind`, order state and action alike, or have "
                    "one written in the form of the other (`written_as`); or else write `norm_stats: {rotation_delta: subtracted}` or "
                    "`{action_space: absolute}`"
                )

    def _check_adapt_to_pi(self) -> None:
        if not self.norm_stats.adapt_to_pi:
            return
        for vector, dims in (("state", self.state_dims), ("action", self.action_dims)):
            for k, (dim, fitting) in enumerate(zip_longest(dims, _ALOHA)):
                if dim is None or (dim.kind, dim.unit) != fitting or dim.means != "absolute" or dim.open_at != "high":
                    wanted = f"an absolute {fitting[0]} in {fitting[1]}" if fitting else "nothing"
                    raise ValueError(
                        "norm_stats: `adapt_to_pi` is for ALOHA: state and action are each twice 6 joints in rad and a gripper in ratio (0 "
                        f"closed, 1 open); {vector} {k} should be {wanted}, found {_described(dim) if dim else 'nothing'}"
                    )

    def _check_sources(self) -> None:
        """A source that is read twice in one vector is a line that was copied and not edited."""
        for vector, parts in (("state", self.state), ("action", [] if isinstance(self.action, NextState) else self.action)):
            first: dict[tuple[str, str], list[str]] = {}
            for part in parts:
                for picked in part.picks():
                    if picked in first:
                        raise ValueError(
                            f"{vector}: {', '.join(part.names)} and {', '.join(first[picked])} both read {picked[1]} of {picked[0]}; "
                            "each number of the robot stands in the vector once"
                        )
                    first[picked] = part.names

    def _check_cameras(self) -> None:
        shown: dict[str, str] = {}
        for name, camera in self.cameras.items():
            other = shown.setdefault(camera.source, name)
            if other != name:
                raise ValueError(f"cameras: {other} and {name} both show {camera.source}; each camera of the robot has a source of its own")
        first: dict[str, str] = {}
        for name, camera in self.cameras.items():
            if not name.replace("_", "").isalnum():
                raise ValueError(f"cameras: the name {name!r} may hold only letters, digits and underscores")
            if camera.role is None:
                continue
            if camera.role in first:
                raise ValueError(
                    f"cameras: {first[camera.role]} and {name} both have role {camera.role}; a model has one slot for each role"
                )
            first[camera.role] = name

    def _check_client(self) -> None:
        if self.client is None:
            return
        for camera in self.client.images:
            if camera not in self.cameras:
                raise ValueError(f"client: {unknown_key(camera, list(self.cameras)).replace('unknown key', 'there is no camera')}")
        if unsent := [name for name, camera in self.cameras.items() if camera.role and name not in self.client.images]:
            raise ValueError(f"client: a model sees {', '.join(unsent)}, and no key is said for it")

    def _check_clock_offsets(self) -> None:
        # Names of streams may hold dots: only the recording tells where they end, so any beginning may be one.
        known = {beginning for source in self._sources for beginning in source.beginnings}
        for stream in self.timeline.clock_offsets:
            if stream not in known:
                mapped = ", ".join(self.streams_mapped)
                raise ValueError(f"timeline.clock_offsets: {stream!r} is not a mapped stream; mapped are: {mapped}")

    @property
    def action_parts(self) -> list[VectorPart]:
        """The parts the action is read from: the state's own for `next_state`."""
        return self.state if isinstance(self.action, NextState) else self.action

    @property
    def state_dims(self) -> list[Dimension]:
        """The state's dimensions in order."""
        return _dimensions(self.state)

    @property
    def action_dims(self) -> list[Dimension]:
        """The action's dimensions in order."""
        return _dimensions(self.action_parts)

    @property
    def delta_mask(self) -> tuple[bool, ...]:
        """True where an action dimension is delta-encoded against the state in a delta action space: all absolute ones but grippers."""
        if self.norm_stats.action_space == "absolute":
            return (False,) * len(self.action_dims)
        return tuple(dim.is_delta for dim in self.action_dims)

    @property
    def delta_rotations(self) -> tuple[RotationGroup, ...]:
        """The rotations of the action whose delta is composed with the state's, in order; `delta_mask` is True for all of each."""
        if self.norm_stats.rotation_delta == "subtracted":
            return ()
        mask = self.delta_mask
        return tuple(group for group in rotation_groups(self.action_dims) if mask[group.start])

    @property
    def camera_slots(self) -> dict[str, str]:
        """Model slot -> camera name, for the cameras that have a role."""
        by_role = {c.role: name for name, c in self.cameras.items() if c.role}
        return {slot: by_role[role] for role, slot in SLOTS.items() if role in by_role}

    @property
    def streams_mapped(self) -> list[str]:
        """Every stream the spec reads, once, in order, as far as the spec alone tells: an MCAP topic that has dots up to the first."""
        has_fields = self.recordings.format == "mcap"
        return list(dict.fromkeys(source.beginnings[0 if has_fields else -1] for source in self._sources))

    @property
    def _sources(self) -> list[Source]:
        parts = [*self.state, *([] if isinstance(self.action, NextState) else self.action)]
        return [Source.parse(text) for text in [*(p.source for p in parts), *(c.source for c in self.cameras.values())]]

    @property
    def open_options(self) -> OpenOptions:
        """What a recording reader needs to know of this spec."""
        return OpenOptions(
            clock=self.recordings.clock,
            rate_hz=self.recordings.source_rate_hz or float(self.timeline.rate_hz),
            time_sources=self.recordings.times,
            allow_truncated=self.recordings.truncated == "keep_whole",
            bgr_sources=frozenset(str(Source.parse(c.source)) for c in self.cameras.values() if c.channels == "bgr"),
            streams=frozenset(map(str, self._sources)),
        )

    @property
    def conversion_fingerprint(self) -> str:
        """Hash of what conversion reads. A camera's name is in it; its role, the repo id, norm stats and trainings are not."""
        read = self.model_dump(mode="json", include={"timeline", "state", "action", "cameras", "task", "quality"})
        for part in [*read["state"], *(read["action"] if isinstance(read["action"], list) else ())]:
            # Claims about the numbers, which conversion does not change.
            del part["means"], part["open_at"]
        for camera in read["cameras"].values():
            del camera["role"]
        read["recordings"] = self.recordings.model_dump(mode="json", include=_RECORDINGS_READ)
        codec = self.dataset.video.codec
        read["video"] = self.dataset.video.model_dump(mode="json", include=_VIDEO_SETTINGS[codec])
        if codec in _ENCODERS:
            read["video"]["encoder"] = _ENCODERS[codec]
        return fingerprint({"conversion": CONVERSION_VERSION, **read})


def training_problem(name: str, training: TrainingSpec, *, horizon: int) -> str | None:
    """Say why a robot, or a mixture, whose norm stats are of chunks of `horizon` steps cannot have this training, or None."""
    if not name.replace("_", "").isalnum() or not name.isascii():
        return f"the name {name!r} may hold only letters, digits and underscores"
    if training.model.action_horizon not in (None, horizon):
        return (
            f"{name} has action_horizon {training.model.action_horizon}, and the norm stats are of chunks of {horizon} "
            "steps; leave it out and set `norm_stats: {action_horizon: ...}` of the robot to what the model needs"
        )
    return None


def rotation_groups(dims: Sequence[Dimension]) -> tuple[RotationGroup, ...]:
    """The rotations among `dims`, in order: parts of a vector hold whole ones."""
    groups, k = [], 0
    while k < len(dims):
        width = ROTATION_WIDTHS.get(dims[k].kind)
        if width:
            groups.append(RotationGroup(k, k + width, dims[k].kind, dims[k].unit))
        k += width or 1
    return tuple(groups)


def fingerprint(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _dimensions(parts: list[VectorPart]) -> list[Dimension]:
    dims: list[Dimension] = []
    for part in parts:
        limits = part.each_limits() or [None] * len(part.names)
        unit, kind = part.unit_written, part.kind_written
        dims += [Dimension(n, unit, kind, lim, part.means, part.open_at) for n, lim in zip(part.names, limits, strict=True)]
    return dims


def _at(dims: Sequence[Dimension], group: RotationGroup) -> str:
    there = dims[group.start : group.stop]
    return ", ".join(f"{dim.name} ({dim.kind} in {dim.unit})" for dim in there) or f"none of the {len(dims)} dimensions"


def _described(dim: Dimension) -> str:
    means = "" if dim.means == "absolute" else f" that means a {dim.means}"
    return f"{dim.name}, a {dim.kind} in {dim.unit}{means}{', open at low' if dim.open_at == 'low' else ''}"
