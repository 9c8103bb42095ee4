"""What OpenVLA-OFT has to be told of a dataset: its registry entry, the robot constants, the masks, and the statistics.

OFT has these in its source (`oxe/configs.py`, `oxe/transforms.py`, `vla/constants.py`) and guesses the constants from the command
line. Here they follow from the names and kinds of the dimensions, so that a launcher can set them without an edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla_ops.datasets.rlds_features import TFDS_VERSION, image_keys
from vla_ops.errors import DatasetError
from vla_ops.robot import Dimension, RobotSpec

STATISTICS_FILE = "dataset_statistics.json"

type Normalization = Literal["bounds", "bounds_q99"]
type Shape = tuple[tuple[str, int], ...]

_KINDS = {
    "rotation_vector": "euler",
    "rotation_rpy": "euler",
    "quaternion_xyzw": "quaternion",
    "quaternion_wxyz": "quaternion",
}
_EEF: Shape = (("position", 3), ("euler", 3), ("gripper", 1))
_EEF_R6: Shape = (("position", 3), ("rotation_6d", 6), ("gripper", 1))
_JOINTS: Shape = (("joint", 6), ("gripper", 1))
# What stands for each arm -> OFT's name. DUAL_EEF_POS is not in OFT, but is what its users add for two arms.
_ACTION_ENCODINGS: dict[tuple[Shape, ...], str] = {
    (_EEF,): "EEF_POS",
    (_EEF_R6,): "EEF_R6",
    (_JOINTS, _JOINTS): "JOINT_POS_BIMANUAL",
    (_EEF, _EEF): "DUAL_EEF_POS",
}
# Action encoding -> the (absolute, normalized) masks that OFT gives it. Others it refuses.
_OFT_MASKS: dict[str | None, tuple[list[bool], list[bool]]] = {
    "EEF_POS": ([False] * 6 + [True], [True] * 6 + [False]),
    "EEF_R6": ([False] * 9 + [True], [True] * 9 + [False]),
    "JOINT_POS_BIMANUAL": ([True] * 14, [True] * 14),
}


def oft_entry(
    spec: RobotSpec, name: str, *, robot: str, version: str, splits: Mapping[str, int], chunk_steps: int | None = None
) -> dict[str, Any]:
    """Return oft_dataset.json: all that a fine-tuning run of OFT on the dataset `name` needs to be told.

    `config` is the value for `OXE_DATASET_CONFIGS[name]` with the enums by name; null where OFT has no name for what the numbers are.
    The masks count more than what OFT makes of the encodings (`registry_is_enough`: they are the same). `chunk_steps` is by default
    one second, as OFT's authors advise.
    """
    dims, views = spec.action_dims, _views(image_keys(spec))
    absolute, normalized = absolute_mask(dims), normalized_mask(dims)
    return {
        "name": name,
        "version": TFDS_VERSION,
        "robot": robot,
        "dataset_version": version,
        "rate_hz": spec.timeline.rate_hz,
        "splits": dict(splits),
        "use_val_set": "val" in splits,
        "config": _config(spec, views),
        # The numbers are used as they are: the transform to register is the one that returns its trajectory.
        "standardize": "identity",
        "language_key": "language_instruction",
        "load_camera_views": ["primary", *(view for view in views if view != "primary")],
        "num_images_in_input": len({"primary", *views}),
        "constants": {
            "NUM_ACTIONS_CHUNK": chunk_steps or spec.timeline.rate_hz,
            "ACTION_DIM": len(dims),
            "PROPRIO_DIM": len(spec.state_dims),
            "ACTION_PROPRIO_NORMALIZATION_TYPE": normalization(dims),
        },
        "absolute_action_mask": absolute,
        "action_normalization_mask": normalized,
        "gripper_dims": [k for k, dim in enumerate(dims) if dim.kind == "gripper"],
        "registry_is_enough": _OFT_MASKS.get(action_encoding(dims)) == (absolute, normalized),
        "dataset_statistics": STATISTICS_FILE,
        "action": [_said(dim) for dim in dims],
        "state": [_said(dim) for dim in spec.state_dims],
    }


def _config(spec: RobotSpec, views: Mapping[str, str]) -> dict[str, Any]:
    return {
        "image_obs_keys": {"primary": None, "secondary": None, **views},
        "depth_obs_keys": dict.fromkeys(("primary", "secondary", *views)),
        "state_obs_keys": ["state"],
        "state_encoding": state_encoding(spec.state_dims),
        "action_encoding": action_encoding(spec.action_dims),
    }


def _views(keys: Mapping[str, str]) -> dict[str, str]:
    """OFT's view -> name in the observation."""
    return {"primary" if key == "image" else key.removesuffix("_image"): key for key in keys}


def _said(dim: Dimension) -> dict[str, str]:
    return {"name": dim.name, "unit": dim.unit, "kind": dim.kind, "means": dim.means}


def absolute_mask(dims: Sequence[Dimension]) -> list[bool]:
    """True where an action past the end of an episode repeats the last one; else it is zero."""
    return [dim.means == "absolute" for dim in dims]


def normalized_mask(dims: Sequence[Dimension]) -> list[bool]:
    """True where actions are normalized: all but the grippers of Cartesian actions, which OFT takes from 0 to 1.

    A gripper in m or rad is not from 0 to 1 and is normalized.
    """
    cartesian = any(dim.kind == "position" for dim in dims)
    return [not (cartesian and dim.kind == "gripper" and dim.unit in ("ratio", "1")) for dim in dims]


def normalization(dims: Sequence[Dimension]) -> Normalization:
    """OFT's normalization of actions and state: by 1 % and 99 % quantiles where the robot's moves are relative.

    Quantiles clip. Of places to be, some would then be out of the model's reach, so these are normalized by minimum and maximum.
    """
    return "bounds" if any(dim.means == "absolute" and dim.kind != "gripper" for dim in dims) else "bounds_q99"


def action_encoding(dims: Sequence[Dimension]) -> str | None:
    """OFT's name of what the action's numbers are, or None."""
    shapes = tuple(_shape(arm) for arm in _arms(dims))
    if len(shapes) == 1 and _is_one_arm_of_joints(shapes[0]):
        return "JOINT_POS"
    return _ACTION_ENCODINGS.get(shapes)


def state_encoding(dims: Sequence[Dimension]) -> str | None:
    """OFT's name of what the state's numbers are, or None. OFT itself does not use it."""
    shapes = tuple(_shape(arm) for arm in _arms(dims))
    if shapes == (_JOINTS, _JOINTS):
        return "JOINT_BIMANUAL"
    if len(shapes) != 1:
        return None
    if _is_one_arm_of_joints(shapes[0]):
        return "JOINT"
    motion = tuple(part for part in shapes[0] if part[0] != "gripper")
    return {_EEF[:2]: "POS_EULER", (("position", 3), ("quaternion", 4)): "POS_QUAT"}.get(motion)


def _arms(dims: Sequence[Dimension]) -> list[list[Dimension]]:
    """An arm ends where something else follows its grippers."""
    arms = [[dims[0]]]
    for before, dim in pairwise(dims):
        if before.kind == "gripper" and dim.kind != "gripper":
            arms.append([])
        arms[-1].append(dim)
    return arms


def _shape(arm: Sequence[Dimension]) -> Shape:
    kinds = (_KINDS.get(dim.kind, dim.kind) for dim in arm)
    return tuple((kind, len(list(group))) for kind, group in groupby(kinds))


def _is_one_arm_of_joints(shape: Shape) -> bool:
    return [kind for kind, _ in shape] == ["joint", "gripper"] and shape[0][1] <= 7 and shape[1][1] == 1


def oft_statistics(dataset_folder: Path, lengths: Sequence[int], training: Sequence[bool]) -> dict[str, Any]:
    """Return OFT's statistics of action and proprio from the numbers of a LeRobot v3.0 dataset, over its episodes for training.

    OFT, left to itself, also counts those held out for validation. Raise DatasetError if there are other rows than the episodes'.
    """
    used = np.repeat(np.asarray(training, dtype=bool), lengths)
    found: dict[str, Any] = {}
    for name, column in (("action", "action"), ("proprio", "observation.state")):
        values = _read_column(dataset_folder, column)
        if len(values) != len(used):
            raise DatasetError(
                "the dataset's rows are not those of its episodes",
                file=dataset_folder,
                stream=column,
                found=f"{len(values)} rows",
                expected=len(used),
                todo=f"Delete {dataset_folder}; the next run writes it anew from the episodes.",
            )
        found[name] = _statistics(values[used])
    return found | {"num_transitions": int(used.sum()), "num_trajectories": int(sum(training))}


def _read_column(dataset_folder: Path, column: str) -> np.ndarray:
    """Return [frames, n] float32."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for path in sorted((dataset_folder / "data").glob("*/*.parquet")):
        try:
            values = pq.read_table(path, columns=[column])[column].combine_chunks()
        except (pa.ArrowException, OSError, KeyError) as error:
            todo = f"Delete {dataset_folder}; the next run writes it anew from the episodes."
            raise DatasetError("not a whole parquet file", file=path, found=str(error), todo=todo) from error
        flat = values if pa.types.is_floating(values.type) else values.flatten()
        parts.append(np.asarray(flat, np.float32).reshape(len(values), -1))
    return np.concatenate(parts)


def _statistics(values: np.ndarray) -> dict[str, list[float]]:
    exact = values.astype(np.float64)
    return {
        "mean": exact.mean(axis=0).tolist(),
        "std": exact.std(axis=0).tolist(),
        "max": exact.max(axis=0).tolist(),
        "min": exact.min(axis=0).tolist(),
        "q01": np.quantile(exact, 0.01, axis=0).tolist(),
        "q99": np.quantile(exact, 0.99, axis=0).tolist(),
    }
