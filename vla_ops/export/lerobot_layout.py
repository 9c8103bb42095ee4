"""An export as LeRobot 0.6.1 keeps a policy: config.json, model.safetensors, and the two processors with norm stats and delta steps.

openpi divides by `std + 1e-6` and `q99 - q01 + 1e-6` in both directions. LeRobot adds its epsilon in one of them only, so what is added
stands in the numbers themselves and the step's own epsilon is 0, or reached only where the sum rounds to nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.errors import ParityError, SchemaMismatchError
from vla_ops.export.adapter import BASE, base_of, is_adapter
from vla_ops.export.adapter_torch import adapter_config, require_same_adapter
from vla_ops.export.lerobot_sizes import other_sizes
from vla_ops.export.plan import Lora, Precision
from vla_ops.export.source import ExportSource
from vla_ops.export.tokenizer_folder import FOLDER, HERE, write_tokenizer
from vla_ops.export.torch_side import lerobot_config, require_same_tensors
from vla_ops.files import write_json
from vla_ops.norm_stats import Provenance
from vla_ops.policies import normalisation_of
from vla_ops.policies.normalize import Numbers

CONFIG, WEIGHTS = "config.json", "model.safetensors"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images"
_EPSILON = 1e-6
_ABSOLUTE = "(absolute)"


@dataclass(frozen=True, eq=False)
class LeRobotPolicy:
    """A loaded export: LeRobot's policy and its two processors."""

    policy: Any
    # openpi's model in it, whatever is around it.
    model: Any
    preprocess: Any
    postprocess: Any
    # Tensors that were compared with the file.
    tensors: int


def write_lerobot(folder: Path, source: ExportSource, precision: Precision, lora: Lora = "merge") -> None:
    """Write all but the weights; with an adapter also the configuration of the policy that it is added to.

    Raise SchemaMismatchError for what LeRobot's steps cannot do.
    """
    made = source.stats.provenance
    _refuse_other_steps(made)
    with other_sizes():
        config = _config(source, precision)
        config._save_pretrained(folder)
        _write_processors(folder, source, config)
    # Where it was exported is nobody's device.
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8")) | {"device": None}
    write_json(folder / CONFIG, written | {"use_peft": lora == "adapter"})
    if lora == "adapter":
        write_json(folder / BASE / CONFIG, written)


def load_lerobot(folder: Path, *, tokenizer: Any = None, device: str = "cpu") -> LeRobotPolicy:
    """Load an export as LeRobot does, and compare every tensor with the file, which LeRobot does not.

    An adapter's policy is looked for in the folder itself, wherever that was moved to. `tokenizer` stands in for one that has
    to be fetched. Raise ParityError where the model has not the weights of the file.
    """
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.pi0.modeling_pi0 import PI0Policy
    from lerobot.policies.pi05.modeling_pi05 import PI05Policy

    with other_sizes():
        config = PreTrainedConfig.from_pretrained(str(folder), cli_overrides=[f"--device={device}"])
        classes: dict[str, Any] = {"pi0": PI0Policy, "pi05": PI05Policy}
        if config.type not in classes:
            raise ParityError("not a policy of pi0 or pi0.5", file=folder / CONFIG, found=config.type)
        policy = classes[config.type].from_pretrained(str(base_of(folder)), config=config)
    model = policy.model
    count = require_same_tensors(model.state_dict(), base_of(folder) / WEIGHTS)
    if is_adapter(folder):
        policy = _with_adapter(policy, folder)
        count += require_same_adapter(model, folder)
    overrides = {"device_processor": {"device": device}}
    preprocess, postprocess = make_pre_post_processors(
        config, str(folder), preprocessor_overrides=overrides | _tokenizer(folder, tokenizer), postprocessor_overrides={}
    )
    return LeRobotPolicy(policy.eval(), model, preprocess, postprocess, count)


def _with_adapter(policy: Any, folder: Path) -> Any:
    """The policy in a PeftModel, as LeRobot makes it."""
    config = adapter_config(folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(policy, str(folder), config=config)


def camera_keys(source: ExportSource) -> dict[str, str]:
    """LeRobot's feature of each slot that shows something, in the model's order; by the robot's camera names where they are known."""
    if source.transforms is None:
        return {slot: f"{IMAGES}.{slot}" for slot in source.config.cameras}
    return {slot: f"{IMAGES}.{camera}" for slot, camera in source.transforms.cameras.shown if camera}


def tokenizer_of(source: ExportSource) -> Any:
    """The tokenizer that the checkpoint was trained with; None where nothing says it, which is PaliGemma's."""
    return None if source.transforms is None else source.transforms.prompts.tokenizer


def _config(source: ExportSource, precision: Precision) -> Any:
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature

    side, made = source.config.image_size, source.stats.provenance
    keys = list(camera_keys(source).values())
    # Slots without a camera are masked; their place does not matter, since positions count real tokens alone.
    keys += [f"{IMAGES}.empty_camera_{k}" for k in range(len(source.config.cameras) - len(keys))]
    features = {key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, side, side)) for key in keys}
    features[STATE] = PolicyFeature(type=FeatureType.STATE, shape=(source.stats.state.width,))
    mode = NormalizationMode.MEAN_STD if _is_z_score(source) else NormalizationMode.QUANTILES
    names, kept = relative_names(made)
    return lerobot_config(
        source.config,
        source.architecture,
        precision,
        empty_cameras=sum(".empty_camera_" in key for key in keys),
        input_features=features,
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(source.stats.actions.width,))},
        normalization_mapping={"VISUAL": NormalizationMode.IDENTITY, "STATE": mode, "ACTION": mode},
        use_relative_actions=made is not None and any(made.delta_mask),
        relative_exclude_joints=kept,
        action_feature_names=names,
    )


def relative_names(made: Provenance | None) -> tuple[list[str] | None, list[str]]:
    """Names of all actions, and of those that stay absolute, such that LeRobot's search for parts of names finds exactly these."""
    if made is None:
        return None, []
    names = [dim.name for dim in made.action_dims]
    kept = [name for name, delta in zip(names, made.delta_mask, strict=True) if not delta]
    found = [any(part.lower() in name.lower() for part in kept) for name in names]
    if found == [not delta for delta in made.delta_mask]:
        return names, kept
    marked = [name if delta else f"{name} {_ABSOLUTE}" for name, delta in zip(names, made.delta_mask, strict=True)]
    return marked, [_ABSOLUTE]


def _write_processors(folder: Path, source: ExportSource, config: Any) -> None:
    from lerobot.policies.pi0.processor_pi0 import Pi0NewLineProcessor
    from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
    from lerobot.processor import AbsoluteActionsProcessorStep, RelativeActionsProcessorStep, TokenizerProcessorStep
    from lerobot.processor.factory import make_default_policy_processor_steps, make_policy_processor_pipelines

    in_prompt = source.config.pi05 if source.transforms is None else source.transforms.prompts.discrete_state
    steps = make_default_policy_processor_steps(config, _stats(source))
    steps.normalize.eps = steps.unnormalize.eps = 0.0 if _is_z_score(source) else _EPSILON
    relative = RelativeActionsProcessorStep(config.use_relative_actions, config.relative_exclude_joints, config.action_feature_names)
    name = write_tokenizer(folder, tokenizer_of(source), cleans=not in_prompt)
    # Made with a stand-in for the tokenizer, which need not be at hand to be named.
    tokenize = TokenizerProcessorStep(
        tokenizer=object(), max_length=config.tokenizer_max_length, padding_side="right", padding="max_length"
    )
    tokenize.tokenizer, tokenize.tokenizer_name = None, name
    first = [steps.rename_observations, steps.add_batch_dim, relative, steps.normalize]
    prompt = Pi05PrepareStateTokenizerProcessorStep(max_state_dim=config.max_state_dim) if in_prompt else Pi0NewLineProcessor()
    last = [steps.unnormalize, AbsoluteActionsProcessorStep(config.use_relative_actions, relative), steps.to_cpu]
    for pipeline in make_policy_processor_pipelines([*first, prompt, tokenize, steps.to_device], last):
        pipeline.save_pretrained(folder)


def _stats(source: ExportSource) -> dict[str, dict[str, Any]]:
    """What LeRobot's steps are to divide by, float32: openpi's epsilon is in it."""
    return {STATE: _shifted(source.stats.state), ACTION: _shifted(source.stats.actions)}


def _shifted(numbers: Numbers) -> dict[str, Any]:
    import torch

    written = {"mean": numbers.mean, "std": numbers.std + _EPSILON}
    if numbers.q01 is not None and numbers.q99 is not None:
        written |= {"q01": numbers.q01, "q99": numbers.q99 + _EPSILON}
    return {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in written.items()}


def _is_z_score(source: ExportSource) -> bool:
    return normalisation_of(source.config) == "z_score"


def _refuse_other_steps(made: Provenance | None) -> None:
    asked = {}
    if made is not None:
        asked = {"norm_stats.adapt_to_pi": made.adapt_to_pi, "rotations whose deltas are composed": bool(made.delta_rotations)}
    for what in (what for what, is_so in asked.items() if is_so):
        raise SchemaMismatchError(
            "LeRobot's processors have no step for what the robot's actions need",
            robot=None if made is None else made.robot,
            found=what,
            todo="Export with --layout openpi, and serve that.",
        )


def _tokenizer(folder: Path, given: Any) -> dict[str, dict[str, Any]]:
    if given is not None:
        return {"tokenizer_processor": {"tokenizer": given}}
    written = json.loads((folder / "policy_preprocessor.json").read_text(encoding="utf-8"))
    names = [step.get("config", {}).get("tokenizer_name") for step in written["steps"]]
    return {"tokenizer_processor": {"tokenizer_name": str(folder / FOLDER)}} if HERE in names else {}
