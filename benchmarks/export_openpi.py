"""The side of export.py that runs in openpi's process: the functions of its conversion script, in the script's order.

The script fixes how many layers there are, and loads what it made into openpi's PyTorch model before that is saved, which needs patched
transformers and the model's size in memory once more. Here the depth is given and the tensors are saved as they were made.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openpi.models.gemma
import torch
from safetensors.torch import save_file

PROJECTIONS = ("action_in_proj", "action_out_proj", "time_mlp_in", "time_mlp_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("root", "checkpoint", "file"):
        parser.add_argument(name, type=Path)
    parser.add_argument("layers", type=int)
    asked = parser.parse_args()
    script = script_of(asked.root)
    began = time.perf_counter()
    save_file(converted(script, asked.checkpoint, asked.layers), asked.file)
    print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak_bytes()}))


def script_of(root: Path) -> Any:
    file = root / "examples" / "convert_jax_model_to_pytorch.py"
    spec = importlib.util.spec_from_file_location("convert_jax_model_to_pytorch", file)
    assert spec is not None
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def converted(script: Any, checkpoint: Path, layers: int) -> dict[str, torch.Tensor]:
    read = script.slice_initial_orbax_checkpoint(checkpoint_dir=str(checkpoint), restore_precision="float32")
    given = read["projection_params"]
    made: dict[str, torch.Tensor] = {}
    for name in PROJECTIONS:
        made[f"{name}.weight"] = torch.from_numpy(np.array(given[name]["kernel"])).T
        made[f"{name}.bias"] = torch.from_numpy(np.array(given[name]["bias"]))
    first, rest = script.slice_paligemma_state_dict(read["paligemma_params"], sizes(layers))
    expert = dataclasses.replace(openpi.models.gemma.get_config("gemma_300m"), depth=layers)
    # The script tells pi0.5 by the checkpoint's path.
    second = script.slice_gemma_state_dict(rest, expert, num_expert=1, checkpoint_dir=str(checkpoint), pi05=True)
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in ({**first, **second} | made).items()}


def sizes(layers: int) -> Any:
    """The script's own numbers, but for the depths."""
    vision = {"hidden_size": 1152, "num_hidden_layers": max(1, 27 * layers // 18), "num_attention_heads": 16, "intermediate_size": 4304}
    text = {"hidden_size": 2048, "num_hidden_layers": layers, "num_attention_heads": 8, "head_dim": 256, "intermediate_size": 16384}
    return SimpleNamespace(vision_config=SimpleNamespace(**vision, patch_size=14, projection_dim=2048), text_config=SimpleNamespace(**text))


def peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
