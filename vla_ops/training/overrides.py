"""A training with some of its values replaced for one run, by dotted keys, and checked as the YAML is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from vla_ops.errors import SpecError
from vla_ops.spec import TrainingSpec, unknown_key


def overridden(training: TrainingSpec, overrides: Mapping[str, Any]) -> TrainingSpec:
    """The training with values replaced by dotted keys. Raise SpecError, naming the nearest key, for one that the YAML could not have."""
    document = dumped(training)
    for key, value in overrides.items():
        _put(document, key, value)
    try:
        return TrainingSpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(f"an override is refused: {mistakes(error)}", found=dict(overrides)) from error


def _put(document: dict[str, Any], dotted: str, value: Any) -> None:
    *way, last = dotted.split(".")
    node = document
    for k, key in enumerate(way):
        if key not in node:
            raise SpecError(f"an override is refused: {unknown_key(key, list(node))}", found=dotted)
        if node[key] is None:
            # A section that is left out begins with its defaults.
            node[key] = {}
        if not isinstance(node[key], dict):
            raise SpecError(
                f"an override is refused: {'.'.join(way[: k + 1])} is a value, not a section", found=dotted, expected=f"{key}: {node[key]}"
            )
        node = node[key]
    node[last] = value


def dumped(model: BaseModel) -> dict[str, Any]:
    """As the YAML has it."""
    return model.model_dump(mode="json", by_alias=True)


def mistakes(error: ValidationError) -> str:
    """Every mistake on one line, by its dotted key."""
    return "; ".join(f"{_where(found)}{str(found['msg']).removeprefix('Value error, ')}" for found in error.errors())


def _where(found: Any) -> str:
    # Names of a union's branches have a capital or a bracket.
    keys = [str(key) for key in found["loc"] if not (str(key)[:1].isupper() or "[" in str(key))]
    return f"{'.'.join(keys)}: " if keys else ""
