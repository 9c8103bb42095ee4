"""Judge the task texts: empty, junk, or another folder's.

A policy is conditioned on this text: wrong ones teach it that the prompt means nothing. Where recordings lie in folders by task,
a text that is another folder's is a mistake; other words for the same task are not, and are never called one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vla_ops.episodes.semantics.episode_list import named
from vla_ops.episodes.semantics.folders import folders_of, levels, recordings_in
from vla_ops.episodes.semantics.seen import Seen
from vla_ops.episodes.semantics.task_text import is_junk, normalized, share_a_word
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.robot import RobotSpec

# A folder's text is the one that at least this share of its recordings, and this many, have.
_MAJORITY = 0.8
_FEWEST = 3

type Folders = Mapping[str, Sequence[EpisodeMeta]]


@dataclass(frozen=True)
class _Level:
    """The folders of one depth, with what the texts of each say; looked up, so that many folders are not compared pair by pair."""

    folders: Folders
    # Episode -> its text, normalized.
    texts: Mapping[str, str]

    @cached_property
    def majorities(self) -> Mapping[str, str]:
        """Folder -> the text of most of its recordings, or nothing."""
        return {folder: _majority(metas, self.texts) for folder, metas in self.folders.items()}

    @cached_property
    def _named(self) -> Mapping[str, list[str]]:
        return _inverse({folder: _name(folder) for folder in self.folders})

    @cached_property
    def _with_majority(self) -> Mapping[str, list[str]]:
        return _inverse(self.majorities)

    @cached_property
    def _each_has_its_own(self) -> bool:
        each = list(self.majorities.values())
        return len(each) > 1 and all(each) and len(set(each)) == len(each)

    def owner(self, text: str, folder: str) -> str | None:
        """Another folder whose task this text is, by its name or by its recordings, where it is not this folder's."""
        if text == _name(folder):
            return None
        if named_so := _other(self._named.get(text, ()), folder):
            return named_so
        if text == self.majorities[folder] or not self.is_by_task(folder):
            return None
        return _other(self._with_majority.get(text, ()), folder)

    def is_by_task(self, folder: str) -> bool:
        """Whether folders are by task, not by station or date: each has a text of its own, or this one is named after its text."""
        majority = self.majorities[folder]
        if majority and share_a_word(_name(folder), majority) and _name(folder).isascii() == majority.isascii():
            return True
        return self._each_has_its_own


def _inverse(of: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for folder, text in of.items():
        found.setdefault(text, []).append(folder)
    return found


def _other(folders: Sequence[str], than: str) -> str | None:
    """The first that is another one."""
    return next((folder for folder in folders[:2] if folder != than), None)


def judge_tasks(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Name empty and junk texts, and those that are not their folder's."""
    texts = {meta.id: normalized(meta.task) for meta in seen.metas}
    found = list(_without_sense(seen.metas, texts, spec))
    if spec.task.origin == "recording":
        usable = [meta for meta in seen.metas if texts[meta.id] and not is_junk(texts[meta.id])]
        found += _of_another_folder(usable, texts)
    distinct = len(set(texts.values()))
    return found or [
        Verdict("tasks", "task texts", "agrees", f"{distinct} different text(s) in {len(seen.metas)} episodes, none without sense")
    ]


def _without_sense(metas: Sequence[EpisodeMeta], texts: Mapping[str, str], spec: RobotSpec) -> Iterator[Verdict]:
    by_text: dict[str, list[EpisodeMeta]] = {}
    for meta in metas:
        if not texts[meta.id] or is_junk(texts[meta.id]):
            by_text.setdefault(meta.task.strip(), []).append(meta)
    for text, those in by_text.items():
        kind = "says nothing of a task" if normalized(text) else "is empty"
        found = f"the text of {len(those)} of {len(metas)} episodes {kind}: {named([meta.id for meta in those])}"
        todo = "It is the prompt that the policy learns. " + (
            "Write what the robot does: `task: {text: ...}`"
            if len(those) == len(metas) or spec.task.text
            else "Write it in curation.yaml: " + _relabelled(those, "what the robot does")
        )
        yield Verdict("tasks", f"task {text!r}", "contradicts", found, "a task text", f"{todo}.")


def _relabelled(metas: Sequence[EpisodeMeta], text: str) -> str:
    key, value = (json.dumps(said, ensure_ascii=False) for said in (metas[0].id, text))
    return f"`episodes: {{{key}: {{task: {value}}}{', ...' if len(metas) > 1 else ''}}}`"


def _of_another_folder(metas: Sequence[EpisodeMeta], texts: Mapping[str, str]) -> list[Verdict]:
    """What is wrong at the outermost level of folders at which anything is, else what cannot be told."""
    unsure: list[Verdict] = []
    for folders in levels(metas):
        level = _Level(folders, texts)
        verdicts = [verdict for folder in folders for verdict in _judge_folder(folder, level)]
        if any(verdict.answer == "contradicts" for verdict in verdicts):
            return verdicts
        # Folders within folders of tasks have the same texts again.
        unsure = unsure or verdicts
    return unsure


def _judge_folder(folder: str, level: _Level) -> Iterator[Verdict]:
    metas, by_text = level.folders[folder], dict[str, list[EpisodeMeta]]()
    for meta in metas:
        by_text.setdefault(level.texts[meta.id], []).append(meta)
    majority, name = level.majorities[folder], _name(folder)
    for text, those in by_text.items():
        if owner := level.owner(text, folder):
            yield _contradiction(folder, metas, those, f"which is the task of folder {owner}")
        elif text != majority and majority and _is_odd(text, majority, name) and level.is_by_task(folder):
            yield _contradiction(folder, metas, those, "which has no word in common with the others' text")
    if len(by_text) > 1 and not majority:
        found = f"cannot tell which of {len(by_text)} texts is right: none is that of {_MAJORITY:.0%} and at least {_FEWEST} recordings"
        yield Verdict("tasks", f"folder {folder}", "cannot tell", found)


def _contradiction(folder: str, metas: Sequence[EpisodeMeta], those: Sequence[EpisodeMeta], why: str) -> Verdict:
    found = f"{len(those)} of {len(metas)} episodes say {those[0].task!r}, {why}: {named([meta.id for meta in those])}"
    others = Counter(meta.task.strip() for meta in metas if normalized(meta.task) != normalized(those[0].task))
    right = others.most_common(1)[0][0] if others else _name(folder)
    todo = f"Move them to their folder, or write the text in curation.yaml: {_relabelled(those, right)}."
    return Verdict("tasks", f"folder {folder}", "contradicts", found, "each recording's own text, in a folder of one task", todo)


def _majority(metas: Sequence[EpisodeMeta], texts: Mapping[str, str]) -> str:
    """The text of most recordings, or nothing where that is not clear."""
    (text, _) = Counter(texts[meta.id] for meta in metas).most_common(1)[0]
    with_it = recordings_in([meta for meta in metas if texts[meta.id] == text])
    return text if with_it >= max(_FEWEST, _MAJORITY * recordings_in(metas)) else ""


def _is_odd(text: str, majority: str, name: str) -> bool:
    return not share_a_word(text, majority) and not share_a_word(text, name)


def _name(folder: str) -> str:
    return normalized(folders_of(f"{folder}/x")[-1])
