"""The transforms of a mixture: every row goes through those of its own source, whose norm stats and cameras differ.

transforms = MixtureTransforms({"left": compose(...), "right": compose(...)})
inputs = transforms.forward_training(TrainingRow(replace(observation, source=["left", "right", "left"]), actions))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import SchemaMismatchError
from vla_ops.policies.images import CameraSlots
from vla_ops.policies.steps import Float64
from vla_ops.policies.transforms import ModelInputs, Observation, PolicyTransforms, TrainingRow, join_inputs
from vla_ops.robot import Dimension, fingerprint

type Int64 = npt.NDArray[np.int64]
# Of a robot, or of a mixture.
type Transforms = PolicyTransforms | MixtureTransforms


@dataclass(frozen=True, eq=False)
class MixtureTransforms:
    """See PolicyTransforms; an observation says which source it is of. All sources have the mixture's dimensions and one model."""

    of_source: Mapping[str, PolicyTransforms]

    def forward_training(self, row: TrainingRow) -> ModelInputs:
        """See PolicyTransforms. Raise SchemaMismatchError also for an observation of no source, or of one that the mixture lacks."""
        parts = self._parts(row.observation)
        return _joined([(rows, part.forward_training(TrainingRow(seen, _taken(row.actions, rows)))) for rows, part, seen in parts])

    def forward_inference(self, observation: Observation) -> ModelInputs:
        """See PolicyTransforms."""
        return _joined([(rows, part.forward_inference(seen)) for rows, part, seen in self._parts(observation)])

    def inverse(self, actions: npt.ArrayLike, observation: Observation) -> Float64:
        """See PolicyTransforms."""
        predicted = np.asarray(actions, np.float64)
        parts = [(rows, part.inverse(_taken(predicted, rows), seen)) for rows, part, seen in self._parts(observation)]
        rows, values = zip(*parts, strict=True)
        return values[0] if rows[0] is None else np.concatenate(values)[_places(rows)]

    @property
    def state_dims(self) -> tuple[Dimension, ...]:
        """The mixture's."""
        return self._any.state_dims

    @property
    def action_dims(self) -> tuple[Dimension, ...]:
        """The mixture's."""
        return self._any.action_dims

    @cached_property
    def cameras(self) -> CameraSlots:
        """Those that any source has."""
        each = [part.cameras.shown for part in self.of_source.values()]
        shown = tuple((slots[0][0], next((camera for _, camera in slots if camera), None)) for slots in zip(*each, strict=True))
        return CameraSlots(shown, self._any.cameras.size)

    def describe(self) -> dict[str, Any]:
        """See PolicyTransforms."""
        return {"sources": {name: part.describe() for name, part in self.of_source.items()}}

    @property
    def fingerprint(self) -> str:
        """See PolicyTransforms."""
        return fingerprint(self.describe())

    @property
    def _any(self) -> PolicyTransforms:
        return next(iter(self.of_source.values()))

    def _parts(self, observation: Observation) -> Iterator[tuple[Int64 | None, PolicyTransforms, Observation]]:
        """The rows of each source, None for a single one, its transforms, and what it sees."""
        source = observation.source
        if observation.state.ndim == 1 or source is None or isinstance(source, str):
            yield None, self._of(source), observation
            return
        names = np.asarray(source)
        for name in dict.fromkeys(source):
            rows = np.flatnonzero(names == name)
            yield rows, self._of(name), _rows_of(observation, rows)

    def _of(self, source: Any) -> PolicyTransforms:
        if source not in self.of_source:
            said = "an observation of a mixture says which of its sources it is of"
            raise SchemaMismatchError(said, found=source or "none", expected=" or ".join(self.of_source))
        return self.of_source[source]


def _rows_of(observation: Observation, rows: Int64) -> Observation:
    prompt, mask = observation.prompt, observation.delta_mask
    return replace(
        observation,
        state=observation.state[rows],
        images={camera: images[rows] for camera, images in observation.images.items()},
        prompt=prompt if prompt is None or isinstance(prompt, str) else [prompt[k] for k in rows],
        delta_mask=mask if mask is None or mask.ndim == 1 else mask[rows],
        source=None,
    )


def _taken(values: npt.NDArray[Any], rows: Int64 | None) -> npt.NDArray[Any]:
    return values if rows is None else values[rows]


def _joined(parts: list[tuple[Int64 | None, ModelInputs]]) -> ModelInputs:
    rows, inputs = zip(*parts, strict=True)
    if rows[0] is None:
        return inputs[0]
    places = _places(rows)
    return join_inputs(inputs, lambda arrays: np.concatenate(arrays)[places])


def _places(rows: tuple[Int64, ...]) -> Int64:
    """Where in the sources' rows, one source after another, each row of the batch stands."""
    return np.argsort(np.concatenate(rows))
