"""How assets and checks show tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

# More rows than this make an event slow to store and the page slow to open; all of it is in the store.
MOST_ROWS = 200


def picture(path: Path) -> dg.MarkdownMetadataValue:
    """An image inline: a data URI, since the web server does not serve the store."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return dg.MetadataValue.md(f"![{path.stem}](data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()})")


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """A table of at most 200 rows; an empty one keeps its columns."""
    records = [dg.TableRecord({c: row[c] for c in columns}) for row in rows[:MOST_ROWS]]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=[dg.TableColumn(name=c) for c in columns]))
