"""The gate: the trained model and the exported one on the same observations and noise, number by number; without it there is no export.

In float32 the two differ by rounding alone, so the limit is 1e-4 of the size of the numbers compared (of 1 where they are smaller).
bfloat16 has 8 bits, and the trained model differs from itself by as much when it computes in it: its limit is 5e-2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import ParityError
from vla_ops.export.jax_side import Outputs, jax_layers
from vla_ops.export.plan import Precision
from vla_ops.export.samples import FEWEST, Samples
from vla_ops.export.source import ExportSource
from vla_ops.policies import normalisation_of

LIMITS: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 5e-2}
_NAMES = {"prefix": "prefix embeddings", "velocity": "v_t", "chunk": "sampled chunk"}
type Float64 = npt.NDArray[np.float64]
# What the exported model gives out after each of its layers, by the module's name.
type Layers = Callable[[Samples], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Row:
    """One comparison: the largest difference, the largest number compared, and the limit for their ratio."""

    what: str
    precision: Precision
    error: float
    scale: float
    limit: float

    @property
    def ratio(self) -> float:
        """The difference in units of the numbers' size, or of 1 where they are smaller."""
        return self.error / max(self.scale, 1.0)

    @property
    def passes(self) -> bool:
        """Whether it is within its limit; a difference that is not a number is not."""
        return bool(self.ratio <= self.limit)


@dataclass(frozen=True)
class Joint:
    """The largest difference of one dimension of the sampled actions, in its own unit, and the size of one normalised unit of it."""

    name: str
    unit: str
    error: float
    spread: float
    precision: Precision
    how: str


@dataclass(frozen=True)
class ParityReport:
    """What was compared on what, and how it came out."""

    direction: str
    rows: tuple[Row, ...]
    joints: tuple[Joint, ...]
    origin: str
    places: tuple[str, ...]
    masked: tuple[tuple[str, ...], ...]
    # Tensors of the loaded model that were compared with the file, bit for bit.
    tensors: int
    first_difference: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether all comparisons are within their limits."""
        return bool(self.rows) and all(row.passes for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """As parity.json holds it."""
        rows = [asdict(row) | {"ratio": row.ratio, "passes": row.passes} for row in self.rows]
        return asdict(self) | {"passes": self.passes, "rows": rows}

    def render(self) -> str:
        """The tables as text."""
        lines = [f"{self.direction}: {len(self.places)} observations ({self.origin}), {self.tensors} tensors compared with the file"]
        lines += [f"  {'comparison':<44} {'difference':>11} {'of size':>9} {'ratio':>9}  limit"]
        for row in self.rows:
            said = f"  {row.what + ', ' + row.precision:<44} {row.error:11.2e} {row.scale:9.3g} {row.ratio:9.1e}  {row.limit:.0e}"
            lines.append(said + ("" if row.passes else "  FAILS"))
        for how, precision in dict.fromkeys((joint.how, joint.precision) for joint in self.joints):
            of = [joint for joint in self.joints if (joint.how, joint.precision) == (how, precision)]
            named = ", ".join(f"{joint.name} {joint.error:.1e} {joint.unit}" for joint in of)
            lines.append(f"  largest difference of an action, {how}, {precision}: {named}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def require(self) -> None:
        """Raise ParityError, naming the first layer that disagrees, unless all is within its limits."""
        failed = [row for row in self.rows if not row.passes]
        if not self.rows or len(self.places) < FEWEST:
            raise ParityError("too little was compared", found=f"{len(self.rows)} comparisons, {len(self.places)} observations")
        if failed:
            found = "; ".join(f"{row.what} in {row.precision}: {row.error:.2e} of {row.scale:.3g}" for row in failed[:4])
            raise ParityError(
                f"the models do not compute the same ({self.direction})",
                layer=self.first_difference,
                found=found,
                expected=f"at most {failed[0].limit:.0e} of the numbers' size",
                todo="Nothing was written. A layer that disagrees has a weight in the wrong place, or the two are not of one checkpoint.",
            )


def compare(reference: Outputs, found: Outputs, precision: Precision) -> list[Row]:
    """Compare prefix embeddings, v_t and the sampled chunk."""
    rows = []
    for name, what in _NAMES.items():
        expected, computed = getattr(reference, name), getattr(found, name)
        if expected.shape != computed.shape:
            raise ParityError(f"{what} have another shape", found=computed.shape, expected=expected.shape)
        rows.append(Row(what, precision, *_differ(expected, computed), LIMITS[precision]))
    return rows


def compare_joints(expected: Float64, found: Float64, source: ExportSource, precision: Precision, *, how: str) -> list[Joint]:
    """The largest difference of each dimension of chunks [..., a] in robot units."""
    made, spread = source.stats.provenance, _spread(source)
    dims = [(dim.name, dim.unit) for dim in made.action_dims] if made else [(f"action {k}", "") for k in range(len(spread))]
    errors = np.abs(expected - found).reshape(-1, expected.shape[-1]).max(axis=0)
    return [Joint(name, unit, float(errors[k]), float(spread[k]), precision, how) for k, (name, unit) in enumerate(dims)]


def joint_row(joints: Sequence[Joint], chunk: npt.NDArray[Any]) -> Row:
    """One comparison of all dimensions together, each in units of its own spread, to be held against the limit."""
    worst = max((joint.error / joint.spread for joint in joints), default=float("nan"))
    return Row(f"robot units, {joints[0].how}", joints[0].precision, worst, float(np.abs(chunk).max()), LIMITS[joints[0].precision])


def in_robot_units(chunk: npt.NDArray[Any], source: ExportSource, samples: Samples) -> Float64:
    """A chunk [B, H, action_dim] un-normalised, and absolute where the robot is known."""
    if source.transforms is not None and samples.observation is not None:
        return source.transforms.inverse(chunk, samples.observation)
    width = source.stats.actions.width
    return source.stats.actions.scale(normalisation_of(source.config)).back(np.asarray(chunk[..., :width], np.float64))


def first_difference(source: ExportSource, params: Mapping[str, Any], layers: Layers, samples: Samples, *, limit: float) -> str:
    """The first layer whose output differs by more than the limit, computed one at a time on two of the samples."""
    few = samples.rows(0, 2)
    expected, found = jax_layers(replace(source.config, dtype="float32"), params, few), layers(few)
    worst, where = 0.0, "no layer"
    for name, array in expected.items():
        if name not in found or found[name].shape != array.shape:
            return f"{name}: {found[name].shape if name in found else 'not there'} instead of {array.shape}"
        error, scale = _differ(array, found[name])
        if not error / max(scale, 1.0) <= limit:
            return f"{name}: differs by {error:.2e}, its numbers are up to {scale:.3g}"
        worst, where = max((worst, where), (error / max(scale, 1.0), name))
    return f"none by itself: most in {where}, {worst:.1e} of its numbers' size"


def _differ(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> tuple[float, float]:
    """The largest difference and the largest expected number."""
    return float(np.abs(expected - found).max()), float(np.abs(expected).max())


def _spread(source: ExportSource) -> Float64:
    """How much of each action is one normalised unit."""
    scale = source.stats.actions.scale(normalisation_of(source.config))
    return scale.divisor if scale.by == "z_score" else scale.divisor / 2
