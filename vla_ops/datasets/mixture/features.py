"""The features of a mixture: the vectors and videos of LeRobot, and beside each a mask that says what of it is real.

A mask's name begins with `mask.`: LeRobot makes policy inputs of all that begins with `observation.` and outputs of all that
begins with `action`, and hands anything else through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vla_ops.datasets.lerobot_features import INDEX_COLUMNS, video_key
from vla_ops.datasets.mixture.sources import SourceData
from vla_ops.mixture_schema import VECTORS, Placement, Schema, Vector

COLUMN: Mapping[Vector, str] = {"state": "observation.state", "action": "action"}


def mask_key(feature: str) -> str:
    """Name of the mask of a vector or a camera's feature."""
    return f"mask.{feature}"


def masks(schema: Schema, placement: Placement) -> dict[str, list[bool]]:
    """Mask -> its values, the same in all frames of a source placed so."""
    found = {mask_key(COLUMN[vector]): list(placement.has(vector)) for vector in VECTORS}
    return found | {mask_key(video_key(camera)): [placement.cameras[camera] is not None] for camera in schema.cameras}


def mixture_features(schema: Schema, sources: Sequence[SourceData]) -> dict[str, dict[str, Any]]:
    """Return info.json's `features`."""
    names = {COLUMN[vector]: [dim.name for dim in schema.dims(vector)] for vector in VECTORS}
    vectors = {key: {"dtype": "float32", "shape": [len(held)], "names": held} for key, held in names.items()}
    videos = {video_key(camera): _video(camera, sources) for camera in schema.cameras}
    flags = {
        key: {"dtype": "bool", "shape": [len(values)], "names": names.get(key.removeprefix(mask_key("")))}
        for key, values in masks(schema, sources[0].source.placement).items()
    }
    indices = {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in INDEX_COLUMNS.items()}
    return vectors | videos | flags | indices


def _video(camera: str, sources: Sequence[SourceData]) -> dict[str, Any]:
    """The first source's feature, without the encoder settings that others do not share. Its codec is that of its own files."""
    found = [data.features[video_key(own)] for data in sources if (own := data.source.placement.cameras[camera]) is not None]
    first = found[0]
    kept = {"video.codec", "video.pix_fmt"}
    info = {key: value for key, value in first["info"].items() if key in kept or all(other["info"].get(key) == value for other in found)}
    return {**first, "info": info}
