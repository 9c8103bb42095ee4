"""MixtureSpec: the schema of a mixture's YAML, a dataset made of several robots' datasets with weights.

What is derived from it and from the robots (one vector, one set of cameras) is `vla_ops.mixture_schema`; reading the file, with line
numbers, is `vla_ops.mixture_file`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from vla_ops.spec.base import Strict
from vla_ops.spec.publishing import hub_name
from vla_ops.spec.training import Trainings

type Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


class SourceSpec(Strict):
    """One robot's dataset in the mixture."""

    robot: str
    """The robot: name of a folder beside the mixture's."""
    name: Name | None = None
    """What the mixture calls this source. Default: the robot's name. A robot that is there twice needs two names."""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How often a training reads this source against the others, however many frames it has. Written for every source or for none:
    without weights each frame of the mixture is read equally often."""
    tasks: list[str] | None = Field(default=None, min_length=1)
    """Only the episodes with these task texts. Default: all."""
    cameras: dict[str, Name] = Field(default_factory=dict)
    """The robot's name of a camera -> the mixture's. Those not listed keep their names."""
    dims: dict[str, Name] = Field(default_factory=dict)
    """The robot's name of a dimension of state or action -> the mixture's. Those not listed keep their names."""

    @property
    def called(self) -> str:
        """The source's name in the mixture."""
        return self.name or self.robot


class SchemaSpec(Strict):
    """What the mixture's frames hold, by the mixture's names, in order. What is listed nowhere is left out of the mixture."""

    state: list[Name] | None = Field(default=None, min_length=1)
    """Dimensions of the state. Default: all of all sources, in the order of first appearance."""
    action: list[Name] | None = Field(default=None, min_length=1)
    """Dimensions of the action. Default: as for the state."""
    cameras: list[Name] | None = None
    """Cameras. Default: as for the state."""


class MixtureDatasetSpec(Strict):
    """The dataset that is made."""

    repo_id: Annotated[str, AfterValidator(hub_name)]
    """Name on the Hugging Face Hub, `owner/name`."""
    licence: str = "other"
    """Licence in the dataset card, as an SPDX id or `other`; the card names those of the sources too."""


class MixtureSpec(Strict):
    """Several robots' datasets as one."""

    sources: list[SourceSpec] = Field(min_length=1)
    """What it is made of; order here is the order of the episodes when the mixture is first made."""
    names: SchemaSpec = Field(default=SchemaSpec(), alias="schema")
    """Which dimensions and cameras, and in which order."""
    norm_stats: Literal["per_source", "merged"] = "per_source"
    """`per_source`: those of each source, laid out by the mixture's names. `merged`: beside them, one of all sources with their weights."""
    dataset: MixtureDatasetSpec
    """The dataset that is made."""
    trainings: Trainings = Field(default_factory=dict)
    """Training name -> what is trained on the dataset, and how: each source is drawn by its weight and normalised by its norm stats."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)
