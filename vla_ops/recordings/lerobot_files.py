"""The files of a LeRobot dataset by their paths below one folder; those of a remote one are fetched whole when they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings import other_format
from vla_ops.recordings.lerobot_index import INFO, LeRobotIndex
from vla_ops.recordings.place import Place

# Of meta/, what says where episodes are. Statistics, which can be large, are not read.
_NEEDED = ("meta/info.json", "meta/tasks.", "meta/episodes.jsonl", "meta/episodes/")


class DatasetFiles:
    """The files of a dataset. Raise RecordingFormatError where it is none."""

    def __init__(self, place: Place) -> None:
        self._place = place
        if not place.is_folder or not place.has(INFO):
            raise RecordingFormatError("not a LeRobot dataset: meta/info.json is missing", todo=other_format(place, "lerobot"))
        self._names = frozenset(place.names()) if place.is_remote else None
        self.folder = Path(place.path) if self._names is None else place.mirror(filter(_is_needed, sorted(self._names)), "meta")
        self._announced: set[Path] = set()

    def index(self) -> LeRobotIndex:
        """Where the episodes are."""
        return LeRobotIndex(self.folder, self._names)

    def has(self, path: Path) -> bool:
        """True if there is such a file in the dataset, fetched or not."""
        return path.is_file() if self._names is None else path.relative_to(self.folder).as_posix() in self._names

    def here(self, path: Path) -> Path:
        """The path, with the file at it."""
        return path if self._names is None else self._place.local(path.relative_to(self.folder).as_posix())

    def announce(self, paths: Iterable[Path]) -> None:
        """Say which files will be needed next."""
        if self._names is None:
            return
        new = [path for path in dict.fromkeys(paths) if path not in self._announced and self.has(path)]
        self._announced.update(new)
        self._place.prefetch_local(path.relative_to(self.folder).as_posix() for path in new)

    def close(self) -> None:
        """Close the place."""
        self._place.close()


def _is_needed(name: str) -> bool:
    return name.startswith(_NEEDED)
