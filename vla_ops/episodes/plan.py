"""What there is to convert: the recordings as they are now against the episodes in the store."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vla_ops.curation import Curation
from vla_ops.episodes.convert import Conversion, remember
from vla_ops.episodes.identity import check_identity
from vla_ops.episodes.progress import Reading
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.episodes.store_walk import converted_ids, folders_with_work, quarantined_ids
from vla_ops.episodes.task_file import version_with_task
from vla_ops.episodes.trim import made_with
from vla_ops.errors import DatasetError, RecordingError, VlaOpsError
from vla_ops.files import sweep
from vla_ops.recordings.discover import ContentVersions, RecordingFile, list_recordings, same_names
from vla_ops.robot import fingerprint as hash_of
from vla_ops.robot_file import Robot

type Say = Callable[[str], None]
type State = Literal["new", "changed", "converted", "quarantined", "unsettled", "duplicate", "same id", "unreadable", "misplaced"]
# Put in quarantine by the plan itself: their bytes need not be opened to know that they cannot be used.
# `misplaced`: converted, and of what it says of itself something is not what `must_say` now is.
REFUSED = ("duplicate", "same id", "unreadable", "misplaced")


@dataclass(frozen=True)
class Found:
    """One recording as it is now. `version` is its content; empty while it is unsettled or cannot be read."""

    file: RecordingFile
    version: str
    state: State
    # Why it is refused without being opened.
    reason: str = ""
    # What it should say of itself, where that is the reason.
    must_say: Mapping[str, str] | None = None
    # Data version of its episodes that are in the dataset as it is; empty where there are none, or where they are to be made again.
    made: str = ""


@dataclass(frozen=True)
class Plan:
    """Every recording that is there, in natural order, and the ids of those that are gone but still in the store."""

    found: list[Found]
    removed: list[str]
    # Of the part of the YAML that conversion reads.
    fingerprint: str
    # Recording -> that and what curation.yaml cuts of it, where it does.
    trimmed: Mapping[str, str] = field(default_factory=dict)

    def fingerprint_of(self, recording: str) -> str:
        """Of all that the recording is to be converted with."""
        return self.trimmed.get(recording, self.fingerprint)

    @property
    def todo(self) -> list[tuple[RecordingFile, str]]:
        """The new and changed recordings with their content versions."""
        return [(f.file, f.version) for f in self.found if f.state in ("new", "changed")]

    def counts(self) -> dict[str, int]:
        """How many recordings are in each state."""
        return dict(Counter(f.state for f in self.found)) | ({"removed": len(self.removed)} if self.removed else {})


@dataclass(frozen=True)
class _Observed:
    """A recording in the listing, its content version, and why it has none. `content` is the version of its own bytes alone."""

    file: RecordingFile
    version: str = ""
    unreadable: str | None = None
    content: str = ""


def remembered_contents(store: RobotStore) -> dict[str, tuple[int, str]]:
    """Recording -> its size and the listing's stamp when a run last read it."""
    return {key: (known["size"], known["stamp"]) for key, known in ContentVersions.load(_contents(store)).known.items()}


def _contents(store: RobotStore) -> Path:
    return store.root / "recordings.json"


def observe(robot: Robot, store: RobotStore) -> list[tuple[RecordingFile, str]]:
    """List the recordings with their content versions; one that is unsettled or cannot be read has an empty version."""
    return [(seen.file, seen.version) for seen in _observe(robot, store)]


def _observe(robot: Robot, store: RobotStore, say: Say | None = None) -> list[_Observed]:
    files = list_recordings(robot.recordings_uri, robot.spec.recordings.pattern)
    versions, now_s = ContentVersions.load(_contents(store)), time.time()
    reading, observed = Reading(say or (lambda _: None)), []
    for file in files:
        try:
            content = versions.of(file, reading.add) if file.is_settled(robot.spec.recordings.settle_s, now_s) else ""
            task = robot.spec.task.file if content else None
            observed.append(_Observed(file, version_with_task(content, file.uri, task) if task else content, content=content))
        except RecordingError as error:
            observed.append(_Observed(file, unreadable=str(error)))
    versions.save(file.id for file in files)
    return observed


def episodes_version(source_version: str, spec_fingerprint: str, episodes: Sequence[int]) -> str:
    """Data version of a recording's episodes: its bytes, what they were converted with, and which of them are usable."""
    return hash_of([source_version, spec_fingerprint, list(episodes)])


def make_plan(robot: Robot, store: RobotStore, *, again: Collection[str] = (), say: Say | None = None) -> Plan:
    """Compare what is there with what is stored; nothing is changed. Recordings in `again` are converted whatever the store says."""
    fingerprint, trimmed, again = robot.spec.conversion_fingerprint, dict[str, str](), frozenset(again)
    observed = _observe(robot, store, say)
    refused, stored = _refused(observed, robot), _Stored(store)
    found: list[Found] = []
    for seen in observed:
        key = seen.file.id
        if key in refused:
            found.append(Found(seen.file, seen.version, refused[key].state, refused[key].reason))
        else:
            if trims := robot.curation.trims(key):
                trimmed[key] = made_with(robot.spec, trims)
            found.append(_found(robot, stored, seen, fingerprint=trimmed.get(key, fingerprint), again=again))
    present = {f.file.id for f in found}
    return Plan(found, [key for key in stored.ids if key not in present], fingerprint, trimmed)


class _Stored:
    """What the store has, listed once: most recordings have no quarantine entry, and new ones have nothing."""

    def __init__(self, store: RobotStore) -> None:
        self.store, self.converted, self.quarantined = store, converted_ids(store), quarantined_ids(store)

    @property
    def ids(self) -> list[str]:
        """Of all recordings it has something of."""
        return sorted(self.converted | self.quarantined)

    def recording(self, key: str) -> dict[str, Any] | None:
        """recording.json, or None."""
        return self.store.read_recording(key) if key in self.converted else None

    def quarantine(self, key: str) -> dict[str, Any] | None:
        """The quarantine entry, or None."""
        return self.store.read_quarantine(key) if key in self.quarantined else None


def _found(robot: Robot, store: _Stored, seen: _Observed, *, fingerprint: str, again: Collection[str]) -> Found:
    key, must_say = seen.file.id, robot.spec.recordings.must_say
    record = store.recording(key)
    state = _state(record, store.quarantine(key), seen.version, fingerprint=fingerprint, must_say=must_say)
    if key in again and state not in ("unsettled", "new"):
        return Found(seen.file, seen.version, "changed")
    if state == "converted" and record is not None:
        try:
            check_identity(record.get("says", {}), key, must_say)
        except VlaOpsError as error:
            return Found(seen.file, seen.version, "misplaced", str(error.at(file=key)), must_say)
    return Found(seen.file, seen.version, state, made=_made(record, fingerprint) if state in ("converted", "unsettled") else "")


def _made(record: dict[str, Any] | None, fingerprint: str) -> str:
    """Data version of the episodes of recording.json; empty if there are none, or if they are of another YAML."""
    if record is None or record["spec_fingerprint"] != fingerprint:
        return ""
    return episodes_version(record["source_version"], fingerprint, record["episodes"])


@dataclass(frozen=True)
class _Refusal:
    state: State
    reason: str


def _refused(observed: Sequence[_Observed], robot: Robot) -> dict[str, _Refusal]:
    """Recordings that cannot be used as the listing alone tells, by id."""
    refused: dict[str, _Refusal] = {}
    same_name, first_with = same_names(seen.file for seen in observed), dict[str, str]()
    for seen in observed:
        key = seen.file.id
        if seen.unreadable is not None:
            refused[key] = _Refusal("unreadable", seen.unreadable)
        elif key in same_name:
            said = f"two recordings with the same id [file {key}]; found {same_name[key]}, which differs only in case or Unicode form"
            refused[key] = _Refusal("same id", f"{said}. Rename one of them.")
        elif seen.content and robot.spec.recordings.duplicates == "quarantine":
            twin = first_with.setdefault(seen.content, key)
            if twin != key:
                said = f"the recording has the same bytes as {twin} [file {key}]"
                refused[key] = _Refusal("duplicate", f"{said}. Delete one, or write `recordings: {{duplicates: keep}}`.")
    return refused


def refuse(store: RobotStore, found: Found) -> Conversion | None:
    """Put a refused recording into quarantine; None if it is there with this reason already."""
    known = store.read_quarantine(found.file.id)
    if known is not None and known["quarantined"] == found.reason:
        return None
    if found.state == "misplaced":
        return _set_aside(store, found)
    # Without a fingerprint, so that it counts as changed once the reason is gone: its twin deleted, its name changed.
    refusal = Conversion(found.file.id, found.version, "", quarantined=found.reason)
    remember(store, refusal)
    return refusal


def _set_aside(store: RobotStore, found: Found) -> Conversion | None:
    """Put a converted recording into quarantine and keep its episodes: another `must_say` needs no other bytes."""
    record = store.read_recording(found.file.id)
    if record is None or found.must_say is None:
        return None
    # Of the same bytes and YAML as its episodes: otherwise the entry would be one that a killed run left.
    converted = replace(Conversion.from_json(record), quarantined=found.reason, must_say=dict(found.must_say))
    refusal = replace(converted, episodes=[], rejected=[], frames=0, size=0)
    store.write_quarantine(found.file.id, asdict(refusal))
    return refusal


def take_back(store: RobotStore, plan: Plan) -> Iterator[str]:
    """Clear the quarantine entries of recordings that are usable again as they were converted, and yield their ids."""
    quarantined = quarantined_ids(store)
    for found in plan.found:
        entry = store.read_quarantine(found.file.id) if found.state == "converted" and found.file.id in quarantined else None
        if entry is None or entry["quarantined"] is None:
            continue
        record = store.read_recording(found.file.id)
        if record is not None:
            remember(store, Conversion.from_json(record))
            yield found.file.id


def _made_from(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["source_version"], entry["spec_fingerprint"]


def _state(
    record: dict[str, Any] | None, quarantine: dict[str, Any] | None, version: str, *, fingerprint: str, must_say: Mapping[str, str]
) -> State:
    if not version:
        return "unsettled"
    if record is None and (quarantine is None or quarantine["quarantined"] is None):
        return "new"  # In the second case its episodes were deleted by hand.
    # A recording of which some episodes were rejected has both; its episodes then decide.
    entry = record if record is not None else quarantine
    if entry is None or _made_from(entry) != (version, fingerprint):
        return "changed"
    if record is None and entry.get("must_say") not in (None, must_say):
        return "changed"  # Only what it says of itself kept it out, and something else is asked for now.
    return "converted" if record is not None else "quarantined"


def forget(store: RobotStore, ids: Collection[str]) -> None:
    """Remove the episodes and quarantine entries of recordings that are gone."""
    for key in ids:
        shutil.rmtree(store.recording_folder(key), ignore_errors=True)
        store.quarantine_file(key).unlink(missing_ok=True)
        for top, last in ((store.episodes, store.recording_folder(key)), (store.quarantine, store.quarantine_file(key))):
            _remove_empty(top, last.parent)


def _remove_empty(top: Path, folder: Path) -> None:
    """Remove `folder` and those above it, below `top`, as far as they are empty."""
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def sweep_store(store: RobotStore) -> list[Path]:
    """Remove what killed processes left anywhere in the robot's folder."""
    return [left for folder in [*folders_with_work(store)] for left in sweep(folder)]


def forget_outdated(store: RobotStore, plan: Plan, ids: Collection[str]) -> None:
    """Remove the episodes of recordings that were to be converted again and could not be, unless they are as good as new ones."""
    among = frozenset(ids)
    for found in plan.found:
        record = store.read_recording(found.file.id) if found.file.id in among else None
        if record is not None and _made_from(record) != (found.version, plan.fingerprint_of(found.file.id)):
            forget(store, [found.file.id])


def usable_episodes(store: RobotStore, plan: Plan) -> list[Episode]:
    """The stored episodes of the recordings that are there, by natural order of recording and then of episode.

    Raise DatasetError naming them if some were made from other bytes or with another YAML than the present ones: a dataset holds
    one kind of episode.
    """
    if outdated := [found.file.id for found in plan.found if found.state == "changed" and store.read_recording(found.file.id) is not None]:
        raise DatasetError(
            "recordings are not converted as they and the YAML now are",
            found=", ".join(outdated[:5]) + (f" and {len(outdated) - 5} more" if len(outdated) > 5 else ""),
            todo="Convert all that is new or changed first: the ingest job, or `vla-ops convert ROBOT` without --only.",
        )
    episodes = [e for found in plan.found if found.state != "misplaced" for e in store.read_episodes(found.file.id)]
    # Of a recording that is being rewritten the last good episodes stay, unless they are of another YAML.
    return [episode for episode in episodes if episode.meta.spec_fingerprint == plan.fingerprint_of(episode.meta.recording)]


def quarantine_reasons(store: RobotStore, curation: Curation | None = None) -> list[dict[str, Any]]:
    """One row a recording or rejected episode that is not in the dataset: recording, episode, reason.

    What `curation` excludes is not among them: someone decided that it is not missed.
    """
    curation = curation or Curation()
    rows: list[dict[str, Any]] = []
    for entry in store.quarantined():
        record = store.read_recording(entry["recording"])
        if record is not None and _made_from(record) != _made_from(entry):
            continue  # Left by a run that was killed after it had converted the recording.
        missed = [r for r in entry.get("rejected", []) if curation.exclusion(entry["recording"], r["index"]) is None]
        if entry.get("quarantined"):
            if missed or (not entry.get("rejected") and curation.exclusion(entry["recording"]) is None):
                rows.append({"recording": entry["recording"], "episode": "all", "reason": entry["quarantined"]})
            continue
        rows += [{"recording": entry["recording"], "episode": r["name"], "reason": r["reason"]} for r in missed]
    return rows
