"""Episodes as a verdict names them: in a sentence, and as the lines of curation.yaml that leave them out."""

from __future__ import annotations

import json
from collections.abc import Sequence

# How many are written out; the others are counted.
_NAMED = 5


def named(episodes: Sequence[str]) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(episodes) - _NAMED} more" if len(episodes) > _NAMED else ""
    return ", ".join(episodes[:_NAMED]) + more


def exclusion(episodes: Sequence[str], reason: str) -> str:
    """The line of curation.yaml that leaves them out: `episodes: {"a.mcap/0": {exclude: "black"}}`."""
    # JSON's strings are YAML's, whatever is in a file's name.
    entries = [f"{json.dumps(episode, ensure_ascii=False)}: {{exclude: {json.dumps(reason)}}}" for episode in episodes[:_NAMED]]
    return f"`episodes: {{{', '.join(entries)}{', ...' if len(episodes) > _NAMED else ''}}}`"
