"""Write the shards of one RLDS view, sharing what the view before it holds: whole files by link, single records by copy."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from vla_ops.datasets.rlds_features import encode_episode
from vla_ops.datasets.rlds_images import camera_jpegs
from vla_ops.datasets.rlds_plan import VIEW_FILE, Key, Plan, Shard
from vla_ops.datasets.tfrecord import checked_payload, damaged, read_records, write_record
from vla_ops.datasets.ticks import Progress
from vla_ops.episodes.store import Episode
from vla_ops.files import link_or_copy, replacing
from vla_ops.robot import fingerprint

# Whole shards of runs that were killed.
UNFINISHED = "unfinished"


class ShardWriter:
    """Writes the shards of one view; counts the shards written and the episodes encoded for them."""

    def __init__(self, root: Path, plan: Plan, episodes: Sequence[Episode], *, progress: Progress | None, workers: int) -> None:
        self.root, self.plan, self.episodes, self.progress, self.workers = root, plan, episodes, progress, workers
        # What the view before holds: shards by the episodes in them, and each episode's shard and place in it.
        self.shards: dict[tuple[Key, ...], Path] = {}
        self.records: dict[Key, tuple[Path, int]] = {}
        self.written = self.encoded = self._done = 0
        self._look_back()

    def _look_back(self) -> None:
        paths = sorted(self.root.glob(f"*/{VIEW_FILE}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        views = ((path.parent, read_view(path.parent)) for path in paths)
        folder, view = next(((f, v) for f, v in views if v is not None and v["records"] == self.plan.records), (self.root, {"files": []}))
        for file in view["files"]:
            if is_whole(folder, file):
                keys = tuple((name, version, task) for name, version, task in file["episodes"])
                self.shards[keys] = folder / file["path"]
                self.records |= {key: (self.shards[keys], place) for place, key in enumerate(keys)}

    def write(self, work: Path) -> list[dict[str, Any]]:
        """Write or link every shard into the view's folder `work`; return what `is_whole` is to be asked about each."""
        sources = [(shard, self._source(shard)) for shard in self.plan.shards]
        todo = [k for shard, source in sources if not source.exists() for k in shard.places if self.plan.keys[k] not in self.records]
        tasks = [(self.episodes[k], camera) for k in todo for camera in self.plan.images.values()]
        with closing(_ahead(self._jpegs, tasks, self.workers)) as jpegs:
            for shard, source in sources:
                if source.exists():
                    self._count(len(shard.places))
                else:
                    self._write_shard(source, shard, jpegs)
                link_or_copy(source, work / shard.file(self.plan.name))
        return [self._file(shard, work) for shard, _ in sources]

    def _keys(self, shard: Shard) -> tuple[Key, ...]:
        return tuple(self.plan.keys[k] for k in shard.places)

    def _source(self, shard: Shard) -> Path:
        """Where the shard's file is, or is to be made."""
        keys = self._keys(shard)
        return self.shards.get(keys) or self.root / UNFINISHED / f"{fingerprint([self.plan.records, keys])}.tfrecord"

    def _file(self, shard: Shard, work: Path) -> dict[str, Any]:
        path = shard.file(self.plan.name)
        return {"path": path, "bytes": (work / path).stat().st_size, "split": shard.split, "episodes": self._keys(shard)}

    def _write_shard(self, path: Path, shard: Shard, jpegs: Iterator[list[bytes]]) -> None:
        with replacing(path) as work:
            with work.open("wb") as file:
                for k in shard.places:
                    self._write_episode(file, k, jpegs)
                    self._count(1)
            # Views share inodes with each other: who opens a file for writing would change them all.
            work.chmod(0o444)
        self.written += 1

    def _write_episode(self, file: BinaryIO, k: int, jpegs: Iterator[list[bytes]]) -> None:
        if (held := self.records.get(self.plan.keys[k])) is not None:
            write_record(file, _read_payload(*held))
            return
        images = {key: next(jpegs) for key in self.plan.images}
        write_record(file, encode_episode(self.episodes[k], self.plan.layout.entries[k].task, images))
        self.encoded += 1

    def _jpegs(self, episode: Episode, camera: str) -> list[bytes]:
        settings = self.plan.settings
        return camera_jpegs(episode, camera, size=settings.image_size, resize=settings.resize, quality=settings.quality)

    def _count(self, episodes: int) -> None:
        self._done += episodes
        if self.progress is not None:
            self.progress(self._done, len(self.episodes))


def _read_payload(path: Path, place: int) -> bytes:
    record = next(islice(read_records(path), place, None), None)
    if record is None:
        raise damaged(path, f"no record {place}")
    return checked_payload(record, path)


def _ahead[*Ts, T](function: Callable[[*Ts], T], tasks: Sequence[tuple[*Ts]], workers: int) -> Generator[T]:
    """Yield `function(*task)` in order, computed by `workers` threads that stay at most one task each ahead of who takes them."""
    left = iter(tasks)
    with ThreadPoolExecutor(workers, thread_name_prefix="rlds") as pool:
        waiting = deque(pool.submit(function, *task) for task in islice(left, 2 * workers))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, *task) for task in islice(left, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_view(folder: Path) -> dict[str, Any] | None:
    """What a view says of itself, or None if there is none."""
    try:
        return json.loads((folder / VIEW_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def is_whole(folder: Path, file: dict[str, Any]) -> bool:
    """True unless a shard of the view was deleted or cut off since."""
    path = folder / file["path"]
    return path.is_file() and path.stat().st_size == file["bytes"]
