"""A checkpoint's shapes and arrays: sharded or as numpy, in another dtype, a little at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.checkpoints.integrity import arrays_in, damaged, verify
from vla_ops.checkpoints.layout import Checkpoint
from vla_ops.checkpoints.trees import VALUE, TrainState, filled, leaves_of, train_state_item, without_value
from vla_ops.errors import CheckpointError

if TYPE_CHECKING:
    from jax.sharding import Sharding

_PREFIX = "params/"
# Small arrays are read together.
_TOGETHER = 64 << 20


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of an array, as a checkpoint or a model says."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, array: Any) -> ArraySpec:
        """Of anything with a shape and a dtype."""
        return cls(tuple(array.shape), _name(array.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of it in memory."""
        return math.prod(self.shape) * (2 if self.dtype == "bfloat16" else dtype_named(self.dtype).itemsize)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Wanted:
    """How one array is to be read: its own dtype and numpy unless something else is asked."""

    dtype: str | None = None
    sharding: Sharding | None = None


def read_specs(checkpoint: Checkpoint) -> dict[str, ArraySpec]:
    """Shape and dtype of each parameter by path, read from metadata alone.

    Raise CheckpointError where the metadata cannot be read.
    """
    flat, _ = _flat(checkpoint, _metadata(checkpoint, checkpoint.params))
    return {path: ArraySpec.of(leaf) for path, leaf in flat.items()}


def read_params(
    checkpoint: Checkpoint,
    *,
    paths: Mapping[str, Wanted] | None = None,
    dtype: str | None = None,
    sharding: Sharding | None = None,
    check: bool = True,
) -> dict[str, Any]:
    """Read parameters by path: all of them with this dtype and sharding, or those of `paths`, each with its own.

    Numpy arrays where no sharding is given, else jax.Arrays, of which each process reads its own part. Beside the arrays asked for
    memory holds at most the largest stored one twice, as it is on disk and decoded. `check` compares the files with their checksums first.
    Raise CheckpointError naming the checkpoint and the array for one that is not there, or is damaged.
    """
    metadata = _metadata(checkpoint, checkpoint.params)
    stored, end = _flat(checkpoint, metadata)
    wanted = dict.fromkeys(stored, Wanted(dtype, sharding)) if paths is None else paths
    absent = [path for path in wanted if path not in stored]
    if absent:
        raise CheckpointError("the checkpoint lacks parameters", file=checkpoint, array=", ".join(absent[:5]))
    if check:
        verify(checkpoint, checkpoint.params)
    raw = {f"{_PREFIX}{path}{end}": how for path, how in wanted.items()}
    read = _read_item(checkpoint, checkpoint.params, metadata, raw)
    return {path: read[f"{_PREFIX}{path}{end}"] for path in wanted}


def read_train_state(checkpoint: Checkpoint, like: TrainState, *, check: bool = True) -> TrainState:
    """Restore all that a training needs to go on. `like` says structure, shapes, dtypes, and shardings where it has any.

    Raise CheckpointError, listing everything that differs, for a checkpoint of another model, optimiser, freeze filter or EMA.
    """
    if not checkpoint.can_resume:
        todo = "Use it as `init:` instead: it has parameters, and no optimiser state."
        raise CheckpointError("the checkpoint has no train state to resume from", file=checkpoint, todo=todo)
    expected = dict(leaves_of(train_state_item(like)))
    metadata = _metadata(checkpoint, checkpoint.train_state)
    _require_same(checkpoint, {**expected, **like.served}, {**dict(leaves_of(metadata)), **read_specs(checkpoint)})
    if check:
        verify(checkpoint, checkpoint.train_state)
    read = _read_item(checkpoint, checkpoint.train_state, metadata, {path: _as(leaf) for path, leaf in expected.items()})
    served = read_params(checkpoint, paths={path: _as(leaf) for path, leaf in like.served.items()}, check=check)
    return filled(like, read, served)


def _as(leaf: Any) -> Wanted:
    return Wanted(_name(leaf.dtype), getattr(leaf, "sharding", None))


def _require_same(checkpoint: Checkpoint, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    wrong = [f"{path}: not in the checkpoint" for path in expected if path not in found]
    wrong += [f"{path}: not in the training" for path in found if path not in expected]
    for path in expected.keys() & found.keys():
        want, have = ArraySpec.of(expected[path]), ArraySpec.of(found[path])
        if want != have:
            wrong.append(f"{path}: {have} in the checkpoint, {want} in the training")
    if wrong:
        raise CheckpointError(
            "the checkpoint is not of this training: other model, optimiser, frozen parameters or EMA",
            file=checkpoint,
            found="; ".join(sorted(wrong)[:6]) + (f"; {len(wrong) - 6} more" if len(wrong) > 6 else ""),
            todo="Resume with the recipe in the run's run.json, or start a new run with `init:` of this checkpoint.",
        )


def _read_item(checkpoint: Checkpoint, item: Path, metadata: Any, wanted: Mapping[str, Wanted]) -> dict[str, Any]:
    """Read leaves of an item by their '/'-joined keys, in groups that together are hardly larger than the largest one stored."""
    sizes = {path: ArraySpec.of(leaf).nbytes for path, leaf in leaves_of(metadata) if path in wanted}
    read: dict[str, Any] = {}
    for group in _groups(sizes):
        read |= _read_group(checkpoint, item, metadata, {path: wanted[path] for path in group})
    return read


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    most = max(_TOGETHER, *sizes.values())
    group: list[str] = []
    held = 0
    for path in sorted(sizes, key=lambda path: sizes[path], reverse=True):
        if group and held + sizes[path] > most:
            yield group
            group, held = [], 0
        group.append(path)
        held += sizes[path]
    if group:
        yield group


def _read_group(checkpoint: Checkpoint, item: Path, metadata: Any, wanted: Mapping[str, Wanted]) -> dict[str, Any]:
    import orbax.checkpoint as ocp
    from etils import epath

    asked = _mapped(metadata, lambda path, leaf: leaf if path in wanted else ocp.PLACEHOLDER)
    how = _mapped(metadata, lambda path, _: _restore_args(wanted[path]) if path in wanted else ocp.RestoreArgs())
    try:
        tree = ocp.PyTreeCheckpointHandler().restore(epath.Path(item), args=ocp.args.PyTreeRestore(item=asked, restore_args=how))
    # TensorStore raises ValueError for whatever it cannot decode; Orbax FileNotFoundError for what is gone.
    except (ValueError, OSError) as error:
        why = str(error).splitlines()[0][:300]
        if arrays := arrays_in(item, set()):
            raise damaged(checkpoint, arrays, why) from error
        raise CheckpointError("arrays cannot be read as asked", file=checkpoint, array=", ".join(sorted(wanted)[:4]), found=why) from error
    return {path: leaf for path, leaf in leaves_of(tree) if path in wanted}


def _restore_args(wanted: Wanted) -> Any:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    dtype = None if wanted.dtype is None else dtype_named(wanted.dtype)
    if wanted.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype)
    return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=wanted.sharding, dtype=dtype)


def _flat(checkpoint: Checkpoint, metadata: Any) -> tuple[dict[str, Any], str]:
    """The leaves of a params item by path, and what follows each path there: `/value` or nothing."""
    flat = dict(leaves_of(metadata))
    if not flat or not all(path.startswith(_PREFIX) for path in flat):
        raise CheckpointError(
            "the checkpoint is not of openpi's layout",
            file=checkpoint,
            found=", ".join(sorted(flat)[:3]) or "no array",
            expected="paths that begin with params/",
        )
    flat = {path.removeprefix(_PREFIX): leaf for path, leaf in flat.items()}
    short = without_value(flat)
    return short, "" if short.keys() == flat.keys() else f"/{VALUE}"


def _metadata(checkpoint: Checkpoint, item: Path) -> Any:
    """The tree of an item, whose leaves have a shape and a dtype."""
    import orbax.checkpoint as ocp
    from etils import epath

    try:
        metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(item))
    # The others come of metadata that is JSON, and not that of a tree.
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        why = f"{item.name}: {str(error).splitlines()[0][:300]}"
        raise damaged(checkpoint, _named_arrays(item), why) from error
    return getattr(metadata, "tree", metadata)


def _named_arrays(item: Path) -> list[str]:
    try:
        return arrays_in(item, set())
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        return []


def _mapped(tree: Any, change: Any, prefix: str = "") -> Any:
    if isinstance(tree, Mapping):
        return {key: _mapped(child, change, f"{prefix}/{key}" if prefix else str(key)) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return [_mapped(child, change, f"{prefix}/{k}" if prefix else str(k)) for k, child in enumerate(tree)]
    return None if tree is None else change(prefix, tree)


def dtype_named(name: str) -> Any:
    """NumPy's dtype of this name, or that of ml_dtypes: bfloat16 is not one of NumPy's own."""
    import ml_dtypes
    import numpy as np

    return np.dtype(getattr(ml_dtypes, name, name))


def _name(dtype: Any) -> str:
    import numpy as np

    return np.dtype(dtype).name
