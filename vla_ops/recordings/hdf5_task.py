"""What HDF5 files say of themselves where collectors and benchmarks put it: the task text, and which robot and environment it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.recordings.array_recording import plain_text
from vla_ops.recordings.hdf5_links import dataset_at, group_at

if TYPE_CHECKING:
    import h5py

_DATASETS = ("task", "language_instruction", "instruction", "language_raw", "prompt")
_ATTRIBUTES = ("language_instruction", "task", "instruction", "language", "task_description", "current_task")
# Attributes that are JSON with the text inside: robocasa, LIBERO, robomimic.
_JSON_ATTRIBUTES = ("ep_meta", "problem_info", "env_args", "env_info")
_JSON_KEYS = ("language_instruction", "lang", "language", "task_description")
_IDENTITY = ("env_name", "problem_name", "language_instruction", "robots", "gripper_types", "control_freq")


def task_of(file: h5py.File, group: str) -> str | None:
    """The task text of the episode in `group`: a dataset, then attributes of the episode, of `/data` and of the root."""
    for place in dict.fromkeys((group, "/")):
        for name in _DATASETS:
            text = _dataset_text(dataset_at(file, f"{place}/{name}"))
            if text:
                return text
    for place in dict.fromkeys((group, "/data", "/")):
        node = group_at(file, place)
        text = None if node is None else _attribute_text(node)
        if text:
            return text
    return None


def identity_in(attribute: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield what an attribute of JSON says of environment and robot, at most two levels deep, as `attribute.key` -> text."""
    if attribute not in _JSON_ATTRIBUTES:
        return
    try:
        value = json.loads(text)
    except ValueError:
        return  # Not JSON: see _inside_json.
    for path, inner in _inside(attribute, value, depth=2):
        if path.rpartition(".")[2] in _IDENTITY:
            yield path, ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)


def _inside(path: str, value: Any, *, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and depth:
        for key, inner in value.items():
            yield from _inside(f"{path}.{key}", inner, depth=depth - 1)
    elif not isinstance(value, dict):
        yield path, value


def _dataset_text(dataset: h5py.Dataset | None) -> str | None:
    """The text of a scalar, or of the first row where every step has it."""
    if dataset is None or dataset.dtype.kind not in "OS" or dataset.shape is None or 0 in dataset.shape:
        return None
    value = dataset[()] if dataset.shape == () else dataset[(0,) * len(dataset.shape)]
    if isinstance(value, np.ndarray):
        return None
    return _clean(plain_text(value))


def _attribute_text(group: h5py.Group) -> str | None:
    for name in _ATTRIBUTES:
        if name in group.attrs:
            text = _clean(plain_text(group.attrs[name]))
            if text:
                return text
    for name in _JSON_ATTRIBUTES:
        if name in group.attrs:
            text = _inside_json(plain_text(group.attrs[name]))
            if text:
                return text
    return None


def _inside_json(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        # Not JSON: older robosuite files put a file name or a Python literal here.
        return None
    found = next((value[key] for key in _JSON_KEYS if value.get(key)), None) if isinstance(value, dict) else None
    if isinstance(found, list):
        found = found[0] if len(found) == 1 else "".join(map(str, found))
    return _clean(found) if isinstance(found, str) else None


def _clean(text: str) -> str | None:
    # LIBERO stores the sentence with its quotes; fixed-length bytes can end in half a character.
    return text.rstrip("\ufffd").strip().strip('"').strip() or None
