"""Which partition of the lineage a recording belongs to: its own, its folder's or its day's.

Decided by the recording's id alone, so that a recording that is copied, touched or rewritten stays where it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Literal

type PartitionBy = Literal["file", "folder", "day"]

# The day of a recording that says none.
UNDATED = "undated"

# 2026-11-21, 2026_11_21, 2026.11.21, 2026/11/21 and 20261121, wherever one begins; or 20261121143000, with the time behind it.
# A longer number is a counter or a time since 1970.
_DATE = re.compile(r"(?<!\d)(?=(\d{4})([-_./]?)(\d{2})\2(\d{2})(?!\d))")
_DATE_AND_TIME = re.compile(r"(?<!\d)(?=(\d{14})(?!\d))")
# Other years are numbers of something else.
_YEARS = range(1990, 2100)


def partition_of(recording: str, by: PartitionBy) -> str:
    """The partition of the recording with this id: the id itself, the folder it lies in (`.` at the root), or `2026-11-21`."""
    if by == "file":
        return recording
    if by == "folder":
        return str(PurePosixPath(recording).parent)
    day = day_of(recording)
    return UNDATED if day is None else day.isoformat()


def by_partition(recordings: Iterable[str], by: PartitionBy) -> dict[str, list[str]]:
    """Partition -> its recordings, both in the order of `recordings`."""
    members: dict[str, list[str]] = {}
    for recording in recordings:
        members.setdefault(partition_of(recording, by), []).append(recording)
    return members


def day_of(recording: str) -> date | None:
    """The first date in the recording's id, its folders first; None if there is none."""
    found = [(match.start(), _day("".join(match.group(1, 3, 4)))) for match in _DATE.finditer(recording)]
    found += [(match.start(), _day(match[1])) for match in _DATE_AND_TIME.finditer(recording)]
    return min(((at, day) for at, day in found if day is not None), default=(0, None))[1]


def _day(digits: str) -> date | None:
    """The day of YYYYMMDD or YYYYMMDDhhmmss, or None where there is no such day or time."""
    try:
        day = datetime.strptime(digits, "%Y%m%d" if len(digits) == 8 else "%Y%m%d%H%M%S").date()
    except ValueError:
        return None
    return day if day.year in _YEARS else None
