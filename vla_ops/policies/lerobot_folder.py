"""A policy as LeRobot saves it: config.json, model.safetensors, two processors with their norm stats; read without LeRobot.

What would fail in silence is refused here: processors that are missing, steps that normalise without numbers, and steps that are no
LeRobot's own, for a processor's file names classes that are then called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.checkpoints.layout import EXPORT_FILE
from vla_ops.errors import CheckpointError, StatsMismatchError
from vla_ops.robot import fingerprint

LEROBOT = "lerobot"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
EMPTY_CAMERA = f"{IMAGES}empty_camera_"
_NORMALIZER, _UNNORMALIZER = "normalizer_processor", "unnormalizer_processor"
# Below a step's folder of `lerobot-train`, and below the folder of a whole training.
_PLACES = (".", "pretrained_model", "checkpoints/last/pretrained_model")
_NEEDS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}


def lerobot_folder(path: Path) -> Path | None:
    """Where LeRobot's policy is in a folder, or in one of its trainings; None where there is none, or an export of this project."""
    return next((folder for place in _PLACES if _is_lerobots(folder := path.absolute() / place)), None)


@dataclass(frozen=True, eq=False)
class LeRobotFolder:
    """What the files of a policy say; see `read_lerobot`."""

    folder: Path
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    postprocessor: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """LeRobot's name of the policy: `act`, `diffusion`, `smolvla`, ..."""
        return str(self.config["type"])

    @property
    def weights(self) -> Path:
        """Its tensors."""
        return self.folder / WEIGHTS

    @property
    def inputs(self) -> Mapping[str, Mapping[str, Any]]:
        """Feature -> `type` and `shape` of what the model is given."""
        return self.config.get("input_features") or {}

    @property
    def outputs(self) -> Mapping[str, Mapping[str, Any]]:
        """The same of what it gives."""
        return self.config.get("output_features") or {}

    @property
    def observation_steps(self) -> int:
        """How many observations it sees."""
        return int(self.config.get("n_obs_steps", 1))

    @property
    def has_prompt(self) -> bool:
        """Whether it is told the task."""
        return self.step("tokenizer_processor") is not None

    @property
    def sent_as(self) -> Mapping[str, str]:
        """Feature of the model -> the one of the dataset that is renamed to it."""
        renames = (self.step("rename_observations_processor") or {}).get("rename_map") or {}
        return {ours: theirs for theirs, ours in renames.items()}

    @property
    def fingerprints(self) -> tuple[str, str]:
        """Of what the processors do, and of the norm stats in them."""
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in self._state_files}
        return fingerprint([self.preprocessor, self.postprocessor]), fingerprint(digests)

    def step(self, name: str) -> Mapping[str, Any] | None:
        """The settings of a step of either processor; None where there is none of that name."""
        entry = self._entry(name)
        return None if entry is None else entry.get("config", {})

    def refuse_no_stats(self) -> None:
        """Raise StatsMismatchError, naming the feature, where a step would normalise and has no numbers to do it with.

        LeRobot hands such values on as they are.
        """
        for name, features in ((_NORMALIZER, self.inputs), (_UNNORMALIZER, self.outputs)):
            settings = self.step(name)
            modes = (self.config.get("normalization_mapping") if settings is None else settings.get("norm_map")) or {}
            for feature, told in features.items():
                mode = modes.get(told["type"], "IDENTITY")
                if mode != "IDENTITY" and not feature.startswith(EMPTY_CAMERA):
                    self._require(name, feature, int(told["shape"][0]), mode)

    def shows(self, feature: str) -> bool:
        """Whether the policy was trained on this image feature: the dataset of its norm stats had it, or they tell of no images."""
        known = {name.rpartition(".")[0] for name in self._stats_of(_NORMALIZER) if name.startswith(IMAGES)}
        return not known or bool({feature, self.sent_as.get(feature)} & known)

    @property
    def _state_files(self) -> list[Path]:
        return sorted({self.folder / step["state_file"] for step in self._steps() if "state_file" in step})

    def _steps(self) -> Iterator[Mapping[str, Any]]:
        yield from self.preprocessor["steps"]
        yield from self.postprocessor["steps"]

    def _entry(self, name: str) -> Mapping[str, Any] | None:
        return next((step for step in self._steps() if step.get("registry_name") == name), None)

    def _stats_of(self, name: str) -> Mapping[str, np.ndarray[Any, Any]]:
        """`feature.statistic` -> numbers, of a step."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        entry = self._entry(name)
        if entry is None or "state_file" not in entry:
            return {}
        file = self.folder / entry["state_file"]
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            todo = "Copy the whole folder again."
            raise CheckpointError("a processor's norm stats cannot be read", file=file, found=str(error), todo=todo) from error

    def _require(self, step: str, feature: str, width: int, mode: str) -> None:
        needed = _NEEDS.get(mode, (mode,))
        stats = self._stats_of(step)
        there = {name: stats[f"{feature}.{name}"] for name in needed if f"{feature}.{name}" in stats}
        usable = [name for name, numbers in there.items() if numbers.size == width and np.isfinite(numbers).all()]
        if usable == list(needed):
            return
        found = ", ".join(f"{name} {list(numbers.shape)}" for name, numbers in there.items()) or "none"
        raise StatsMismatchError(
            f"the policy normalises {feature} by {mode}, and its processors have no numbers to do so",
            file=self.folder / (PREPROCESSOR if step == _NORMALIZER else POSTPROCESSOR),
            feature=feature,
            found=found if self._entry(step) else f"no {step}",
            expected=f"{' and '.join(needed)}, {width} finite numbers each",
            todo="Save them with the dataset's stats, as lerobot-train does: make_pre_post_processors(config, dataset_stats=...).",
        )


def read_lerobot(folder: Path) -> LeRobotFolder:
    """Read a policy's files. Raise CheckpointError for one that is missing, damaged or of somebody else's code."""
    if not (folder / WEIGHTS).is_file():
        is_adapter = (folder / "adapter_model.safetensors").is_file()
        todo = "Merge the adapter into its policy first (PeftModel.merge_and_unload) and save that." if is_adapter else "Copy it again."
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
        raise CheckpointError("the policy has no weights of its own", file=folder, found=found, expected=WEIGHTS, todo=todo)
    pipelines = [_pipeline(folder / name) for name in (PREPROCESSOR, POSTPROCESSOR)]
    return LeRobotFolder(folder, _read(folder / CONFIG), *pipelines)


def _pipeline(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise CheckpointError(
            "the policy has no processors: nothing says how its numbers are normalised",
            file=file.parent,
            found=f"no {file.name}",
            expected=f"{PREPROCESSOR} and {POSTPROCESSOR}, with their .safetensors",
            todo="Copy them too; of a policy older than LeRobot 0.4 make them with lerobot.processor.migrate_policy_normalization.",
        )
    told = _read(file)
    if not isinstance(told.get("steps"), list):
        raise CheckpointError("not a processor of LeRobot's", file=file, found=f"keys {', '.join(told)}", expected="steps")
    for step in told["steps"]:
        # A step without a registered name is any class that can be imported, called with what the file says.
        if "registry_name" not in step and not str(step.get("class", "")).startswith("lerobot."):
            todo = "Whoever made it can run any program so: look at it, and register the step if it is yours."
            raise CheckpointError("a processor has a step that is not LeRobot's", file=file, found=step.get("class"), todo=todo)
        if "state_file" in step and not (file.parent / step["state_file"]).is_file():
            raise CheckpointError("a processor's norm stats are missing", file=file, expected=step["state_file"], todo="Copy them too.")
    return told


def _is_lerobots(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and not (folder / EXPORT_FILE).is_file() and "type" in _read(folder / CONFIG)


def _read(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError("a file of the policy is damaged", file=file, found=str(error), todo="Copy it again.") from error
    if not isinstance(told, dict):
        raise CheckpointError("a file of the policy is damaged", file=file, found=type(told).__name__, expected="a map")
    return told
