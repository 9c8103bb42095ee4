"""The weights of a checkpoint as one model.safetensors, array by array: memory holds one of the checkpoint's, and one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.checkpoints.integrity import verify
from vla_ops.checkpoints.layout import Checkpoint
from vla_ops.checkpoints.reading import Wanted, read_params
from vla_ops.errors import CheckpointError
from vla_ops.export.lora import Alphas, merged
from vla_ops.export.plan import Layout, Lora, Piece, Plan, Precision, kept_dtype, stored_name
from vla_ops.export.table import EMBEDDING, TIED, taken
from vla_ops.export.tensors import SafetensorsWriter, TensorSpec

type Read = Callable[[str], Any]


def reader_of(checkpoint: Checkpoint) -> Read:
    """Read a checkpoint's arrays one at a time, as numpy in their stored dtype; its files are compared with their checksums first."""
    verify(checkpoint, checkpoint.params)
    return lambda path: read_params(checkpoint, paths={path: Wanted()}, check=False)[path]


def write_weights(
    target: Path, plan: Plan, read: Read, *, alphas: Alphas, layout: Layout, precision: Precision, lora: Lora = "merge"
) -> None:
    """Write the file, LoRA merged or left out of it. Raise CheckpointError, naming array and layer, for numbers that are not finite."""
    with SafetensorsWriter(target, specs_of(plan, layout, precision), metadata=_aliases(layout)) as writer:
        for piece, tensor in tensors(plan, read, alphas, lora=lora):
            writer.write(stored_name(piece.target, layout), tensor)
        for piece in plan.pieces:
            if piece.rule is None:
                writer.leave_zero(stored_name(piece.target, layout))


def tensors(plan: Plan, read: Read, alphas: Alphas, *, lora: Lora = "merge") -> Iterator[tuple[Piece, np.ndarray]]:
    """Yield every tensor but those of zeros, float32 (or as stored), LoRA merged or left out of them."""
    for source, pieces in plan.by_source().items():
        array = read(source)
        pair = plan.factors.get(source) if lora == "merge" else None
        factors = None if pair is None else (read(pair.a), read(pair.b))
        for layer, of_layer in _by_layer(pieces).items():
            part = array if layer is None else array[layer]
            if pair is not None and factors is not None and layer is not None:
                part = merged(part, factors[0][layer], factors[1][layer], pair, alphas.scale(pair))
            require_finite(part, source, layer)
            for piece in of_layer:
                if piece.rule is not None:
                    yield piece, taken(piece.rule, part)


def specs_of(plan: Plan, layout: Layout, precision: Precision) -> dict[str, TensorSpec]:
    """Shape and dtype of every tensor in the file, by its name there."""
    return {
        stored_name(piece.target, layout): TensorSpec(piece.shape, kept_dtype(piece.target, precision, layout)) for piece in plan.pieces
    }


def _aliases(layout: Layout) -> Mapping[str, str]:
    """The name that is not in the file, as `safetensors.torch.save_model` tells of it."""
    prefix = "model." if layout == "lerobot" else ""
    return {"format": "pt", f"{prefix}{EMBEDDING}": f"{prefix}{TIED}"}


def _by_layer(pieces: list[Piece]) -> dict[int | None, list[Piece]]:
    found: dict[int | None, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.layer, []).append(piece)
    return found


def require_finite(part: Any, source: str, layer: int | None) -> None:
    """Raise CheckpointError, naming array and layer, for numbers that are not finite."""
    # The sum of finite numbers is finite unless they are absurd; a mask of as many bools as numbers is not needed.
    if np.isfinite(np.sum(part, dtype=np.float32)) or np.isfinite(part.astype(np.float32)).all():
        return
    where = source if layer is None else f"{source} of layer {layer}"
    raise CheckpointError("a parameter is not finite", array=where, todo="The training diverged: export an earlier step.")
