"""Where every episode of a dataset is: its frames in the whole, its file and its place in it, for each stream of files.

A stream is `data`, `meta/episodes` or `videos/<key>`. The layout of a version is kept in its meta/vla_ops.json.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from vla_ops.datasets.file_runs import Run
from vla_ops.datasets.lerobot_features import CHUNKS_SIZE

DATA, META = "data", "meta/episodes"


def video_stream(key: str) -> str:
    """The stream of a video feature."""
    return f"videos/{key}"


def file_name(stream: str, number: int) -> str:
    """Path of a stream's file below the dataset folder."""
    suffix = "mp4" if stream.startswith("videos/") else "parquet"
    return f"{stream}/chunk-{number // CHUNKS_SIZE:03d}/file-{number % CHUNKS_SIZE:03d}.{suffix}"


@dataclass(frozen=True)
class Entry:
    """One episode of a dataset version."""

    id: str
    version: str
    length: int
    task: str

    @property
    def key(self) -> tuple[str, str]:
        """What its video depends on."""
        return (self.id, self.version)


@dataclass(frozen=True)
class Layout:
    """Ordered episodes and, for each stream, how many episodes each of its files holds."""

    entries: tuple[Entry, ...]
    files: dict[str, list[int]]

    @cached_property
    def first_frames(self) -> list[int]:
        """Index of each episode's first frame in the dataset, and the number of all frames."""
        return [0, *accumulate(e.length for e in self.entries)]

    @cached_property
    def tasks(self) -> dict[str, int]:
        """Task text -> task_index, by first appearance."""
        return {text: k for k, text in enumerate(dict.fromkeys(e.task for e in self.entries))}

    def runs(self, stream: str) -> list[Run]:
        """The runs of episodes in a stream's files."""
        return [Run(a, b) for a, b in pairwise([0, *accumulate(self.files.get(stream, ()))])]

    @cached_property
    def places(self) -> dict[str, list[tuple[int, int]]]:
        """Stream -> for each episode its file and how many frames of other episodes stand before it there."""
        first = self.first_frames
        return {
            stream: [(k, first[e] - first[run.start]) for k, run in enumerate(self.runs(stream)) for e in run.episodes]
            for stream in self.files
        }

    def with_files(self, stream: str, runs: Sequence[Run]) -> Layout:
        """The same with a stream's files."""
        return Layout(self.entries, {**self.files, stream: [len(run.episodes) for run in runs]})

    def keys(self, stream: str) -> list[Hashable]:
        """What each episode's part of a file of the stream depends on: equal keys mean equal contents."""
        if stream.startswith("videos/"):
            return [entry.key for entry in self.entries]
        first, tasks = self.first_frames, self.tasks
        data: list[Hashable] = [(entry.id, entry.version, k, first[k], tasks[entry.task]) for k, entry in enumerate(self.entries)]
        if stream == DATA:
            return data
        # Its rows hold the task text itself: another text at the same index is another row.
        texts = [entry.task for entry in self.entries]
        others = [self.places[name] for name in sorted(self.files) if name != META]
        return list(zip(data, texts, *others, strict=True))

    def keys_by_file(self, stream: str) -> list[list[Hashable]]:
        """`keys`, grouped by file."""
        keys = self.keys(stream)
        return [keys[run.start : run.stop] for run in self.runs(stream)]

    def to_json(self) -> dict[str, Any]:
        """The part of vla_ops.json that `from_json` reads."""
        return {"episodes": [vars(entry) for entry in self.entries], "files": self.files}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Layout:
        """The inverse of `to_json`."""
        return cls(tuple(Entry(**entry) for entry in value["episodes"]), value["files"])
