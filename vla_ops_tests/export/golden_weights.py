"""The golden tiny models as model.safetensors, and the golden inputs as samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vla_ops.export.convert import write_weights
from vla_ops.export.lora import Alphas
from vla_ops.export.plan import Plan, make_plan
from vla_ops.export.samples import Samples
from vla_ops.models.config import CAMERAS, ModelConfig, tiny


def golden_config(variant: str) -> ModelConfig:
    """The model of the golden numbers."""
    family = "pi05" if variant.startswith("pi05") else "pi0"
    return tiny(family, lora=variant.endswith("lora"), siglip="tiny/14", action_horizon=8, max_token_len=16)


def write_golden(folder: Path, golden_dir: Path, variant: str) -> tuple[Path, Plan]:
    """Write openpi's layout of a golden model, float32, LoRA merged."""
    params: Mapping[str, np.ndarray] = dict(np.load(golden_dir / f"golden_tiny/params_{variant}.npz"))
    plan, file = make_plan(params), folder / f"{variant}.safetensors"
    alphas = Alphas.of(golden_config(variant))
    write_weights(file, plan, params.__getitem__, alphas=alphas, layout="openpi", precision="float32")
    return file, plan


def golden_samples(golden_dir: Path) -> Samples:
    """The golden inputs: one camera masked in one row, one in both."""
    stored = np.load(golden_dir / "golden_tiny/inputs.npz")
    inputs = {name: stored[name] for name in ("state", "tokenized_prompt", "tokenized_prompt_mask", "actions")}
    images = {camera: stored[f"image/{camera}"] for camera in CAMERAS}
    masks = {camera: stored[f"image_mask/{camera}"] for camera in CAMERAS}
    return Samples(inputs | {"image": images, "image_mask": masks}, stored["noise"], stored["time"], "golden", ("0", "1"))
