"""What the views of a LeRobot v3.0 dataset version share: its episodes, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_ops.datasets.lerobot_layout import Layout
from vla_ops.episodes.store import Episode
from vla_ops.errors import DatasetError


def in_order(episodes: Sequence[Episode], layout: Layout, v30: Path) -> list[Episode]:
    """Return `episodes` in the order of the v3.0 dataset `v30` with this layout; raise DatasetError if they are not its episodes."""
    by_key = {(episode.id, episode.version): episode for episode in episodes}
    missing = [entry.id for entry in layout.entries if entry.key not in by_key]
    if missing or len(by_key) != len(layout.entries):
        raise DatasetError(
            "the episodes are not those of the LeRobot v3.0 dataset",
            file=v30,
            found=f"{len(by_key)} episodes; not among them: {', '.join(missing[:5]) or 'none'}",
            expected=f"the {len(layout.entries)} of that version",
            todo="Make the v3.0 dataset again first: `lerobot_v3`, or `vla-ops convert`.",
        )
    return [by_key[entry.key] for entry in layout.entries]
