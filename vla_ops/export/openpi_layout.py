"""An export as openpi's PyTorch server takes it: model.safetensors, assets/, and config.json as openpi's converter writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_ops.export.plan import Precision
from vla_ops.export.source import ExportSource
from vla_ops.files import write_json


def write_openpi(folder: Path, source: ExportSource, precision: Precision) -> None:
    """Write all but weights and assets."""
    experts = source.architecture.paligemma, source.architecture.action_expert
    config: dict[str, Any] = {
        "action_dim": source.config.action_dim,
        "action_horizon": source.config.action_horizon,
        # A merged model has no LoRA any more.
        "paligemma_variant": (experts[0].variant or "").removesuffix("_lora") or None,
        "action_expert_variant": (experts[1].variant or "").removesuffix("_lora") or None,
        "precision": precision,
        # What openpi itself guesses from the name of a folder.
        "pi05": source.config.pi05,
        "max_token_len": source.config.max_token_len,
        "discrete_state_input": source.config.pi05 if source.transforms is None else source.transforms.prompts.discrete_state,
        "dtype": precision,
    }
    write_json(folder / "config.json", config)
