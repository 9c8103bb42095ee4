"""One episode for a person: what is known of it as text; its pictures and, with the extra `viz`, a Rerun recording in a folder.

It is shown as it is in the store, whatever the curation says of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_ops.curation import split_episode
from vla_ops.episodes.pictures import CONTACT_SHEET, PLOT, contact_sheet, plot_vectors
from vla_ops.episodes.plan import quarantine_reasons
from vla_ops.episodes.rerun_log import RRD, is_installed, write_rrd
from vla_ops.episodes.store import Episode, RobotStore, load_episode
from vla_ops.episodes.store_walk import stored_ids
from vla_ops.episodes.trim import made_with
from vla_ops.errors import RecordingError, StoreError
from vla_ops.files import replacing
from vla_ops.recordings.inspect import aligned
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot

NO_RERUN = f"no {RRD}: the Rerun SDK is not installed; `uv sync --extra viz` installs it"


@dataclass(frozen=True)
class Look:
    """What is known of an episode, and the files that show it."""

    episode: Episode
    facts: str
    folder: Path
    files: list[Path]
    # What is missing and how to get it, or empty.
    note: str = ""


def find_episode(store: RobotStore, wanted: str) -> Episode:
    """Return the episode `<recording id>/<k>`; the recording's id alone will do where it has only one.

    Raise RecordingError naming the nearest that is there, or why it is in quarantine.
    """
    known = stored_ids(store)
    recording, index = split_episode(wanted) or (wanted, None)
    if index is not None and recording in known and index in _indices(store, recording):
        return load_episode(store.recording_folder(recording) / str(index))
    indices = _indices(store, wanted) if wanted in known else []
    if len(indices) == 1:
        return load_episode(store.recording_folder(wanted) / str(indices[0]))
    if indices:
        todo = f"Name one: {wanted}/{indices[0]} .. {wanted}/{indices[-1]}."
        raise RecordingError("the recording has several episodes", file=wanted, found=len(indices), todo=todo)
    raise _unknown(store, wanted, known)


def _indices(store: RobotStore, recording: str) -> list[int]:
    return list((store.read_recording(recording) or {}).get("episodes", []))


def _unknown(store: RobotStore, wanted: str, known: Sequence[str]) -> RecordingError:
    recording, index = split_episode(wanted) or (wanted, "all")
    for row in quarantine_reasons(store):
        if row["recording"] in (recording, wanted) and row["episode"] in (str(index), "all"):
            return RecordingError("the episode is in quarantine", episode=wanted, found=row["reason"])
    ids = [f"{key}/{k}" for key in known for k in _indices(store, key)]
    near = difflib.get_close_matches(wanted, ids, n=1, cutoff=0.4)
    todo = f"Did you mean {near[0]!r}?" if near else f"There are {len(ids)}, such as {ids[0]!r}." if ids else "Nothing is converted yet."
    return RecordingError("no such episode", episode=wanted, todo=todo)


def look_at(wanted: str, robot: Robot, store: RobotStore, *, out: Path | None = None) -> Look:
    """Write the contact sheet, the plots and, if the Rerun SDK is there, episode.rrd of the episode called `wanted`.

    They go to the folder `out`, in which other files stay; default: looks/<episode id>/ of the store.
    """
    episode = find_episode(store, wanted)
    folder = out or store.root / "looks" / episode.id
    _check_files(episode, robot)
    said = facts(episode, robot)
    makers: dict[str, Callable[[Path], object]] = {PLOT: lambda path: path.write_bytes(plot_vectors(episode))}
    if episode.meta.videos:
        makers[CONTACT_SHEET] = lambda path: path.write_bytes(contact_sheet(episode))
    if is_installed():
        makers[RRD] = lambda path: write_rrd(path, episode, name=f"{robot.name} {episode.id}", facts=said, units=_units(robot.spec))
    for name in (CONTACT_SHEET, PLOT, RRD):
        if name in makers:
            with replacing(folder / name) as work:
                makers[name](work)
        else:
            # From an earlier look, when the episode was another.
            (folder / name).unlink(missing_ok=True)
    files = [folder / name for name in (CONTACT_SHEET, PLOT, RRD) if name in makers]
    return Look(episode, said, folder, files, "" if RRD in makers else NO_RERUN)


def _check_files(episode: Episode, robot: Robot) -> None:
    for path in (episode.frames, *map(episode.video, episode.meta.videos)):
        if not path.is_file():
            todo = f"Run `vla-ops convert {robot.name} --only {episode.meta.recording}`."
            raise StoreError("a file of the episode is missing", file=path, episode=episode.id, todo=todo)


def facts(episode: Episode, robot: Robot) -> str:
    """What is known of the episode as aligned plain text: task, length, cameras, skews, ranges by dimension, findings."""
    parts = [_head(episode, robot), _cameras(episode), _streams(episode), _dimensions(episode, robot.spec), _findings(episode)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(episode: Episode, robot: Robot) -> list[str]:
    meta = episode.meta
    rows = [
        ("  task", meta.task),
        ("  length", f"{meta.length} frames, {meta.length / meta.rate_hz:.2f} s at {meta.rate_hz} Hz"),
        ("  in the recording", meta.name),
        ("  folder", str(episode.folder)),
    ]
    if meta.spec_fingerprint != made_with(robot.spec, robot.curation.trims(meta.recording)):
        rows.append(("  outdated", f"the YAML or its curation has changed since: `vla-ops convert {robot.name}` makes it again"))
    rows += [("  curation", said) for said in _curation(episode, robot)]
    rows += [(f"  {key}", " ".join(value.split())[:100]) for key, value in meta.metadata.items()]
    return [f"{robot.name} {episode.id}", *aligned(rows)]


def _curation(episode: Episode, robot: Robot) -> list[str]:
    recording, index = episode.meta.recording, episode.meta.index
    excluded, task = robot.curation.exclusion(recording, index), robot.curation.task(recording, index)
    trim = robot.curation.trims(recording).of(index)
    said = {"not in the dataset": excluded, "its task there": task, "cut to": trim}
    return [f"{what}: {value}" for what, value in said.items() if value is not None]


def _cameras(episode: Episode) -> list[str]:
    rows: list[tuple[str, ...]] = [("camera", "height x width", "codec", "pixels", "frames", "MB")]
    for name, video in episode.meta.videos.items():
        size = f"{episode.video(name).stat().st_size / 1e6:.2f}"
        rows.append((name, f"{video.height} x {video.width}", video.codec, video.pix_fmt, str(video.frames), size))
    return aligned(rows, right={4, 5}) if len(rows) > 1 else []


def _streams(episode: Episode) -> list[str]:
    rows: list[tuple[str, ...]] = [("stream", "samples", "rate Hz", "skew ms p50", "p99", "max", "largest step ms", "dropped")]
    for name, seen in episode.meta.measured.items():
        if "skew_ms" in seen:
            numbers = [seen["samples"], seen["rate_hz"], *(seen["skew_ms"][q] for q in ("p50", "p99", "max")), seen["largest_step_ms"]]
            rows.append((name, *("-" if n is None else f"{n:g}" for n in numbers), f"{seen['dropped_fraction']:.1%}"))
    return aligned(rows, right=range(1, 8)) if len(rows) > 1 else []


def _dimensions(episode: Episode, spec: RobotSpec) -> list[str]:
    units = _units(spec)
    ranges = {
        "state": _ranges(episode, "observation.state", episode.meta.state_names),
        "action": _ranges(episode, "action", episode.meta.action_names),
    }
    rows: list[tuple[str, ...]] = [("dimension", "unit", "state min", "max", "mean", "action min", "max", "mean")]
    for name in dict.fromkeys([*ranges["state"], *ranges["action"]]):
        rows.append((name, units.get(name, "-"), *ranges["state"].get(name, _NONE), *ranges["action"].get(name, _NONE)))
    return aligned(rows, right=range(2, 8))


_NONE = ("-", "-", "-")


def _ranges(episode: Episode, feature: str, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Dimension -> its min, max and mean in this episode."""
    stats = episode.meta.stats[feature]
    return {name: tuple(f"{stats[which][k]:.4g}" for which in ("min", "max", "mean")) for k, name in enumerate(names)}


def _units(spec: RobotSpec) -> dict[str, str]:
    """Dimension -> unit; both, where state and action of one name have different ones."""
    units: dict[str, dict[str, None]] = {}
    for dim in (*spec.state_dims, *spec.action_dims):
        units.setdefault(dim.name, {})[dim.unit] = None
    return {name: ", ".join(found) for name, found in units.items()}


def _findings(episode: Episode) -> list[str]:
    found = [(f"  {finding.level}", finding.check, finding.message) for finding in episode.meta.findings]
    return ["findings", *aligned(found)] if found else ["findings: none"]
