"""Which parameters are trained, decided by their paths alone; no jax here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vla_ops.models.config import ModelConfig


@dataclass(frozen=True)
class Freeze:
    """Regular expressions on the whole '/'-joined path: frozen is what matches one of `matching` and none of `unless`."""

    matching: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*self.matching, *self.unless):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"freeze pattern {pattern!r} is not a regular expression: {error}") from error

    def frozen(self, path: str) -> bool:
        """Return whether the parameter of this path is kept as it is."""
        return _any(self.matching, path) and not _any(self.unless, path)

    def is_trained(self, path: tuple[Any, ...], _value: object = None) -> bool:
        """Answer as an nnx filter: `nnx.split(model, freeze.is_trained, ...)`, `nnx.DiffState(0, freeze.is_trained)`."""
        return not self.frozen("/".join(str(part) for part in path))

    def train_dtype(self, path: str, dtype: str = "float32") -> str:
        """Return the type in which training holds the parameter: frozen ones are bfloat16, as in openpi."""
        return "bfloat16" if self.frozen(path) else dtype

    def unused(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns of `matching` that match no path: most likely a mistyped one."""
        known = list(paths)
        return tuple(pattern for pattern in self.matching if not any(re.fullmatch(pattern, path) for path in known))


def lora_freeze(config: ModelConfig) -> Freeze:
    """Return openpi's rule: of an expert with LoRA only the factors are trained; nothing is frozen without LoRA.

    The image tower and the projections of state, action and time stay trained. The embedding table is the first expert's.
    """
    paligemma, action_expert = config.has_lora
    if paligemma:
        return Freeze((".*llm.*",), (".*lora.*",) if action_expert else (".*llm.*_1.*", ".*lora.*"))
    return Freeze((".*llm.*_1.*",), (".*lora.*",)) if action_expert else Freeze()


def _any(patterns: tuple[str, ...], path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)
