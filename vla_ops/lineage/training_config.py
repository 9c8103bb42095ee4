"""A training's fields as Dagster config: the launchpad completes them and refuses others, and what is given overrides the YAML."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, TypeAliasType, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel

from vla_ops.spec import TrainingSpec

_SCALARS = {bool: dg.Bool, int: dg.Int, float: dg.Float, str: dg.String}


def launch_config(training: TrainingSpec) -> dict[str, dg.Field]:
    """Every field as an optional one of Dagster, described by its docstring and the value that it has in the YAML."""
    fields = _fields(TrainingSpec, training, "training")
    # Another asset's.
    del fields["export"]
    return fields


def overrides_of(training: TrainingSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and values of what was given in the launchpad; a section that the YAML leaves out begins with its defaults."""
    return _flat(training, given, "")


def _fields(model: type[BaseModel], now: BaseModel | None, path: str) -> dict[str, dg.Field]:
    found = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        value = getattr(now, name, None)
        described = " ".join((field.description or "").split())
        if "off" in get_args(field.annotation):
            # YAML reads it as false, which Dagster refuses before the training's own check can understand it.
            described += ' Write "off" in quotes.'
        if now is not None and not isinstance(value, BaseModel):
            described += f" (In the YAML, or by default: {_shown(value)})"
        kind = _kind(field.annotation, value if isinstance(value, BaseModel) else None, f"{path}.{key}")
        found[key] = dg.Field(kind, is_required=False, description=described)
    return found


def _kind(annotation: Any, now: BaseModel | None, path: str) -> Any:
    """The Dagster type of an annotation."""
    if isinstance(annotation, TypeAliasType):
        return _kind(annotation.__value__, now, path)
    if get_origin(annotation) in (Union, types.UnionType):
        return _union(get_args(annotation), now, path)
    if get_origin(annotation) is Literal:
        # Its name must be its own: Dagster takes two enums of one name for the same.
        return dg.Enum(f"{path}: {' | '.join(get_args(annotation))}", [dg.EnumValue(value) for value in get_args(annotation)])
    if get_origin(annotation) is list:
        return dg.Array(_kind(get_args(annotation)[0], None, path))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return dg.Shape(_fields(annotation, now if isinstance(now, annotation) else None, path))
    return _SCALARS.get(annotation, dg.Any)


def _union(branches: tuple[Any, ...], now: BaseModel | None, path: str) -> Any:
    some = [branch for branch in branches if branch is not type(None)]
    if len(some) == 1:
        return dg.Noneable(_kind(some[0], now, path))
    sections = [branch for branch in some if isinstance(branch, type) and issubclass(branch, BaseModel)]
    # A name, or a section of its own. Dagster has no union of an enum and a section.
    kind = dg.ScalarUnion(dg.String, _kind(sections[0], now, path)) if len(sections) == 1 else dg.Any
    return dg.Noneable(kind) if len(some) < len(branches) else kind


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flat(now: Any, given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        # A section where the YAML has a name, or nothing, is put there whole.
        section = _section(now, key)
        if isinstance(value, Mapping) and section is not None:
            found |= _flat(section, value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = dict(value) if isinstance(value, Mapping) else value
    return found


def _section(now: Any, key: str) -> BaseModel | None:
    name = next((name for name, field in type(now).model_fields.items() if (field.alias or name) == key), key)
    value = getattr(now, name, None)
    return value if isinstance(value, BaseModel) else None
