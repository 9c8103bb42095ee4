"""What the page of a partition of `<robot>/episodes` shows: of one recording all of it, of many one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.pictures import CONTACT_SHEET, PLOT
from vla_ops.episodes.store import Episode
from vla_ops.lineage.names import Stage
from vla_ops.lineage.partitions import Members
from vla_ops.lineage.tables import MOST_ROWS, picture, table

_COLUMNS = ["recording", "state", "episodes", "frames", "size_mb", "rejected", "reason"]


def partition_metadata(stage: Stage, partition: str, members: Members) -> dict[str, Any]:
    """What is in a partition of which at least one recording is usable."""
    if stage.is_by_recording:
        return recording_metadata(stage, partition, members.seconds.get(partition, 0.0))
    records = {key: record for key in members.usable(partition) if (record := stage.store.read_recording(key)) is not None}
    made = {key: Conversion.from_json(record) for key, record in records.items()}
    total = list(made.values())
    frames = sum(one.frames for one in total)
    return {
        "recordings": len(members.of[partition]),
        "not_in_the_dataset": len(members.of[partition]) - len(made),
        "episodes": sum(len(one.episodes) for one in total),
        "frames": frames,
        "duration_s": round(frames / stage.robot.spec.timeline.rate_hz, 2),
        "size": dg.MetadataValue.text(f"{sum(one.size for one in total) / 1e6:.2f} MB"),
        "rejected": sum(len(one.rejected) for one in total),
        **_took(sum(members.seconds.get(key, 0.0) for key in made)),
        "members": members_table(stage, partition, members, made),
    }


def reasons(stage: Stage, partition: str, members: Members) -> dict[str, Any]:
    """Why a partition has nothing in the dataset."""
    if not stage.is_by_recording:
        return {"not_in_the_dataset": members_table(stage, partition, members, {})}
    return {"lost" if members.states.get(partition) == "lost" else "quarantined": _reason(stage, partition, members)}


def members_table(stage: Stage, partition: str, members: Members, made: Mapping[str, Conversion]) -> dg.TableMetadataValue:
    """The partition's recordings, those first that are not in the dataset."""
    ordered = sorted(members.of.get(partition, ()), key=lambda recording: recording in made)
    return table([_row(stage, key, members, made.get(key)) for key in ordered[:MOST_ROWS]], _COLUMNS)


def _row(stage: Stage, recording: str, members: Members, made: Conversion | None) -> dict[str, Any]:
    row: dict[str, Any] = {"recording": recording, "state": members.states[recording], "reason": ""}
    if made is None:
        return row | {"reason": _reason(stage, recording, members), "episodes": 0, "frames": 0, "size_mb": 0.0, "rejected": 0}
    return row | {
        "episodes": len(made.episodes),
        "frames": made.frames,
        "size_mb": round(made.size / 1e6, 3),
        "rejected": len(made.rejected),
    }


def _reason(stage: Stage, recording: str, members: Members) -> str:
    """Why a recording is not in the dataset; empty where that is not known yet."""
    known = members.reasons.get(recording)
    return known or str((stage.store.read_quarantine(recording) or {}).get("quarantined") or "")


def _took(seconds: float) -> dict[str, float]:
    """How long the conversion took, if there was one in this run."""
    return {"conversion_s": round(seconds, 3)} if seconds else {}


def recording_metadata(stage: Stage, recording: str, seconds: float) -> dict[str, Any]:
    """Everything of one recording; `seconds` is how long its conversion took in this run."""
    folder, record = stage.store.recording_folder(recording), stage.store.read_recording(recording)
    if record is None:
        return {}
    outcome = Conversion.from_json(record)
    episodes = stage.store.read_episodes(outcome.recording)
    first = episodes[0].meta
    metadata: dict[str, Any] = {
        "episodes": len(outcome.episodes),
        "frames": outcome.frames,
        "duration_s": round(outcome.frames / first.rate_hz, 2),
        "size": dg.MetadataValue.text(f"{outcome.size / 1e6:.2f} MB"),
        "task": first.task,
        "rejected": len(outcome.rejected),
        "folder": dg.MetadataValue.path(str(folder)),
        "streams": _streams_table(episodes),
        "quality": _quality_table(episodes),
        "source_version": outcome.source_version,
        **_took(seconds),
    }
    if outcome.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in outcome.notes[:MOST_ROWS]))
    for name, file in (("contact_sheet", CONTACT_SHEET), ("vectors", PLOT)):
        if (folder / file).exists():
            metadata[name] = picture(folder / file)
    return metadata


def _streams_table(episodes: Sequence[Episode]) -> dg.TableMetadataValue:
    skews = ["skew_p50_ms", "skew_p99_ms", "skew_max_ms"]
    columns = ["episode", "stream", "samples", "rate_hz", *skews, "largest_step_ms", "dropped_fraction"]
    rows = []
    for episode in episodes:
        for stream, seen in episode.meta.measured.items():
            if "skew_ms" in seen:
                skew = {f"skew_{name}_ms": value for name, value in seen["skew_ms"].items()}
                rows.append({"episode": episode.meta.index, "stream": stream, **skew, **{c: seen[c] for c in columns if c in seen}})
    return table(rows, columns)


def _quality_table(episodes: Sequence[Episode]) -> dg.TableMetadataValue:
    rows = [
        {
            "episode": e.meta.index,
            "check": f.check,
            "level": f.level,
            "where": f.where,
            "value": round(f.value, 4),
            "limit": f.limit,
            "message": f.message,
        }
        for e in episodes
        for f in e.meta.findings
    ]
    return table(rows, ["episode", "check", "level", "where", "value", "limit", "message"])
