"""The weights in a file beside those of a PyTorch model that was loaded from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.errors import CheckpointError

if TYPE_CHECKING:
    import torch


def opened_weights(file: Path) -> Any:
    """A model.safetensors, opened for PyTorch. Raise CheckpointError for one that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError("the weights cannot be read", file=file, found=str(error), todo="Copy or export them again.") from error


def difference(tensor: torch.Tensor, there: torch.Tensor) -> dict[str, str]:
    """What was found and expected if a loaded tensor is not that of its file, bit for bit in the loaded one's dtype; else nothing."""
    import torch

    if tensor.shape == there.shape and torch.equal(tensor.cpu(), there.to(tensor.dtype)):
        return {}
    found, expected = (f"{one.dtype}{list(one.shape)}" for one in (tensor, there))
    return {"found": found, "expected": f"the {expected} of the file"}
