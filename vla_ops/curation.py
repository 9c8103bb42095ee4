"""`robots/<name>/curation.yaml`: episodes that are left out, cut, re-labelled or held out for validation, without touching a recording.

Only a trim converts its recording again; the rest applies where the dataset's episodes are collected (`vla_ops.episodes.curate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from vla_ops.spec import Strict
from vla_ops.yaml_file import Loc, Mistake, YamlFile

CURATION = "curation.yaml"


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("empty; write the text, or remove the key")
    return value.strip()


def _reason(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f'found {value!r}; write why, such as {{exclude: "the cup fell"}}')
    return value


type Text = Annotated[str, AfterValidator(_text)]
type Reason = Annotated[str, BeforeValidator(_reason), AfterValidator(_text)]


class Trim(Strict):
    """What of an episode is kept: the frames from `start_s` to `end_s`, counted from the first frame of the untrimmed episode."""

    start_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """First time that is kept, in seconds."""
    end_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Last time that is kept, in seconds. Default: the end."""

    @model_validator(mode="after")
    def _cuts(self) -> Self:
        if self.end_s is None and self.start_s == 0:
            raise ValueError("trim: cuts nothing; write start_s, end_s or both")
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"trim: keeps nothing, from start_s {self.start_s:g} to end_s {self.end_s:g}")
        return self

    def __str__(self) -> str:
        return f"{self.start_s:g} s to {'the end' if self.end_s is None else f'{self.end_s:g} s'}"


class Edit(Strict):
    """What is changed of one episode, or of all episodes of one recording."""

    exclude: Reason | None = None
    """Why it is not in the dataset."""
    task: Text | None = None
    """The task text, instead of the one it was recorded or converted with."""
    trim: Trim | None = None
    """What of it is kept."""

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if self.exclude is None and self.task is None and self.trim is None:
            raise ValueError("changes nothing; write exclude, task or trim")
        if self.exclude is not None and (self.task is not None or self.trim is not None):
            raise ValueError("an excluded episode has no task or trim; remove them, or `exclude`")
        return self


class HeldOut(Strict):
    """Episodes that are in the dataset for validation and that no training reads: those that any of the keys names."""

    episodes: list[str] = Field(default_factory=list)
    """Recording ids or episode ids."""
    stations: list[str] = Field(default_factory=list)
    """Names of folders the recordings lie in, or what the recordings themselves say as `station`."""
    fraction: float | None = Field(default=None, gt=0, lt=1, allow_inf_nan=False)
    """About this part of all episodes, each decided by its id and `seed` alone: it stays decided when recordings are added.

    What a gap or a clock jump cut one run into is decided as one. A fraction that holds out no episode is refused.
    """
    seed: int = 0
    """Another seed chooses others."""


class CurationSpec(Strict):
    """What curation.yaml holds."""

    episodes: dict[str, Edit] = Field(default_factory=dict)
    """Recording id (all its episodes) or recording id/k (its k-th, counted from 0) -> what is changed. The k-th's own entry counts more."""
    held_out: HeldOut = HeldOut()
    """Episodes for validation."""

    @model_validator(mode="before")
    @classmethod
    def _commented_out(cls, value: Any) -> Any:
        """A key of which every line was commented out is as good as none."""
        return {key: part for key, part in value.items() if part is not None} if isinstance(value, dict) else value


class Trims(Strict):
    """What is cut of the episodes of one recording."""

    whole: Trim | None = None
    """Of each that has no trim of its own."""
    episodes: dict[int, Trim] = Field(default_factory=dict)
    """Of the k-th."""

    def of(self, index: int) -> Trim | None:
        """The trim of the recording's episode `index`."""
        return self.episodes.get(index, self.whole)

    def __bool__(self) -> bool:
        return bool(self.whole or self.episodes)


@dataclass(frozen=True)
class Curation:
    """The curation of a robot's episodes, and the file it is from; without one it changes nothing."""

    spec: CurationSpec = field(default_factory=CurationSpec)
    file: YamlFile | None = None

    def exclusion(self, recording: str, index: int | None = None) -> str | None:
        """Why the episode, or without `index` the whole recording, is not in the dataset; None if it is."""
        return next((edit.exclude for edit in self._edits(recording, index) if edit.exclude is not None), None)

    def task(self, recording: str, index: int) -> str | None:
        """The episode's other task text, or None."""
        return next((edit.task for edit in self._edits(recording, index) if edit.task is not None), None)

    def trims(self, recording: str) -> Trims:
        """What is cut of the recording's episodes."""
        edit = self.spec.episodes.get(recording)
        return Trims(whole=edit.trim if edit else None, episodes=self._trims_of_single.get(recording, {}))

    def place(self, loc: Loc) -> str:
        """`<path>/curation.yaml:<line>` of a key."""
        return CURATION if self.file is None else f"{self.file.path}:{self.file.line(loc)}"

    @property
    def trimmed(self) -> dict[str, Any]:
        """Everything that is cut, as JSON."""
        return {key: edit.trim.model_dump() for key, edit in self.spec.episodes.items() if edit.trim}

    @property
    def decisions(self) -> dict[str, Any]:
        """Everything that changes the dataset, as JSON: not why an episode is excluded. Empty if nothing does."""
        edits = {key: edit.model_dump(exclude_none=True) for key, edit in self.spec.episodes.items()}
        said = {"episodes": {key: edit | ({"exclude": True} if "exclude" in edit else {}) for key, edit in edits.items()}}
        held_out = self.spec.held_out
        said["held_out"] = held_out.model_dump() if held_out.episodes or held_out.stations or held_out.fraction else {}
        return {key: value for key, value in said.items() if value}

    def _edits(self, recording: str, index: int | None) -> Iterator[Edit]:
        """The entries that speak of an episode, its own first."""
        for key in ([] if index is None else [f"{recording}/{index}"]) + [recording]:
            if key in self.spec.episodes:
                yield self.spec.episodes[key]

    @cached_property
    def _trims_of_single(self) -> dict[str, dict[int, Trim]]:
        trims: dict[str, dict[int, Trim]] = {}
        for key, edit in self.spec.episodes.items():
            single = split_episode(key)
            if single is not None and edit.trim is not None:
                trims.setdefault(single[0], {})[single[1]] = edit.trim
        return trims


def split_episode(key: str) -> tuple[str, int] | None:
    """`<recording id>/<k>` as its two parts; None for what cannot be an episode's id."""
    recording, _, number = key.rpartition("/")
    return (recording, int(number)) if recording and number.isdecimal() and str(int(number)) == number else None


def load_curation(folder: Path) -> Curation:
    """Read curation.yaml in a robot's folder. Raise SpecError with file:line and the nearest valid key; no file changes nothing."""
    path = folder / CURATION
    if not path.is_file():
        return Curation()
    file = YamlFile.read(path, "the robot's curation")
    if mistakes := [*file.doubled(), *_not_a_curation(file)]:
        raise file.mistaken(mistakes)
    try:
        return Curation(CurationSpec.model_validate(file.document or {}), file)
    except ValidationError as error:
        raise file.refused(error) from error


def _not_a_curation(file: YamlFile) -> Iterator[Mistake]:
    if file.document is not None and not isinstance(file.document, dict):
        yield Mistake(1, "expected the keys `episodes` and `held_out`")
        return
    episodes = (file.document or {}).get("episodes")
    for key in episodes if isinstance(episodes, dict) else ():
        if not isinstance(key, str):
            line = file.line(("episodes", str(key)))
            yield Mistake(line, f"episodes.{key}: YAML reads this id as a {type(key).__name__}, not as text; write it in quotes")
