"""What the sections of a robot's YAML share: the words they may use, and a model that refuses unknown keys."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

type Kind = Literal[
    "joint", "gripper", "position", "quaternion_xyzw", "quaternion_wxyz",
    "rotation_vector", "rotation_rpy", "rotation_6d", "velocity", "other",
]  # fmt: skip
type Unit = Literal["rad", "deg", "m", "mm", "rad/s", "m/s", "N", "Nm", "px", "ratio", "1"]
type Resample = Literal["nearest", "hold", "linear"]
type Level = Literal["ignore", "note", "warn", "quarantine"]
# A list rather than a tuple: Dagster cannot draw a sample of a tuple's JSON schema.
type Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
type Role = Literal["base", "left_wrist", "right_wrist"]


class Strict(BaseModel):
    """Refuse unknown keys and say which known one is nearest."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields and not _is_alias(cls, key):
                    known = [f.alias or n for n, f in cls.model_fields.items()]
                    raise PydanticCustomError("unknown_key", "{said}", {"said": unknown_key(str(key), known), "key": str(key)})
        return data


def _is_alias(model: type[BaseModel], key: str) -> bool:
    return any(field.alias == key for field in model.model_fields.values())


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that is not in the schema."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"
