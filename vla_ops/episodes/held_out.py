"""Which episodes curation.yaml holds out for validation, and what is wrong with one of its keys that holds out none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

from vla_ops.curation import CURATION, Curation, HeldOut, split_episode
from vla_ops.episodes.plan import Plan
from vla_ops.episodes.semantics.folders import folders_of
from vla_ops.episodes.store import Episode, EpisodeMeta
from vla_ops.errors import DatasetError

# A recording whose episodes are not known yet.
_UNDECIDED = ("new", "changed", "unsettled")


def chosen_for_validation(held_out: HeldOut, episodes: Sequence[Episode], *, format: str) -> frozenset[str]:
    """Ids of the episodes of recordings in `format` that any key of `held_out` names."""
    listed, stations = set(held_out.episodes), set(held_out.stations)
    chosen = {e.id for e in episodes if e.id in listed or e.meta.recording in listed or stations & stations_of(e)}
    if held_out.fraction is not None:
        chosen |= {e.id for e in episodes if share_of(run_of(e.meta, format), held_out.seed) < held_out.fraction}
    return frozenset(chosen)


def share_of(run: str, seed: int) -> float:
    """A number from 0 to 1 that depends on the id and the seed alone, so that no other run changes it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{run}".encode()).digest()[:8], "big") / 2**64


def run_of(meta: EpisodeMeta, format: str) -> str:
    """The run that an episode is of, or is a part of that a gap or a clock jump left: the parts look alike and are on one side.

    An MCAP is one run. The other formats say where their episodes are: parts of one have its name. An MCAP's name cannot tell:
    after a clock jump each part has one of its own.
    """
    return meta.recording if format == "mcap" else f"{meta.recording}/{meta.name}"


def stations_of(episode: Episode) -> set[str]:
    """The folders the recording lies in, and the station it says itself."""
    said = {value for key, value in episode.meta.metadata.items() if key == "station" or key.endswith(".station")}
    return said.union(folders_of(episode.meta.recording))


def refuse_idle_keys(curation: Curation, plan: Plan, *, usable: Sequence[Episode], kept: Sequence[Episode], format: str) -> None:
    """Raise DatasetError, naming the line, for a key of `held_out` that holds out none of the `kept` episodes.

    `usable` are those, of which there is at least one, and the excluded ones. A recording that is not converted yet is taken on trust.
    """
    if mistakes := [*_idle_episodes(curation, plan, usable, kept), *_idle_stations(curation, plan, kept)]:
        raise DatasetError("\n".join([f"{CURATION} holds out what is not in the dataset", *mistakes]))
    held_out = curation.spec.held_out
    shares = [share_of(run_of(episode.meta, format), held_out.seed) for episode in kept]
    if held_out.fraction is not None and min(shares) >= held_out.fraction:
        raise _too_small_a_fraction(curation, held_out.fraction, shares)


def _idle_episodes(curation: Curation, plan: Plan, usable: Sequence[Episode], kept: Sequence[Episode]) -> Iterator[str]:
    states = {found.file.id: found.state for found in plan.found}
    named, named_at_all = _names_of(kept), _names_of(usable)
    for k, key in enumerate(curation.spec.held_out.episodes):
        recording, index = (key, None) if key in states else split_episode(key) or (key, None)
        if states.get(recording) in _UNDECIDED or key in named:
            continue
        excluded = key in named_at_all or curation.exclusion(recording, index) is not None
        why = "is excluded; remove it here, or its `exclude`" if excluded else "is in quarantine; remove it here, or mend the recording"
        yield f"{curation.place(('held_out', 'episodes', k))}: {key!r} {why}"


def _names_of(episodes: Sequence[Episode]) -> set[str]:
    """All that an entry may say to name one of the episodes."""
    return {name for episode in episodes for name in (episode.id, episode.meta.recording)}


def _idle_stations(curation: Curation, plan: Plan, kept: Sequence[Episode]) -> Iterator[str]:
    to_come = [found.file.id for found in plan.found if found.state in _UNDECIDED]
    there = set[str]().union(*map(stations_of, kept), *map(folders_of, to_come))
    for k, station in enumerate(curation.spec.held_out.stations):
        if station not in there:
            where = curation.place(("held_out", "stations", k))
            yield f"{where}: all recordings of station {station!r} are excluded or in quarantine; remove it here, or keep one of them"


def _too_small_a_fraction(curation: Curation, fraction: float, shares: Sequence[float]) -> DatasetError:
    # Three digits are enough to write, and rounded up they hold out the nearest.
    enough = (math.floor(min(shares) * 1000) + 1) / 1000
    larger = f"a larger fraction ({enough:g} holds out at least one)" if enough < 1 else "a larger fraction"
    return DatasetError(
        f"{CURATION} holds out no episode by `fraction`",
        file=curation.place(("held_out", "fraction")),
        found=f"none of {len(shares)} episode(s) with fraction {fraction:g} and seed {curation.spec.held_out.seed}",
        expected="at least one",
        todo=f"Write {larger}, another seed, or name them: `episodes: [...]`.",
    )
