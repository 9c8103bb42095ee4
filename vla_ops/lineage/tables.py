"""How assets and checks show tables, pictures, and what they have in common."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from vla_ops.datasets.lerobot_v3 import DatasetVersion

# More rows than this make an event slow to store and the page slow to open; all of it is in the store.
MOST_ROWS = 200


def version_metadata(made: DatasetVersion, *, rate_hz: float, repo_id: str) -> dict[str, Any]:
    """What the page of every LeRobot v3.0 dataset says of its version."""
    return {
        "dagster/row_count": made.frames,
        "episodes": made.episodes,
        "hours": round(made.frames / rate_hz / 3600, 4),
        "added": made.added,
        "removed": made.removed,
        "written_mb": round(made.bytes_written / 1e6, 3),
        "shared_mb": round(made.bytes_linked / 1e6, 3),
        "folder": dg.MetadataValue.path(str(made.folder)),
        "load_with": dg.MetadataValue.md(f"```python\nLeRobotDataset({repo_id!r}, root={str(made.folder)!r})\n```"),
        "repo_id": repo_id,
    }


def picture(path: Path) -> dg.MarkdownMetadataValue:
    """An image inline: a data URI, since the web server does not serve the store."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return dg.MetadataValue.md(f"![{path.stem}](data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()})")


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """A table of at most 200 rows; an empty one keeps its columns."""
    records = [dg.TableRecord({c: row[c] for c in columns}) for row in rows[:MOST_ROWS]]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=[dg.TableColumn(name=c) for c in columns]))
