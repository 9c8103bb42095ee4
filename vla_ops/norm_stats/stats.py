"""openpi's norm_stats.json from a LeRobot dataset's number columns, with what it was made from beside it.

`<root>/<version>/norm_stats.json` holds mean, std, q01 and q99 of the state and of the action chunk as the model sees it, and is
read by openpi as it is. `norm_stats.meta.json` beside it names every dimension, its unit, whether it is delta-encoded (and for a
rotation, whether composed or subtracted), what was measured, and what is written instead where a spread is too small to divide by
(see `vla_ops.norm_stats.narrow`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla_ops.embodiment import Embodiment
from vla_ops.errors import StatsMismatchError, StoreError, VlaOpsError
from vla_ops.files import replacing, sweep
from vla_ops.norm_stats.aloha import action_dims_in_pi, action_to_pi, state_to_pi
from vla_ops.norm_stats.chunks import VectorStats, chunk_norm_stats
from vla_ops.norm_stats.columns import read_columns
from vla_ops.norm_stats.narrow import NarrowDimension, find_narrow
from vla_ops.robot import Dimension, RotationGroup, fingerprint, rotation_groups

# Raise when the same dataset and spec would now give other numbers, floors of narrow dimensions included.
STATS_VERSION = 1
STATS_FILE, META_FILE = "norm_stats.json", "norm_stats.meta.json"
_WRITTEN = ("mean", "std", "q01", "q99")
_MEASURED = (*_WRITTEN, "min", "max")


@dataclass(frozen=True)
class Provenance:
    """Everything that determines norm stats, known before a dataset is read."""

    robot: str
    dataset_version: str
    horizon: int
    action_space: Literal["delta", "absolute"]
    # True where an action dimension is delta-encoded.
    delta_mask: tuple[bool, ...]
    state_dims: tuple[Dimension, ...]
    action_dims: tuple[Dimension, ...]
    # None where no rotation is delta-encoded.
    rotation_delta: Literal["composed", "subtracted"] | None = None
    # Whether all numbers are in the space of pi0's base checkpoints, and so are the units (see `vla_ops.norm_stats.aloha`).
    adapt_to_pi: bool = False
    stats_version: int = STATS_VERSION

    @classmethod
    def of(cls, spec: Embodiment, *, robot: str, dataset_version: str) -> Provenance:
        """The provenance that stats of this robot's dataset have."""
        asked = spec.norm_stats
        action_dims = action_dims_in_pi(spec.action_dims) if asked.adapt_to_pi else spec.action_dims
        turns = any(spec.delta_mask[group.start] for group in rotation_groups(spec.action_dims))
        return cls(
            robot=robot,
            dataset_version=dataset_version,
            horizon=asked.action_horizon,
            action_space=asked.action_space,
            delta_mask=spec.delta_mask,
            state_dims=tuple(Dimension(dim.name, dim.unit, dim.kind) for dim in spec.state_dims),
            action_dims=tuple(Dimension(dim.name, dim.unit, dim.kind) for dim in action_dims),
            rotation_delta=asked.rotation_delta if turns else None,
            adapt_to_pi=asked.adapt_to_pi,
        )

    @property
    def delta_rotations(self) -> tuple[RotationGroup, ...]:
        """The rotations of the action whose delta is composed with the state's."""
        groups = rotation_groups(self.action_dims) if self.rotation_delta == "composed" else ()
        return tuple(group for group in groups if self.delta_mask[group.start])

    @property
    def deltas(self) -> tuple[Literal["no", "yes", "composed", "subtracted"], ...]:
        """Of each action dimension whether it is delta-encoded, and of rotations in which way."""
        turning = {k for group in rotation_groups(self.action_dims) for k in range(group.start, group.stop)}
        way = self.rotation_delta or "yes"
        return tuple("no" if not delta else way if k in turning else "yes" for k, delta in enumerate(self.delta_mask))

    @property
    def version(self) -> str:
        """Changes when the dataset, the delta mask, the horizon, or a dimension's name or unit changes, and how its delta is formed."""
        dims = [[[dim.name, dim.unit] for dim in vector] for vector in (self.state_dims, self.action_dims)]
        made_from = [self.robot, self.dataset_version, self.horizon, self.action_space, self.delta_mask, dims]
        # Only where they change a number: other robots' stats keep their versions.
        made_from += [["composed", [astuple(group) for group in self.delta_rotations]]] if self.delta_rotations else []
        made_from += ["adapt_to_pi"] if self.adapt_to_pi else []
        return fingerprint({"norm_stats": self.stats_version, "made_from": made_from})


@dataclass(frozen=True)
class NormStats:
    """Norm stats as measured; `written_numbers` says what goes into the file."""

    state: VectorStats
    # Of the chunk, after the delta transform.
    actions: VectorStats
    provenance: Provenance
    # Episodes of the dataset that were left out because they are for validation.
    held_out: int = 0

    @property
    def version(self) -> str:
        """See Provenance.version."""
        return self.provenance.version

    @property
    def frames(self) -> int:
        """Frames of the dataset that trainings read: `actions.count` is frames x horizon."""
        return self.state.count


def compute_norm_stats(dataset_folder: Path, *, spec: Embodiment) -> NormStats:
    """Compute the norm stats of a LeRobot dataset folder for this robot, reading no image and a bounded amount of memory.

    Raise DatasetError for a folder that is not a whole dataset or has NaN or Inf in it, and SchemaMismatchError, naming the
    dimension and both values, for one whose vectors are not the spec's.
    """
    state_names, action_names = [dim.name for dim in spec.state_dims], [dim.name for dim in spec.action_dims]
    columns = read_columns(dataset_folder, state_names=state_names, action_names=action_names)
    provenance = Provenance.of(spec, robot=columns.robot, dataset_version=columns.version)
    turned = provenance.adapt_to_pi
    try:
        stats = chunk_norm_stats(
            state_to_pi(columns.states) if turned else columns.states,
            action_to_pi(columns.actions) if turned else columns.actions,
            columns.lengths,
            horizon=provenance.horizon,
            delta_mask=provenance.delta_mask,
            delta_rotations=provenance.delta_rotations,
            state_names=state_names,
            action_names=action_names,
        )
    except VlaOpsError as error:
        error.at(file=dataset_folder)
        raise
    return NormStats(stats.state, stats.actions, provenance, columns.held_out)


def narrow_dimensions(stats: NormStats) -> list[NarrowDimension]:
    """Return every dimension whose spread is too small to divide by, with what will be written for it."""
    made = stats.provenance
    return [*find_narrow("state", stats.state, made.state_dims), *find_narrow("actions", stats.actions, made.action_dims)]


def written_numbers(stats: NormStats) -> dict[str, dict[str, list[float]]]:
    """Return what norm_stats.json holds below `norm_stats`: the measured numbers, narrow dimensions widened."""
    made = stats.provenance
    written: dict[str, dict[str, list[float]]] = {}
    for vector, measured, dims in (("state", stats.state, made.state_dims), ("actions", stats.actions, made.action_dims)):
        numbers = {name: getattr(measured, name).tolist() for name in _WRITTEN}
        place = {dim.name: k for k, dim in enumerate(dims)}
        for narrow in narrow_dimensions(stats):
            if narrow.vector == vector:
                for name in ("std", "q01", "q99"):
                    numbers[name][place[narrow.name]] = getattr(narrow.written, name)
        written[vector] = numbers
    return written


def write_norm_stats(root: Path, stats: NormStats) -> Path:
    """Write `root/<version>/` with norm_stats.json and norm_stats.meta.json; return the path of norm_stats.json.

    Nothing is written where the same numbers are there already. Raise StoreError if the store cannot be written.
    """
    target = root / stats.version / STATS_FILE
    if _holds(target, _meta(stats)):
        return target
    sweep(root)
    with replacing(target.parent) as work:
        write_stats_files(work, stats)
    return target


def write_stats_files(folder: Path, stats: NormStats) -> None:
    """Make `folder`, which nobody else reads yet, with norm_stats.json and norm_stats.meta.json."""
    folder.mkdir()
    for name, value in ((STATS_FILE, {"norm_stats": written_numbers(stats)}), (META_FILE, _meta(stats))):
        (folder / name).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _holds(target: Path, meta: dict[str, Any]) -> bool:
    try:
        return _meta(read_norm_stats(target)) == meta
    except (StoreError, StatsMismatchError):
        return False


def _meta(stats: NormStats) -> dict[str, Any]:
    made = stats.provenance
    return {
        "version": stats.version,
        "stats_version": made.stats_version,
        "robot": made.robot,
        "dataset_version": made.dataset_version,
        "frames": stats.frames,
        **({"held_out_episodes": stats.held_out} if stats.held_out else {}),
        "horizon": made.horizon,
        "action_space": made.action_space,
        **({"rotation_delta": made.rotation_delta} if made.rotation_delta else {}),
        **({"adapt_to_pi": True} if made.adapt_to_pi else {}),
        "state": _vector_meta(stats.state, made.state_dims, ["no"] * len(made.state_dims)),
        "actions": _vector_meta(stats.actions, made.action_dims, made.deltas),
        "narrow": [{**asdict(narrow), "widened": narrow.widened, "treatment": narrow.treatment} for narrow in narrow_dimensions(stats)],
    }


def _vector_meta(measured: VectorStats, dims: Sequence[Dimension], deltas: Sequence[str]) -> dict[str, Any]:
    rows = [
        {
            "name": dim.name,
            "unit": dim.unit,
            "kind": dim.kind,
            "delta": {"no": False, "yes": True}.get(delta, delta),
            "measured": {name: float(getattr(measured, name)[k]) for name in _MEASURED},
        }
        for k, (dim, delta) in enumerate(zip(dims, deltas, strict=True))
    ]
    return {"count": measured.count, "dimensions": rows}


def read_norm_stats(path: Path) -> NormStats:
    """Read the norm stats written at `path` (norm_stats.json or its folder).

    Raise StoreError if a file is missing or damaged, StatsMismatchError if the numbers are not those its provenance speaks of.
    """
    folder = path if path.is_dir() else path.parent
    meta = _read_json(folder / META_FILE)
    numbers = _read_json(folder / STATS_FILE)
    try:
        stats = _from_meta(meta)
        found = numbers["norm_stats"]
    except (KeyError, TypeError, IndexError) as error:
        raise StoreError(
            "norm stats are damaged", file=folder, found=repr(error), todo="Delete the folder and compute them again."
        ) from error
    if found != written_numbers(stats):
        raise StatsMismatchError(
            f"the numbers in {STATS_FILE} are not those that {META_FILE} tells of",
            file=folder,
            todo="One of the two was edited or copied from elsewhere: delete the folder and compute them again.",
        )
    return stats


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path.name} is missing", file=path, todo="Compute the norm stats again.") from error
    except ValueError as error:
        raise StoreError(f"not valid JSON: {error}", file=path, todo="Delete the folder and compute the norm stats again.") from error


def _from_meta(meta: dict[str, Any]) -> NormStats:
    rows = {vector: meta[vector]["dimensions"] for vector in ("state", "actions")}
    dims = {vector: tuple(Dimension(row["name"], row["unit"], row["kind"]) for row in rows[vector]) for vector in rows}
    measured = {
        vector: VectorStats(**{n: np.array([row["measured"][n] for row in rows[vector]]) for n in _MEASURED}, count=meta[vector]["count"])
        for vector in rows
    }
    provenance = Provenance(
        robot=meta["robot"],
        dataset_version=meta["dataset_version"],
        horizon=meta["horizon"],
        action_space=meta["action_space"],
        delta_mask=tuple(bool(row["delta"]) for row in rows["actions"]),
        state_dims=dims["state"],
        action_dims=dims["actions"],
        rotation_delta=meta.get("rotation_delta"),
        adapt_to_pi=meta.get("adapt_to_pi", False),
        stats_version=meta["stats_version"],
    )
    return NormStats(measured["state"], measured["actions"], provenance, meta.get("held_out_episodes", 0))


def check_fits(stats: NormStats, spec: Embodiment, *, robot: str | None = None, dataset_version: str | None = None) -> None:
    """Raise StatsMismatchError, naming everything that differs with both values, unless `stats` are for this robot and dataset.

    Robot and dataset are compared where given: stats of one dataset may rightly be used with another of the same robot.
    """
    check_provenance(stats.provenance, spec, robot=robot, dataset_version=dataset_version)


def check_provenance(made: Provenance, spec: Embodiment, *, robot: str | None = None, dataset_version: str | None = None) -> None:
    """What `check_fits` does, for stats of which only the provenance is at hand."""
    wanted = Provenance.of(spec, robot=robot or made.robot, dataset_version=dataset_version or made.dataset_version)
    differing = [(what, there, here) for (what, there), (_, here) in zip(_facts(made), _facts(wanted), strict=True) if there != here]
    if differing:
        raise StatsMismatchError(
            f"norm stats {made.version} are not for this data: {', '.join(what for what, _, _ in differing)}",
            found="; ".join(f"{what} {there}" for what, there, _ in differing),
            expected="; ".join(f"{what} {here}" for what, _, here in differing),
            todo="Compute the norm stats of this dataset, or correct the spec.",
        )


def _facts(made: Provenance) -> Iterator[tuple[str, object]]:
    yield "robot", made.robot
    yield "dataset", made.dataset_version
    yield "action space", made.action_space
    yield "horizon", made.horizon
    yield "adapt_to_pi", made.adapt_to_pi
    yield "rotation delta", made.rotation_delta
    for vector, dims in (("state", made.state_dims), ("action", made.action_dims)):
        yield f"{vector} width", len(dims)
        yield f"{vector} names", [dim.name for dim in dims]
        yield f"{vector} units", [dim.unit for dim in dims]
    yield "delta dimensions", [dim.name for dim, delta in zip(made.action_dims, made.delta_mask, strict=True) if delta]
