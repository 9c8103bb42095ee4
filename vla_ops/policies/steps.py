"""The changes between a robot's numbers and a model's, each with its inverse in one object, so that neither is pushed without the other.

A step sees a chunk of actions [..., H, a] and the robot `Now`, at the moment the chunk begins, as the step before left it. Going back,
the same moments are made again from what the robot measured: nothing is taken from the numbers the model was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.rotations import apply_delta, check_rotations, compose_delta
from vla_ops.errors import RecordingError, SchemaMismatchError
from vla_ops.norm_stats.aloha import action_from_pi, action_to_pi, state_to_pi
from vla_ops.robot import RotationGroup

type Floats = npt.NDArray[np.float32 | np.float64]
type Float64 = npt.NDArray[np.float64]
type Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Now:
    """The robot at the moment a chunk begins: `state` [..., d], and which actions [..., a] are deltas where each row says so itself."""

    state: Floats
    delta_mask: Bools | None = None


class Step(Protocol):
    """One change and its inverse. No method changes its arguments; all results are float64, or the dtype that came in."""

    def state(self, state: Floats) -> Floats:
        """The state [..., d] as the next step sees it."""
        ...

    def encode(self, actions: Floats, now: Now) -> Floats:
        """Actions [..., H, a] towards the model, for training."""
        ...

    def decode(self, actions: Floats, now: Now) -> Floats:
        """The inverse of `encode` for the same `now`: towards the robot."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Everything that determines this step, as JSON."""
        ...


@dataclass(frozen=True)
class Chain:
    """Steps in the order from the robot to the model. Its inverse is theirs in the other order, by construction."""

    steps: tuple[Step, ...] = ()

    def push(self, step: Step) -> Chain:
        """Add a step, and with it its inverse, on the model's side; return the longer chain."""
        return Chain((*self.steps, step))

    def state(self, now: Now) -> Floats:
        """The state after all steps."""
        return self._moments(now)[-1].state

    def encode(self, actions: Floats, now: Now) -> Floats:
        """Actions [..., H, a] of the robot as the model is to give them."""
        for step, moment in zip(self.steps, self._moments(now), strict=False):
            actions = step.encode(actions, moment)
        return actions

    def decode(self, actions: Floats, now: Now) -> Floats:
        """The inverse of `encode`."""
        for step, moment in reversed(list(zip(self.steps, self._moments(now), strict=False))):
            actions = step.decode(actions, moment)
        return actions

    def describe(self) -> list[Mapping[str, Any]]:
        """Everything that determines the chain, as JSON."""
        return [{"step": type(step).__name__, **step.describe()} for step in self.steps]

    def _moments(self, now: Now) -> list[Now]:
        """`now` before each step, and after the last."""
        moments = [now]
        for step in self.steps:
            moments.append(replace(moments[-1], state=step.state(moments[-1].state)))
        return moments


@dataclass(frozen=True)
class AdaptToPi:
    """ALOHA's numbers in the space of pi0's base checkpoints (openpi's `adapt_to_pi`): the very functions the norm stats were made with."""

    def state(self, state: Floats) -> Float64:
        """See Step."""
        return state_to_pi(state)

    def encode(self, actions: Floats, now: Now) -> Float64:  # noqa: ARG002
        """See Step."""
        return action_to_pi(actions)

    def decode(self, actions: Floats, now: Now) -> Float64:  # noqa: ARG002
        """See Step."""
        return action_from_pi(actions)

    def describe(self) -> Mapping[str, Any]:
        """See Step."""
        return {}


@dataclass(frozen=True)
class DeltaActions:
    """Actions as seen from the state at the chunk's beginning, where `mask` [a] is True: subtracted, or for `rotations` composed.

    openpi's DeltaActions writes into the actions it is given, which turns data that are read twice into deltas of deltas; and it
    subtracts the numbers of rotations, which are no differences of anything (openpi #750).
    """

    names: tuple[str, ...]
    mask: tuple[bool, ...]
    rotations: tuple[RotationGroup, ...] = ()

    def state(self, state: Floats) -> Floats:
        """See Step."""
        return state

    def encode(self, actions: Floats, now: Now) -> Float64:
        """See Step."""
        mask = self._mask(now)
        deltas = np.where(mask, actions - _reference(now.state, actions), actions)
        for group, rows, place in self._turned(mask, actions):
            state = _of_each_row(now.state, group, actions)[rows]
            wanted = actions[..., place][rows].astype(np.float64)
            self._check(wanted, group, "action")
            self._check(state, group, "state")
            deltas[..., place][rows] = compose_delta(wanted, state, group.kind, group.unit)
        return deltas

    def decode(self, actions: Floats, now: Now) -> Float64:
        """See Step."""
        mask = self._mask(now)
        absolute = np.where(mask, actions + _reference(now.state, actions), actions)
        for group, rows, place in self._turned(mask, actions):
            state = _of_each_row(now.state, group, actions)[rows]
            self._check(state, group, "state")
            absolute[..., place][rows] = self._applied(actions[..., place][rows].astype(np.float64), state, group)
        return absolute

    def describe(self) -> Mapping[str, Any]:
        """See Step."""
        rotations = [{"names": list(self._names(group)), "kind": group.kind, "unit": group.unit} for group in self.rotations]
        return {"dimensions": [name for name, delta in zip(self.names, self.mask, strict=True) if delta], "composed": rotations}

    def _mask(self, now: Now) -> Bools:
        """[a], or [..., 1, a] where each row says it itself."""
        if now.delta_mask is None:
            return np.array(self.mask)
        if now.delta_mask.shape[-1] != len(self.mask):
            raise SchemaMismatchError(
                "a delta mask does not fit the actions", found=f"{now.delta_mask.shape[-1]} entries", expected=f"{len(self.mask)} actions"
            )
        # The spec's own mask is checked: only there is the state at the same place the same quantity in the same unit.
        if (more := now.delta_mask & ~np.array(self.mask)).any():
            called = self.names[int(np.argwhere(more)[0][-1])]
            raise SchemaMismatchError(
                "a row says that an action is a delta which is none in the robot's YAML",
                dimension=called,
                found="delta",
                expected="absolute",
                todo="Correct the row's mask, or `kind`, `means` and norm_stats.action_space in the YAML.",
            )
        for group in self.rotations:
            turned = now.delta_mask[..., group.start : group.stop]
            if (turned.any(axis=-1) != turned.all(axis=-1)).any():
                called = ", ".join(self._names(group))
                raise SchemaMismatchError("a rotation is delta-encoded in part", dimension=called, found=turned, expected="all or none")
        return now.delta_mask[..., None, :]

    def _turned(self, mask: Bools, actions: Floats) -> list[tuple[RotationGroup, Bools, slice]]:
        """Each rotation with the rows [..., H] in which it is a delta, and its place. In others the numbers may be padding."""
        rows = [(group, np.broadcast_to(mask[..., group.start], actions.shape[:-1])) for group in self.rotations]
        return [(group, row, slice(group.start, group.stop)) for group, row in rows if row.any()]

    def _names(self, group: RotationGroup) -> tuple[str, ...]:
        return self.names[group.start : group.stop]

    def _check(self, rows: Float64, group: RotationGroup, vector: str) -> None:
        try:
            check_rotations(rows, group.kind, self._names(group), vector)
        except RecordingError as error:
            where = {key: value for key, value in error.where.items() if key != "sample"}
            raise SchemaMismatchError(error.what, found=error.found, expected=error.expected, todo=error.todo, **where) from error

    def _applied(self, deltas: Float64, state: Float64, group: RotationGroup) -> Float64:
        try:
            # Two columns of a matrix that are zero or parallel give NaN, which whoever sends actions refuses by name.
            with np.errstate(divide="ignore", invalid="ignore"):
                return apply_delta(deltas, state, group.kind, group.unit)
        except ValueError as error:
            raise SchemaMismatchError(
                f"the model's numbers are no {group.kind}",
                dimension=", ".join(self._names(group)),
                found=str(error),
                expected="a length > 0",
            ) from error


def _reference(state: Floats, actions: Floats) -> Float64:
    """The state [..., 1, a] at the actions' places, 0 where the state has no such place."""
    width = min(state.shape[-1], actions.shape[-1])
    reference = np.zeros((*state.shape[:-1], 1, actions.shape[-1]))
    reference[..., 0, :width] = state[..., :width]
    return reference


def _of_each_row(state: Floats, group: RotationGroup, actions: Floats) -> Float64:
    """A rotation of the state for each row of the chunk, [..., H, w]."""
    there = state[..., None, group.start : group.stop].astype(np.float64)
    return np.broadcast_to(there, (*actions.shape[:-1], group.stop - group.start))


@dataclass(frozen=True)
class Pad:
    """Zeros behind a vector up to the model's `action_dim`, and away again."""

    width: int
    action_width: int

    def state(self, state: Floats) -> Floats:
        """See Step."""
        return _padded(state, self.width)

    def encode(self, actions: Floats, now: Now) -> Floats:  # noqa: ARG002
        """See Step."""
        return _padded(actions, self.width)

    def decode(self, actions: Floats, now: Now) -> Floats:  # noqa: ARG002
        """See Step. What the model says in padded dimensions means nothing: it was trained to say 0 there."""
        return actions[..., : self.action_width]

    def describe(self) -> Mapping[str, Any]:
        """See Step."""
        return {"width": self.width, "action_width": self.action_width}


def _padded(vectors: Floats, width: int) -> Floats:
    return np.pad(vectors, [(0, 0)] * (vectors.ndim - 1) + [(0, width - vectors.shape[-1])])
