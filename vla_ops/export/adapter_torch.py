"""The adapter of an export on its PyTorch model, by PEFT: added, and every tensor compared with the file, which PEFT only warns of."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.errors import CheckpointError, ParityError
from vla_ops.export.adapter import CONFIG, PREFIX, WEIGHTS
from vla_ops.policies.torch_weights import opened_weights

if TYPE_CHECKING:
    import torch

_NAME = "default"


def require_peft() -> None:
    """Raise CheckpointError, saying how to install it, where there is no PEFT."""
    if importlib.util.find_spec("peft") is None:
        todo = "Install it: uv sync --extra policies. Or export with --lora merge, which needs nothing more."
        raise CheckpointError("a LoRA adapter needs PEFT, which is not installed", todo=todo)


def adapter_config(folder: Path) -> Any:
    """PEFT's configuration of the adapter. Raise CheckpointError for one that is none or damaged."""
    require_peft()
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        todo = "Export the checkpoint again."
        raise CheckpointError("the adapter's configuration cannot be read", file=folder / CONFIG, found=str(error), todo=todo) from error


def attach(model: torch.nn.Module, folder: Path) -> int:
    """Add the adapter to a `PI0Pytorch` with its base's weights; return how many tensors it has, float32 whatever the model is in.

    Raise ParityError where the file has not the adapter's tensors.
    """
    import torch
    from peft import inject_adapter_in_model

    inject_adapter_in_model(adapter_config(folder), model, adapter_name=_NAME)
    layers = _layers(model)
    with opened_weights(folder / WEIGHTS) as stored:
        _require_same_names(set(stored.keys()), set(layers), folder)
        for name, layer in layers.items():
            tensor = stored.get_tensor(name)
            if tensor.shape != layer.weight.shape:
                raise _other(folder, name, found=list(tensor.shape), expected=list(layer.weight.shape))
            layer.weight = torch.nn.Parameter(tensor, requires_grad=False)
    return len(layers)


def require_same_adapter(model: torch.nn.Module, folder: Path) -> int:
    """Compare every tensor of a model's adapter with the file, bit for bit; return how many there are. Raise ParityError."""
    import torch

    layers = _layers(model)
    with opened_weights(folder / WEIGHTS) as stored:
        _require_same_names(set(stored.keys()), set(layers), folder)
        for name, layer in layers.items():
            there, here = stored.get_tensor(name), layer.weight.detach().cpu()
            if there.shape != here.shape or not torch.equal(here, there.to(here.dtype)):
                raise _other(folder, name, found=f"{here.dtype}{list(here.shape)}", expected=f"the {there.dtype}{list(there.shape)} there")
    return len(layers)


def _layers(model: torch.nn.Module) -> dict[str, Any]:
    """PEFT's small linear layers by the name of their weight in the file."""
    from peft.tuners.lora import LoraLayer

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            for kind in ("lora_A", "lora_B"):
                found[f"{PREFIX}{name}.{kind}.weight"] = getattr(module, kind)[_NAME]
    return found


def _require_same_names(there: set[str], here: set[str], folder: Path) -> None:
    if there != here:
        found = f"not in the file: {sorted(here - there)[:4]}; not in the model: {sorted(there - here)[:4]}"
        raise ParityError("the file has not the tensors of the adapter", file=folder / WEIGHTS, array=min(there ^ here), found=found)


def _other(folder: Path, name: str, *, found: Any, expected: Any) -> ParityError:
    todo = "It was not loaded: look at what PEFT warned of, or export the checkpoint again."
    return ParityError(
        "the loaded adapter is not that of the file", file=folder / WEIGHTS, array=name, found=found, expected=expected, todo=todo
    )
