"""The section on where numbers go besides the run's own folder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from vla_ops.spec.base import Strict


class MetricsSpec(Strict):
    """Where curves go; a metrics.jsonl in the run folder always."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases. `online` needs WANDB_API_KEY in the environment; nobody is ever asked in a terminal."""
    project: str = "vla_ops"
    """W&B project."""
    entity: str | None = None
    """W&B team; default: the account's own."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        # YAML reads `off` as false.
        return "off" if value is False else value
