"""The stored episodes as curation.yaml leaves them: some excluded, some with another task text, some held out for validation."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vla_ops.curation import CURATION, Curation, split_episode
from vla_ops.episodes.held_out import chosen_for_validation, refuse_idle_keys, stations_of
from vla_ops.episodes.plan import Found, Plan, quarantine_reasons, usable_episodes
from vla_ops.episodes.semantics.folders import folders_of
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.episodes.trim import UNFIT_TRIM
from vla_ops.errors import DatasetError
from vla_ops.robot_file import Robot
from vla_ops.yaml_file import Loc


@dataclass(frozen=True)
class Curated:
    """The episodes of a dataset, and the ids of those among them that no training reads."""

    episodes: list[Episode]
    held_out: frozenset[str] = frozenset()
    # Usable episodes that are left out, and those that have another task text than they were converted with.
    excluded: int = 0
    trimmed: int = 0
    relabelled: int = 0

    def __str__(self) -> str:
        changed = f"{self.excluded} excluded, {self.trimmed} trimmed, {self.relabelled} with another task text"
        return f"{changed}, {len(self.held_out)} held out"


def curated_episodes(robot: Robot, store: RobotStore, plan: Plan) -> Curated:
    """The usable episodes as the robot's curation leaves them, in the order of `usable_episodes`.

    Raise DatasetError, naming line and nearest id, for an entry that names nothing that is there or holds out no episode, and where
    none would be left for the dataset or for training.
    """
    usable, curation = usable_episodes(store, plan), robot.curation
    if mistakes := list(_unknown(curation, store, plan, usable)):
        raise DatasetError("\n".join([f"{CURATION} names what is not there", *mistakes]))
    if mistakes := list(_unfit_trims(curation, store)):
        raise DatasetError("\n".join([f"{CURATION} cuts what it cannot", *mistakes]))
    kept = [episode for episode in usable if curation.exclusion(episode.meta.recording, episode.meta.index) is None]
    if usable and not kept:
        todo = "Remove an `exclude`; what is in quarantine is not in the dataset anyway."
        raise DatasetError(f"{CURATION} excludes every usable episode of {robot.name}", found=f"{len(usable)} excluded", todo=todo)
    recorded_in = robot.spec.recordings.format
    if kept:
        refuse_idle_keys(curation, plan, usable=usable, kept=kept, format=recorded_in)
    held_out = chosen_for_validation(curation.spec.held_out, kept, format=recorded_in)
    if kept and len(held_out) == len(kept):
        todo = "Hold out fewer, or record more: a training needs episodes too."
        found = f"all {len(kept)} episodes held out"
        raise DatasetError(f"{CURATION} leaves no episode for training", file=curation.place(("held_out",)), found=found, todo=todo)
    named = [_named_anew(curation, episode) for episode in kept]
    relabelled = sum(new.meta.task != old.meta.task for new, old in zip(named, kept, strict=True))
    trimmed = sum(curation.trims(e.meta.recording).of(e.meta.index) is not None for e in kept)
    return Curated(named, held_out, excluded=len(usable) - len(kept), trimmed=trimmed, relabelled=relabelled)


def _named_anew(curation: Curation, episode: Episode) -> Episode:
    task = curation.task(episode.meta.recording, episode.meta.index)
    return episode if task is None else replace(episode, meta=replace(episode.meta, task=task))


def excluded_rows(curation: Curation, recordings: Collection[str]) -> list[dict[str, Any]]:
    """One row an exclusion of what is in `recordings`: recording, episode, reason."""
    rows, recordings = [], frozenset(recordings)
    for key, edit in curation.spec.episodes.items():
        recording, index = (key, "all") if key in recordings else split_episode(key) or (key, "all")
        if edit.exclude is not None and recording in recordings:
            rows.append({"recording": recording, "episode": index, "reason": edit.exclude})
    return rows


def not_in_the_dataset(
    robot: Robot, store: RobotStore, recordings: Collection[str], *, quarantined: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One row for what is in quarantine (read unless it is given), then one for what was excluded: recording, episode, reason."""
    excluded = [row | {"reason": f"excluded: {row['reason']}"} for row in excluded_rows(robot.curation, recordings)]
    missing = quarantine_reasons(store, robot.curation) if quarantined is None else quarantined
    return [*map(dict, missing), *excluded]


def _unfit_trims(curation: Curation, store: RobotStore) -> Iterator[str]:
    """Trims because of which an episode is not in the dataset, with their line: they would lose it without a word."""
    for key in curation.trimmed:
        recording, index = split_episode(key) or (key, None)
        entry = store.read_quarantine(recording) or store.read_quarantine(key)
        for rejected in entry["rejected"] if entry is not None else ():
            is_excluded = curation.exclusion(recording, rejected["index"]) is not None
            if rejected["reason"].startswith(UNFIT_TRIM) and index in (None, rejected["index"]) and not is_excluded:
                yield f"{curation.place(('episodes', key, 'trim'))}: {rejected['reason']}"


def _unknown(curation: Curation, store: RobotStore, plan: Plan, usable: Sequence[Episode]) -> Iterator[str]:
    """What is wrong with every name in the curation that nobody has."""
    found = {found.file.id: found for found in plan.found}
    ids = [*found, *(episode.id for episode in usable)]
    named: list[tuple[Loc, str]] = [(("episodes", key), key) for key in curation.spec.episodes]
    named += [(("held_out", "episodes", k), key) for k, key in enumerate(curation.spec.held_out.episodes)]
    for loc, key in named:
        if (why := _why_unknown(key, found, store)) is not None:
            yield f"{curation.place(loc)}: {why}; {_nearest(key, ids)}"
    if curation.spec.held_out.stations:
        stations = set[str]().union(*map(folders_of, found), *map(stations_of, usable))
        for k, station in enumerate(curation.spec.held_out.stations):
            if station not in stations:
                where = curation.place(("held_out", "stations", k))
                yield f"{where}: no recording is of station {station!r}; {_nearest(station, stations)}"


def _why_unknown(key: str, found: Mapping[str, Found], store: RobotStore) -> str | None:
    if key in found:
        return None
    single = split_episode(key)
    if single is None or single[0] not in found:
        return f"there is no recording or episode {key!r}"
    there = _indices(found[single[0]], store)
    if there is None or single[1] in there:
        return None
    return f"{single[0]} has no episode {single[1]}, only {', '.join(map(str, there[:10]))}{', ...' if len(there) > 10 else ''}"


def _indices(found: Found, store: RobotStore) -> list[int] | None:
    """The recording's episodes, rejected ones too; None while they are not known."""
    if found.state not in ("converted", "quarantined"):
        return None
    record, entry = store.read_recording(found.file.id), store.read_quarantine(found.file.id)
    rejected = [r["index"] for r in (record or entry or {}).get("rejected", [])]
    return sorted({*(record["episodes"] if record else []), *rejected}) or None


def _nearest(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}? Correct it, or remove the entry" if near else "correct it, or remove the entry"
