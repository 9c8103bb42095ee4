"""A PyTorch policy of pi0 or pi0.5 on disk: ours, one that LeRobot trained, or one in openpi's layout, and what its folder says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.checkpoints.layout import ASSETS, EXPORT_FILE, NORM_STATS_FILE
from vla_ops.errors import CheckpointError, StatsMismatchError
from vla_ops.export.adapter import is_adapter
from vla_ops.export.lerobot_sizes import spelled_sizes
from vla_ops.export.source import config_from
from vla_ops.models.config import GEMMA, GemmaConfig, ModelConfig, SiglipConfig
from vla_ops.policies import PolicyStats, PolicyTransforms, read_stats
from vla_ops.policies.normalize import Numbers
from vla_ops.policies.torch_weights import opened_weights
from vla_ops.training.recipe import Recipe

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_EPSILON = 1e-6
_KEYS = {"state": "observation.state", "actions": "action"}


@dataclass(frozen=True, eq=False)
class TorchFolder:
    """A PyTorch policy with its model's configuration (LoRA merged) and its norm stats."""

    folder: Path
    config: ModelConfig
    stats: PolicyStats
    asset_id: str
    # Of an export of this project.
    recipe: Recipe | None = None
    transforms: PolicyTransforms | None = None

    @property
    def weights(self) -> Path:
        """Its tensors."""
        return self.folder / WEIGHTS


def open_torch_folder(folder: Path, *, assets: Path | None = None) -> TorchFolder:
    """Find out what a folder holds. Raise CheckpointError for one that is no such policy, or has no norm stats."""
    if is_adapter(folder):
        raise _an_adapter(folder)
    if not (folder / WEIGHTS).is_file():
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) if folder.is_dir() else "nothing"
        raise CheckpointError("there is no PyTorch policy", file=folder, found=found, expected=f"{WEIGHTS} and {CONFIG}")
    ours, config = _read(folder / EXPORT_FILE), _read(folder / CONFIG)
    if ours is not None:
        return _ours(folder, ours, assets)
    if config is None:
        raise CheckpointError("the policy does not say what it is", file=folder, expected=CONFIG, todo="Copy it with its config.json.")
    model = _lerobots(config) if "type" in config else _openpis(config, folder / WEIGHTS)
    asset_id, stats = _stats(folder, assets)
    return TorchFolder(folder, model, stats, asset_id)


def _ours(folder: Path, told: Mapping[str, Any], assets: Path | None) -> TorchFolder:
    config = without_lora(config_from(told["model"]))
    stats = read_stats(assets or folder / ASSETS / told["asset_id"])
    if stats.fingerprint != told["stats_fingerprint"]:
        raise StatsMismatchError(
            "the norm stats are not those that the policy was exported with",
            file=stats.origin,
            found=stats.fingerprint,
            expected=told["stats_fingerprint"],
            todo="Take the export's own, or export the checkpoint again.",
        )
    recipe = None if told["recipe"] is None else Recipe.from_json(told["recipe"])
    return TorchFolder(folder, config, stats, told["asset_id"], recipe, _transforms(recipe, told["asset_id"], stats))


def _transforms(recipe: Recipe | None, asset_id: str, stats: PolicyStats) -> PolicyTransforms | None:
    if recipe is None:
        return None
    from vla_ops.backends.jax import part_transforms

    return part_transforms(recipe, asset_id, stats)


def without_lora(config: ModelConfig) -> ModelConfig:
    """The model without LoRA's factors, as it is once they are merged."""
    plain = [replace(expert, lora=None) for expert in config.experts]
    return replace(config, paligemma=plain[0], action_expert=plain[1], lora_rank=None, lora_alpha=None)


def _an_adapter(folder: Path | None) -> CheckpointError:
    todo = "Merge the adapter into the policy first (PeftModel.merge_and_unload) and save that, or export the checkpoint with --lora merge."
    return CheckpointError("the policy is a PEFT adapter, and not a whole model", file=folder, todo=todo)


def _lerobots(config: Mapping[str, Any]) -> ModelConfig:
    if config["type"] not in ("pi0", "pi05"):
        raise CheckpointError("the policy is neither pi0 nor pi0.5", found=config["type"])
    if config.get("use_peft"):
        raise _an_adapter(None)
    if config["max_state_dim"] != config["max_action_dim"]:
        found = f"max_state_dim {config['max_state_dim']}, max_action_dim {config['max_action_dim']}"
        raise CheckpointError("openpi's model has one width for state and actions", found=found)
    sizes = [spelled_sizes(config[name]) for name in ("paligemma_variant", "action_expert_variant")]
    first = sizes[0]
    more: dict[str, Any] = {}
    if first is not None and first.vision is not None:
        vision = first.vision
        more = {
            "vocab_size": first.vocabulary,
            "siglip": SiglipConfig(vision["width"], vision["depth"], vision["mlp_dim"], vision["num_heads"], vision["patch_size"]),
        }
    fields = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
    experts = [
        GemmaConfig(**{field: asdict(size)[field] for field in fields}) if size else GEMMA[config[name]]
        for size, name in zip(sizes, ("paligemma_variant", "action_expert_variant"), strict=True)
    ]
    return ModelConfig(
        family=config["type"],
        paligemma=experts[0],
        action_expert=experts[1],
        action_dim=config["max_action_dim"],
        action_horizon=config["chunk_size"],
        max_token_len=config["tokenizer_max_length"],
        image_size=config["image_resolution"][0],
        **more,
    )


def _openpis(config: Mapping[str, Any], weights: Path) -> ModelConfig:
    with opened_weights(weights) as stored:
        family = "pi05" if "time_mlp_in.weight" in set(stored.keys()) else "pi0"
    try:
        return ModelConfig(
            family=family,
            paligemma=config["paligemma_variant"].removesuffix("_lora"),
            action_expert=config["action_expert_variant"].removesuffix("_lora"),
            action_dim=config["action_dim"],
            action_horizon=config["action_horizon"],
            max_token_len=config.get("max_token_len", 0),
        )
    except (KeyError, AttributeError, ValueError) as error:
        raise CheckpointError("config.json is neither LeRobot's nor openpi's", file=weights.parent / CONFIG, found=repr(error)) from error


def _stats(folder: Path, assets: Path | None) -> tuple[str, PolicyStats]:
    if assets is not None:
        return assets.name, read_stats(assets)
    there = sorted((folder / ASSETS).rglob(NORM_STATS_FILE))
    if len(there) == 1:
        return there[0].parent.relative_to(folder / ASSETS).as_posix(), read_stats(there[0].parent)
    steps = _read(folder / "policy_preprocessor.json")
    if steps is not None:
        return "lerobot", _of_processors(folder, steps)
    raise CheckpointError(
        "the policy has no norm stats: without them its actions have no units",
        file=folder,
        found=", ".join(str(file.parent.relative_to(folder)) for file in there) or "no assets, no policy_preprocessor.json",
        todo="Give the folder of its norm_stats.json: --assets FOLDER.",
    )


def _of_processors(folder: Path, pipeline: Mapping[str, Any]) -> PolicyStats:
    """Norm stats in openpi's form that divide by what LeRobot's normalizer divides by."""
    from safetensors.numpy import load_file

    step = next((step for step in pipeline["steps"] if step.get("registry_name") == "normalizer_processor"), None)
    if step is None or "state_file" not in step:
        raise CheckpointError("the preprocessor normalises nothing", file=folder / "policy_preprocessor.json", todo="Give --assets FOLDER.")
    state, epsilon = load_file(folder / step["state_file"]), float(step["config"].get("eps", 1e-8))
    vectors = {name: _numbers(state, key, epsilon) for name, key in _KEYS.items()}
    text = json.dumps({"norm_stats": {name: numbers.as_json() for name, numbers in vectors.items()}}, indent=2, allow_nan=False) + "\n"
    return PolicyStats(vectors["state"], vectors["actions"], str(folder), None, files={NORM_STATS_FILE: text})


def _numbers(state: Mapping[str, Any], key: str, epsilon: float) -> Numbers:
    columns = {name: np.asarray(state[f"{key}.{name}"], np.float64) for name in ("mean", "std", "q01", "q99") if f"{key}.{name}" in state}
    if not {"mean", "std"} <= columns.keys():
        raise CheckpointError("the preprocessor has no mean and std", array=key, found=", ".join(columns) or "none")
    quantiles: dict[str, Any] = {}
    if {"q01", "q99"} <= columns.keys():
        quantiles = {"q01": columns["q01"], "q99": np.maximum(columns["q99"] - _EPSILON, columns["q01"])}
    return Numbers(columns["mean"], np.maximum(columns["std"] + epsilon - _EPSILON, 0.0), **quantiles)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError as error:
        raise CheckpointError("a file of the policy is damaged", file=file, found=str(error)) from error
