"""One source of a mixture as its trainings know it: what a model sees of it, its norm stats, and which robot it is of.

It stands in run.json and in an export's vla_ops.json, and is all that training, export and a policy of the source are made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_ops.errors import StatsMismatchError
from vla_ops.home import moved_here
from vla_ops.mixture_schema import Placement, Schema
from vla_ops.policies.policy_stats import PolicyStats, check_stats, read_stats
from vla_ops.robot import RobotSpec, fingerprint


@dataclass(frozen=True)
class PlacedRobot:
    """A robot, and where its numbers and images stand in a mixture."""

    name: str
    # Its YAML without its trainings.
    spec: RobotSpec
    placement: Placement

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"name": self.name, "spec": self.spec.model_dump(mode="json", by_alias=True), "placement": asdict(self.placement)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PlacedRobot:
        """The inverse of `to_json`. Raise KeyError, TypeError or ValidationError for what is none."""
        there = value["placement"]
        placement = Placement(tuple(there["state"]), tuple(there["action"]), there["cameras"])
        return cls(value["name"], RobotSpec.model_validate(value["spec"]), placement)


@dataclass(frozen=True)
class SourceRecipe:
    """What a source's frames in a mixture are normalised with."""

    name: str
    # What a model sees of this source.
    schema: Schema
    stats: Path
    stats_fingerprint: str
    # What the norm stats were made for.
    robot: str
    dataset_version: str
    # Whose frames they are, which a policy of the source needs; None in runs that were begun before it was written down.
    placed: PlacedRobot | None = None

    def read_stats(self) -> PolicyStats:
        """The norm stats. Raise StatsMismatchError for others than it was made with, FetchError where they are gone."""
        stats = read_stats(self.stats)
        horizon = self.schema.norm_stats.action_horizon
        check_stats(stats, self.schema, robot=self.robot, horizon=horizon, dataset_version=self.dataset_version)
        return same_stats(stats, self.stats_fingerprint, robot=self.name)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        placed = None if self.placed is None else self.placed.to_json()
        return {**vars(self), "schema": self.schema.to_json(), "stats": str(self.stats), "placed": placed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SourceRecipe:
        """The inverse of `to_json`. Raise KeyError, TypeError or ValidationError for what is none."""
        placed = value.get("placed")
        made = {"schema": Schema.from_json(value["schema"]), "stats": moved_here(Path(value["stats"]))}
        return cls(**{**value, **made, "placed": None if placed is None else PlacedRobot.from_json(placed)})


def same_stats(stats: PolicyStats, expected: str, *, robot: str) -> PolicyStats:
    """Return these norm stats. Raise StatsMismatchError unless they are those of that fingerprint."""
    if stats.fingerprint != expected:
        raise StatsMismatchError(
            "the norm stats are not those that the run was started with",
            robot=robot,
            file=stats.origin,
            found=stats.fingerprint,
            expected=expected,
            todo="Put them back, or start a new run.",
        )
    return stats


def trained_fingerprint(told: Mapping[str, Any], source: str | None) -> str | None:
    """Fingerprint of the transforms that a run was trained with, or one source of its mixture; `told` is what its run.json says.

    None before the run's first start.
    """
    if source is not None and "transforms" in told:
        return fingerprint(told["transforms"]["sources"][source])
    return told.get("transforms_fingerprint")
