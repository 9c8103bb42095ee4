"""The real openpi's PyTorch model, in an environment of its own, loads what is exported here and gives its own JAX's recorded numbers.

Needs openpi's checkout and an environment for it with torch: OPENPI_ROOT, OPENPI_PYTHON. openpi fixes the sizes of SigLIP and the
vocabulary; as for the golden numbers, these two are patched there, and nothing else is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vla_ops_tests.export.golden_weights import write_golden

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_SCRIPT = """
import dataclasses, sys, types
from pathlib import Path
import numpy as np, safetensors.torch, torch
golden, file, variant, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]

import openpi.models_pytorch.gemma_pytorch as gemma

def resized(make, change):
    def build(*given, config=None, **more):
        change(config)
        return make(*given, config=config, **more)
    return build

def paligemma(config):
    config._vocab_size = config.image_token_index = config.text_config.vocab_size = 2048
    for name, value in dict(hidden_size=32, num_hidden_layers=2, intermediate_size=128, num_attention_heads=2, projection_dim=64).items():
        setattr(config.vision_config, name, value)

def expert(config):
    config.vocab_size = 2048

gemma.PaliGemmaForConditionalGeneration = resized(gemma.PaliGemmaForConditionalGeneration, paligemma)
gemma.GemmaForCausalLM = resized(gemma.GemmaForCausalLM, expert)
from openpi.models_pytorch.pi0_pytorch import PI0Pytorch

config = types.SimpleNamespace(pi05=variant.startswith("pi05"), paligemma_variant="dummy", action_expert_variant="dummy", dtype="float32",
                               action_dim=32, action_horizon=8, pytorch_compile_mode=None, max_token_len=16)
model = PI0Pytorch(config).eval()
missing, unexpected = safetensors.torch.load_model(model, file, strict=True)
assert not missing and not unexpected, (missing, unexpected)
x = np.load(golden / "golden_tiny/inputs.npz")
cameras = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
observation = types.SimpleNamespace(
    images={c: torch.from_numpy(x[f"image/{c}"]).permute(0, 3, 1, 2).float() / 255 * 2 - 1 for c in cameras},
    image_masks={c: torch.from_numpy(x[f"image_mask/{c}"]) for c in cameras},
    state=torch.from_numpy(x["state"]), tokenized_prompt=torch.from_numpy(x["tokenized_prompt"]).long(),
    tokenized_prompt_mask=torch.from_numpy(x["tokenized_prompt_mask"]), token_ar_mask=None, token_loss_mask=None)
with torch.inference_mode():
    np.save(out, model.sample_actions("cpu", observation, noise=torch.from_numpy(x["noise"]), num_steps=10).numpy())
"""


def patched_transformers(installed: Path, root: Path, into: Path) -> None:
    """Links to the installed transformers, with openpi's replacements in place of some files: what it asks to be copied over it."""
    shutil.copytree(installed, into / "transformers", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    replacements = root / "src/openpi/models_pytorch/transformers_replace"
    for file in (file for file in replacements.rglob("*.py")):
        target = into / "transformers" / file.relative_to(replacements)
        target.unlink(missing_ok=True)
        target.symlink_to(file.resolve())


@pytest.mark.parametrize("variant", ["pi0", "pi05", "pi0_lora", "pi05_lora"])
def test_openpis_own_pytorch_model_loads_it_and_gives_its_jaxs_numbers(variant: str, golden_dir: Path, tmp_path: Path) -> None:
    root, python = os.environ.get("OPENPI_ROOT"), os.environ.get("OPENPI_PYTHON")
    if not root or not python:
        pytest.skip("the real openpi is not here: set OPENPI_ROOT and OPENPI_PYTHON")
    found = subprocess.run(
        [python, "-c", "import torch, transformers; print(transformers.__path__[0])"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"{python} has no torch or transformers")
    patched_transformers(Path(found.stdout.strip()), Path(root), tmp_path / "overlay")
    file, _ = write_golden(tmp_path, golden_dir, variant)
    paths = os.pathsep.join([str(tmp_path / "overlay"), f"{root}/src", f"{root}/packages/openpi-client/src"])
    command = [python, "-c", _SCRIPT, str(golden_dir), str(file), variant, str(tmp_path / "out.npy")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    recorded = np.load(golden_dir / f"golden_tiny/outputs_{variant}.npz")["sample_actions_steps10"]
    assert np.abs(np.load(tmp_path / "out.npy") - recorded).max() < 1e-4 * max(1.0, np.abs(recorded).max())
