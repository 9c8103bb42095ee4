"""What there is to convert: the recordings as they are now against the episodes in the store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vla_ops.episodes.convert import Conversion, remember
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.files import sweep
from vla_ops.recordings.discover import ContentVersions, RecordingFile, list_recordings
from vla_ops.robot_file import Robot

type State = Literal["new", "changed", "converted", "quarantined", "unsettled", "duplicate"]


@dataclass(frozen=True)
class Found:
    """One recording as it is now. `version` is its content; empty while it is unsettled."""

    file: RecordingFile
    version: str
    state: State


@dataclass(frozen=True)
class Plan:
    """Every recording that is there, in natural order, and the ids of those that are gone but still in the store."""

    found: list[Found]
    removed: list[str]

    @property
    def todo(self) -> list[tuple[RecordingFile, str]]:
        """The new and changed recordings with their content versions."""
        return [(f.file, f.version) for f in self.found if f.state in ("new", "changed")]

    def counts(self) -> dict[str, int]:
        """How many recordings are in each state."""
        states = [f.state for f in self.found]
        return {state: states.count(state) for state in dict.fromkeys(states)} | ({"removed": len(self.removed)} if self.removed else {})


def observe(robot: Robot, store: RobotStore, *, now_s: float | None = None) -> list[tuple[RecordingFile, str]]:
    """List the recordings with their content versions; an unsettled one has an empty version and is not read."""
    files = list_recordings(robot.recordings_uri, robot.spec.recordings.pattern)
    versions = ContentVersions.load(store.root / "recordings.json")
    now_s = time.time() if now_s is None else now_s
    settle_s = robot.spec.recordings.settle_s
    observed = [(file, versions.of(file) if file.is_settled(settle_s, now_s) else "") for file in files]
    versions.save(file.id for file in files)
    return observed


def make_plan(robot: Robot, store: RobotStore, *, again: Collection[str] = ()) -> Plan:
    """Compare what is there with what is stored. Recordings in `again` are converted whatever the store says."""
    fingerprint = robot.spec.conversion_fingerprint
    first_with: dict[str, str] = {}
    found: list[Found] = []
    for file, version in observe(robot, store):
        twin = first_with.setdefault(version, file.id) if version else file.id
        if twin != file.id and robot.spec.recordings.duplicates == "quarantine":
            _quarantine_twin(store, Conversion(file.id, version, fingerprint), twin)
            found.append(Found(file, version, "duplicate"))
        else:
            found.append(Found(file, version, _state(store, file.id, version, fingerprint, again)))
    present = {f.file.id for f in found}
    return Plan(found, [key for key in stored_ids(store) if key not in present])


def _state(store: RobotStore, key: str, version: str, fingerprint: str, again: Collection[str]) -> State:
    if not version:
        return "unsettled"
    record, quarantine = store.read_recording(key), store.read_quarantine(key)
    if record is None and quarantine is None:
        return "new"
    if key in again:
        return "changed"
    # A recording of which some episodes were rejected has both; its episodes then decide.
    entry = record if record is not None else quarantine
    if entry is None or (entry["source_version"], entry["spec_fingerprint"]) != (version, fingerprint):
        return "changed"
    return "converted" if record is not None else "quarantined"


def _quarantine_twin(store: RobotStore, twin: Conversion, of: str) -> None:
    known = store.read_quarantine(twin.recording)
    reason = f"the recording has the same bytes as {of} [file {twin.recording}]. Delete one, or write `recordings: {{duplicates: keep}}`."
    if known is None or known["quarantined"] != reason:
        remember(store, Conversion(twin.recording, twin.source_version, twin.spec_fingerprint, quarantined=reason))


def stored_ids(store: RobotStore) -> list[str]:
    """Ids of all recordings the store holds episodes or quarantine entries of."""
    ids = {p.parent.relative_to(store.episodes).as_posix() for p in store.episodes.rglob("recording.json")}
    ids |= {p.relative_to(store.quarantine).as_posix().removesuffix(".json") for p in store.quarantine.rglob("*.json")}
    return sorted(key for key in ids if ".tmp-" not in key)


def forget(store: RobotStore, ids: Collection[str]) -> None:
    """Remove the episodes and quarantine entries of recordings that are gone."""
    for key in ids:
        shutil.rmtree(store.recording_folder(key), ignore_errors=True)
        store.quarantine_file(key).unlink(missing_ok=True)


def sweep_store(store: RobotStore) -> list[Path]:
    """Remove what killed processes left anywhere in the robot's folder."""
    folders = [store.root, *(p for p in store.root.rglob("*") if p.is_dir() and not _inside_work(p, store.root))]
    return [left for folder in folders for left in sweep(folder)]


def _inside_work(path: Path, root: Path) -> bool:
    return any(".tmp-" in part for part in path.relative_to(root).parts)


def usable_episodes(store: RobotStore, plan: Plan) -> list[Episode]:
    """The stored episodes of the recordings that are there, by natural order of recording and then of episode."""
    return [episode for found in plan.found for episode in store.read_episodes(found.file.id)]


def quarantine_reasons(store: RobotStore) -> list[dict[str, Any]]:
    """One row a recording or rejected episode that is not in the dataset: recording, episode, reason."""
    rows: list[dict[str, Any]] = []
    for entry in store.quarantined():
        if entry.get("quarantined"):
            rows.append({"recording": entry["recording"], "episode": "all", "reason": entry["quarantined"]})
        rows += [{"recording": entry["recording"], "episode": r["name"], "reason": r["reason"]} for r in entry.get("rejected", [])]
    return rows
