"""Where conversions run is a plug point: what is said while many recordings are converted, and by whom.

`vla_ops.episodes.workers` has the implementations: processes of this machine, and the nodes of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vla_ops.curation import Curation
from vla_ops.episodes.convert import Conversion
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot import RobotSpec


@dataclass(frozen=True)
class Frames:
    """Progress: this many more camera frames of a recording are done, and this part of the whole recording, 0 to 1.

    One of no recording and no frames is a heartbeat: nothing has happened for a moment.
    """

    recording: str
    frames: int
    fraction: float = 0.0


@dataclass(frozen=True)
class Lost:
    """A worker died on this recording (killed, out of memory). It is not quarantined: the next run tries it again."""

    recording: str
    reason: str


type Event = Frames | Conversion | Lost


class Workers(Protocol):
    """Converts many recordings at once, each on its own: one that is lost costs no other."""

    def convert(
        self, files: Sequence[tuple[RecordingFile, str]], *, spec: RobotSpec, store: Path, curation: Curation | None = None
    ) -> Generator[Event]:
        """Convert each (file, content version), cut as `curation` says; yield progress, and one Conversion or Lost for every file.

        `store` is the robot's folder; its caller holds it against other runs. A recording's files are the same bytes whoever made
        them. Something is yielded every two seconds at least. Closing it ends the work and leaves nothing half-written. Raise StoreError
        when the store is full or cannot be written, ClusterError when the machines cannot be used; what is done by then stays.
        """
        ...
