"""Read HDF5 recordings: ALOHA and ACT, robomimic, robosuite and LIBERO, RoboMIND, and flat files of any naming.

In files with `data/demo_*` each demonstration is a span and streams are named relative to it (`actions`, `obs/agentview_rgb`).
In others the file is one span and streams are named from the root (`/observations/qpos`). Links, external storage and
virtual datasets that lead to other files are refused: a recording is one file, and its content hash covers that file only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.errors import RecordingError
from vla_ops.recordings.array_recording import ArrayRecording, as_text, plain_text
from vla_ops.recordings.arrays import Rows
from vla_ops.recordings.base import Int64, OpenOptions, Span
from vla_ops.recordings.discover import natural_key
from vla_ops.recordings.hdf5_file import open_file, rows_of
from vla_ops.recordings.hdf5_links import dataset_at, group_at, links_of
from vla_ops.recordings.hdf5_task import identity_in, task_of
from vla_ops.recordings.place import Place

if TYPE_CHECKING:
    import h5py

_DEMO = re.compile(r"^(?:demo|episode|ep|traj|trajectory)_?\d+$")
_ACTIONS = ("action", "actions")


class Hdf5Recording(ArrayRecording):
    """An open HDF5 recording. h5py serialises calls with one lock, so cameras may be read from several threads."""

    def __init__(self, recording: str | Place, options: OpenOptions) -> None:
        super().__init__(recording, options)
        self._file, self._closed = open_file(self._place)
        self._is_open = True
        self._known: dict[str, dict[str, Rows]] = {}

    def close(self) -> None:
        """Close the file."""
        if self._is_open:
            self._is_open = False
            self._file.close()
            self._closed()
            self._place.close()

    def spans(self) -> list[Span]:
        """The demos in natural order, or the whole file as one span named `0`; none if there are no arrays."""
        return [Span(e.name, k, 0, e.steps, task_of(self._file, e.group)) for k, e in enumerate(self._episodes)]

    def metadata(self) -> Mapping[str, str]:
        """Attributes of the root and of `/data` as `attrs.NAME`, cut at 200 characters; of JSON also which robot it was."""
        found: dict[str, str] = {}
        for group in (self._file, group_at(self._file, "data")):
            for name, value in () if group is None else _attributes(group):
                found[f"attrs.{name}"] = as_text(value)
                found.update({f"attrs.{path}": as_text(text) for path, text in identity_in(name, plain_text(value))})
        return found

    @cached_property
    def _episodes(self) -> list[_Episode]:
        data = group_at(self._file, "data")
        demos = [] if data is None else sorted(filter(_DEMO.match, map(str, data)), key=lambda name: (natural_key(name), name))
        if not demos:
            whole = _Episode("0", "/", self._count_steps("/"))
            return [whole] if whole.steps or self._arrays_of("/") else []
        return [_Episode(name, f"/data/{name}", self._count_steps(f"/data/{name}")) for name in demos]

    def _count_steps(self, group: str) -> int:
        """The length of the actions; without actions, the length most arrays have."""
        for name in _ACTIONS:
            actions = dataset_at(self._file, f"{group}/{name}")
            if actions is not None and actions.shape:
                return int(actions.shape[0])
        lengths = Counter(rows.count for rows in self._arrays_of(group).values() if rows.shape)
        return max(lengths, key=lambda n: (lengths[n], n), default=0)

    def _episode(self, span: Span) -> _Episode:
        for episode in self._episodes:
            if episode.name == span.name:
                return episode
        raise RecordingError(
            "no such episode in the recording", episode=span.name, expected=f"one of: {', '.join(e.name for e in self._episodes[:12])}"
        )

    def _arrays_of(self, group: str) -> dict[str, Rows]:
        if group not in self._known:
            prefix = "/" if group == "/" else ""
            root = group_at(self._file, group)
            found = links_of(root) if root is not None else {}
            self._known[group] = {prefix + name: rows_of(dataset, prefix + name, self._place) for name, dataset in found.items()}
        return self._known[group]

    def _arrays(self, span: Span) -> list[str]:
        return list(self._arrays_of(self._episode(span).group))

    def _rows(self, name: str, span: Span) -> Rows | None:
        group = self._episode(span).group
        dataset = dataset_at(self._file, f"{group}/{name.strip('/')}")
        if dataset is None:
            return None
        return rows_of(dataset, ("/" if group == "/" else "") + name.strip("/"), self._place)

    def _steps(self, span: Span) -> int:
        return self._episode(span).steps

    def _lengths(self, span: Span) -> Int64 | None:
        dataset = dataset_at(self._file, f"{self._episode(span).group}/compress_len")
        # ACT stores the lengths as float32, in the order of a camera list that the file does not have.
        if dataset is None or len(dataset.shape) != 2 or dataset.shape[1] != self._steps(span):
            return None
        return np.asarray(dataset[()]).astype(np.int64)


@dataclass(frozen=True)
class _Episode:
    name: str
    group: str
    steps: int


def _attributes(group: h5py.Group) -> Iterator[tuple[str, object]]:
    for name in map(str, group.attrs):
        try:
            yield name, group.attrs[name]
        except (OSError, TypeError, ValueError) as error:
            # A type h5py has no name for; the attribute says nothing a conversion needs.
            yield name, f"unreadable: {error}"
