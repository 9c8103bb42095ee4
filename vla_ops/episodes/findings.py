"""The warnings of the quality report of all episodes, kept so that an episode.json is read once and not in every run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ops.episodes.store import RobotStore
from vla_ops.files import replacing

_FILE = "findings.json"


def warnings_of(store: RobotStore, made: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row a warning, in the order of `made`: recording -> data version of its episodes. Rows: episode, where, check, message."""
    path = store.root / _FILE
    before = _read(path)
    now = {key: before[key] if before.get(key, {}).get("made") == version else _found(store, key, version) for key, version in made.items()}
    if now != before:
        with replacing(path) as work:
            work.write_text(json.dumps(now, ensure_ascii=False) + "\n", encoding="utf-8")
    return [row for entry in now.values() for row in entry["warnings"]]


def _found(store: RobotStore, recording: str, version: str) -> dict[str, Any]:
    rows = [
        {"episode": episode.id, "where": finding.where, "check": finding.check, "message": finding.message}
        for episode in store.read_episodes(recording)
        for finding in episode.meta.findings
        if finding.level == "warn"
    ]
    return {"made": version, "warnings": rows}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What is kept; nothing where it is missing or damaged, since all of it can be read again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
