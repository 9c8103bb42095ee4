"""The sections on the state and action vectors: named numbers, their units and what they are."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from vla_ops.recordings.base import Source
from vla_ops.spec.base import Kind, Pair, Resample, Strict, Unit

type Means = Literal["absolute", "delta", "velocity"]

# How many numbers each form of a rotation has.
ROTATION_WIDTHS = {"quaternion_xyzw": 4, "quaternion_wxyz": 4, "rotation_vector": 3, "rotation_rpy": 3, "rotation_6d": 6}

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_]*$")
_GRIPPER_NAME = re.compile(r"grip|claw|finger|jaw", re.IGNORECASE)


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
    written_as: Kind | None = None
    """Rotations only: the form the dataset has them in. `names` are then those of this form. With the recorded form itself, every
    episode begins on the same side: a tool that points down has two rotation vectors."""
    means: Means = "absolute"
    """Actions only. `absolute`: where to be; `delta`: how far to go from where the robot is; `velocity`: how fast to go.

    Only absolute actions are delta-encoded in a delta action space. What the data say is measured and compared with this.
    """
    open_at: Literal["high", "low"] = "high"
    """Grippers only: which end of the range is open. LIBERO's and robomimic's commands are open at -1: `low`."""
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
        self._check_gripper()
        if len(self.each_limits()) not in (0, len(self.names)):
            raise ValueError(f"source {self.source!r}: {len(self.each_limits())} limits for {len(self.names)} names")
        for low, high in self.each_limits():
            if low >= high:
                raise ValueError(f"source {self.source!r}: limits [{low}, {high}] are not [low, high]")
        return self

    @property
    def kind_written(self) -> Kind:
        """What these dimensions are in the dataset."""
        return self.written_as or self.kind

    @property
    def unit_written(self) -> Unit:
        """The unit these dimensions have in the dataset: rotations that are written in another form are in rad, or have no unit."""
        if self.written_as is None:
            return self.unit
        if self.written_as not in ("rotation_vector", "rotation_rpy"):
            return "1"
        return self.unit if self.unit == "deg" else "rad"

    @property
    def width_read(self) -> int:
        """How many numbers are read: those of the recorded form."""
        return len(self.names) if self.written_as is None else ROTATION_WIDTHS[self.kind]

    def _check_gripper(self) -> None:
        if self.open_at != "high" and self.kind != "gripper":
            raise ValueError(f"source {self.source!r}: `open_at` is for grippers, and this is kind {self.kind}")

    def _check_rotation(self) -> None:
        if self.written_as is not None and not {self.kind, self.written_as} <= set(ROTATION_WIDTHS):
            raise ValueError(
                f"source {self.source!r}: `written_as` turns one form of a rotation into another, not {self.kind} into {self.written_as}"
            )
        needed = ROTATION_WIDTHS.get(self.kind_written, len(self.names))
        if len(self.names) != needed:
            raise ValueError(
                f"source {self.source!r}: kind {self.kind_written} needs {needed} names, found {len(self.names)}: {self.names}"
            )
        if self.kind in ("rotation_vector", "rotation_rpy") and self.unit not in ("rad", "deg"):
            raise ValueError(f"source {self.source!r}: kind {self.kind} is in `rad` or `deg`, found unit {self.unit!r}")

    def _check_width(self) -> None:
        if self.joints is not None and len(self.joints) != self.width_read:
            raise ValueError(f"source {self.source!r}: {len(self.joints)} joints selected for {len(self.names)} names {self.names}")
        columns = Source.parse(self.source).columns
        if isinstance(columns, slice) and columns.stop is not None and columns.stop >= 0 and (columns.start or 0) >= 0:
            width = columns.stop - (columns.start or 0)
        elif isinstance(columns, tuple):
            width = len(columns)
        else:
            return
        if width != self.width_read:
            form = f" ({self.width_read} numbers make one {self.kind})" if self.written_as else ""
            raise ValueError(f"source {self.source!r} selects {width} columns but there are {len(self.names)} names: {self.names}{form}")

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
