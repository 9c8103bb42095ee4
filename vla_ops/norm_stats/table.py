"""Norm stats as rows for a person: one a dimension, by name."""

from __future__ import annotations

from typing import Any

from vla_ops.norm_stats.stats import NormStats, narrow_dimensions

COLUMNS = ("vector", "dimension", "unit", "delta", "mean", "std", "q01", "q99", "min", "max", "widened")


def stats_rows(stats: NormStats) -> list[dict[str, Any]]:
    """Return one row of COLUMNS a dimension, with the measured numbers."""
    widened = {(n.vector, n.name) for n in narrow_dimensions(stats) if n.widened}
    made = stats.provenance
    rows = []
    for vector, values, dims in (("state", stats.state, made.state_dims), ("actions", stats.actions, made.action_dims)):
        for k, dim in enumerate(dims):
            row: dict[str, Any] = {"vector": vector, "dimension": dim.name, "unit": dim.unit}
            row["delta"] = made.deltas[k] if vector == "actions" else "no"
            row |= {name: float(f"{getattr(values, name)[k]:.6g}") for name in ("mean", "std", "q01", "q99", "min", "max")}
            rows.append(row | {"widened": "yes" if (vector, dim.name) in widened else "no"})
    return rows


def render(stats: NormStats) -> str:
    """Return the rows as an aligned text table, and a line for every narrow dimension."""
    cells = [list(COLUMNS), *([str(row[c]) for c in COLUMNS] for row in stats_rows(stats))]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    made = stats.provenance
    spaces = [made.action_space, *([f"rotations {made.rotation_delta}"] if made.rotation_delta else [])]
    spaces += ["adapted to pi"] if made.adapt_to_pi else []
    head = f"{stats.frames:,} frames x horizon {made.horizon} = {stats.actions.count:,} actions, {', '.join(spaces)}"
    return "\n".join([head, *lines, *(f"NARROW {narrow}" for narrow in narrow_dimensions(stats))])
