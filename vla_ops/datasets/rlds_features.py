"""What TFDS is told of an RLDS dataset (features.json, dataset_info.json), and an episode as the Example that fits it.

The features are those that OpenVLA-OFT's own ALOHA and LIBERO datasets have; the names of the images come from the cameras' roles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_ops.datasets.lerobot_features import VECTORS
from vla_ops.datasets.lerobot_tables import read_frames
from vla_ops.datasets.tfrecord import MAX_BYTES, Values, encode_example
from vla_ops.episodes.store import Episode
from vla_ops.errors import DatasetError, SchemaMismatchError, SpecError
from vla_ops.robot import RobotSpec

TFDS_VERSION = "1.0.0"
IS_FIRST = "steps/is_first"
_CLASSES = "tensorflow_datasets.core.features"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def image_keys(spec: RobotSpec) -> dict[str, str]:
    """Name in the RLDS observation -> camera: `image` shows the base; a single wrist is `wrist_image`, two have their side's names.

    Cameras without a role are left out. Raise SpecError if none has one.
    """
    by_role = {camera.role: name for name, camera in spec.cameras.items() if camera.role}
    wrists = {f"{role}_image": by_role[role] for role in ("left_wrist", "right_wrist") if role in by_role}
    if len(wrists) == 1:
        wrists = {"wrist_image": next(iter(wrists.values()))}
    keys = ({"image": by_role["base"]} if "base" in by_role else {}) | wrists
    if not keys:
        raise SpecError(
            "an RLDS dataset needs a camera with a role",
            found=f"cameras without one: {', '.join(spec.cameras) or 'no cameras'}",
            todo="Give the cameras `role: base`, `left_wrist` or `right_wrist`, or do not make the RLDS view of this robot.",
        )
    return keys


def make_features(spec: RobotSpec, *, size: int) -> dict[str, Any]:
    """Return features.json."""
    keys = image_keys(spec)
    state, action = ([d.name for d in dims] for dims in (spec.state_dims, spec.action_dims))
    observation = {key: _image(size, f"RGB of camera {camera}.") for key, camera in keys.items()}
    observation["state"] = _vector(len(state), f"State: {', '.join(state)}.")
    steps = {
        "observation": _group(observation),
        "action": _vector(len(action), f"Action: {', '.join(action)}."),
        "language_instruction": _text("The task."),
        "is_first": _scalar("bool", "True on the first step."),
        "is_last": _scalar("bool", "True on the last step."),
        "is_terminal": _scalar("bool", "True on the last step: a demonstration ends when the task is done."),
        "reward": _scalar("float32", "1 on the last step, else 0."),
        "discount": _scalar("float32", "Always 1."),
    }
    metadata = {"file_path": _text("Id of the recording."), "episode_id": _scalar("int32", "Which episode of the recording, from 0.")}
    whole = {"pythonClassName": f"{_CLASSES}.dataset_feature.Dataset", "sequence": {"feature": _group(steps), "length": "-1"}}
    return _group({"steps": whole, "episode_metadata": _group(metadata)})


def _group(features: dict[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": f"{_CLASSES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}


def _image(size: int, description: str) -> dict[str, Any]:
    image = {"shape": {"dimensions": [str(size), str(size), "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"}
    return {"pythonClassName": f"{_CLASSES}.image_feature.Image", "image": image, "description": description}


def _vector(width: int, description: str) -> dict[str, Any]:
    tensor = {"shape": {"dimensions": [str(width)]}, "dtype": "float32", "encoding": "none"}
    return {"pythonClassName": f"{_CLASSES}.tensor_feature.Tensor", "tensor": tensor, "description": description}


def _scalar(dtype: str, description: str) -> dict[str, Any]:
    tensor = {"shape": {}, "dtype": dtype, "encoding": "none"}
    return {"pythonClassName": f"{_CLASSES}.scalar.Scalar", "tensor": tensor, "description": description}


def _text(description: str) -> dict[str, Any]:
    return {"pythonClassName": f"{_CLASSES}.text_feature.Text", "text": {}, "description": description}


def make_info(name: str, splits: Mapping[str, Sequence[tuple[int, int]]], *, robot: str, version: str) -> dict[str, Any]:
    """Return dataset_info.json; `splits` has (episodes, bytes of their Examples) for each shard."""
    return {
        "name": name,
        "version": TFDS_VERSION,
        "description": f"Episodes of {robot}, dataset version {version}.",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split,
                "filepathTemplate": _TEMPLATE,
                "numBytes": str(sum(size for _, size in shards)),
                "shardLengths": [str(count) for count, _ in shards],
            }
            for split, shards in splits.items()
        ],
    }


def encode_episode(episode: Episode, task: str, images: Mapping[str, list[bytes]]) -> bytes:
    """Return an episode as a serialized Example; `images` has a JPEG for each frame by name in the observation.

    Raise DatasetError or SchemaMismatchError for frames that are not those of episode.json, or an episode too large for one Example.
    """
    _check_size(episode, images)
    length, vectors = episode.meta.length, _vectors(episode)
    last = [0] * (length - 1) + [1]
    features: dict[str, Values] = {f"steps/observation/{key}": jpegs for key, jpegs in images.items()}
    features |= {
        "steps/observation/state": vectors["observation.state"],
        "steps/action": vectors["action"],
        "steps/language_instruction": [task.encode()] * length,
        IS_FIRST: last[::-1],
        "steps/is_last": last,
        "steps/is_terminal": last,
        "steps/reward": [float(one) for one in last],
        "steps/discount": [1.0] * length,
        "episode_metadata/file_path": [episode.meta.recording.encode()],
        "episode_metadata/episode_id": [episode.meta.index],
    }
    return encode_example(features)


def _vectors(episode: Episode) -> dict[str, list[float]]:
    table, found = read_frames(episode), {}
    for name, names in zip(VECTORS, (episode.meta.state_names, episode.meta.action_names), strict=True):
        values = np.asarray(table[name].combine_chunks().flatten(), np.float32)
        if len(values) != len(names) * table.num_rows:
            raise SchemaMismatchError(
                "a vector in frames.parquet is not as wide as its names",
                episode=episode.id,
                stream=name,
                found=f"{len(values) / table.num_rows:g} numbers a row",
                expected=f"{len(names)}: {', '.join(names)}",
            )
        found[name] = values.tolist()
    return found


def _check_size(episode: Episode, images: Mapping[str, list[bytes]]) -> None:
    size = sum(len(jpeg) for jpegs in images.values() for jpeg in jpegs)
    # The rest of an Example is a few hundred bytes a step.
    if size > 0.95 * MAX_BYTES:
        raise DatasetError(
            "an episode is too large for RLDS, which keeps each in one record",
            episode=episode.id,
            found=f"{size / 1e9:.2f} GB of images in {episode.meta.length} steps",
            expected="2 GB",
            todo="Trim it in curation.yaml, or set a smaller image size.",
        )
