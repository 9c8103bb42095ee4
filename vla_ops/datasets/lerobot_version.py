"""Write the folder of one LeRobot v3.0 dataset version, sharing the files it has in common with the version before it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.datasets.dataset_card import dataset_card
from vla_ops.datasets.file_runs import Limits, Run, Weight, plan_runs
from vla_ops.datasets.lerobot_features import DATA_FILES_MB, INDEX_COLUMNS, VECTORS, VIDEO_FILES_MB, make_info, video_key
from vla_ops.datasets.lerobot_layout import DATA, META, Entry, Layout, file_name, video_stream
from vla_ops.datasets.lerobot_stats import FeatureStats, aggregate_stats, episode_stats
from vla_ops.datasets.lerobot_tables import episode_row, write_data, write_episodes, write_tasks
from vla_ops.datasets.ticks import Progress, Ticks
from vla_ops.datasets.video_concat import Clip, concatenate
from vla_ops.episodes.store import Episode
from vla_ops.errors import DatasetError
from vla_ops.files import link_or_copy
from vla_ops.robot import RobotSpec

# progress(done, total)

VERSION_FILE = "meta/vla_ops.json"
# Its key for the indices of the episodes for validation; it is there only if some are.
HELD_OUT = "held_out"
STATS_FILE, INFO_FILE, TASKS_FILE, CARD_FILE = "meta/stats.json", "meta/info.json", "meta/tasks.parquet", "README.md"

MB = 1024**2
_ANY = 1 << 62
# LeRobot compares times within a video as float32 with a tolerance of 1e-4 s. From 1024 s on float32 steps are 1.2e-4 s wide, and a
# frame that is exactly in place can be refused; so an mp4 of several episodes ends before that, whatever its size.
_VIDEO_SECONDS = 1000


def file_limits(stream: str, rate_hz: int) -> Limits:
    """When a file of a stream is full, and up to when it is written again for what is appended to it.

    Writing 600 packets, 8 row groups or 32 rows again takes 5 to 10 ms.
    """
    match stream:
        case "data":
            return Limits(full=Weight(DATA_FILES_MB * MB, _ANY, _ANY), small=Weight(2 * MB, _ANY, 8))
        case "meta/episodes":
            return Limits(full=Weight(_ANY, _ANY, 10_000), small=Weight(_ANY, _ANY, 32))
        case _:
            full = Weight(VIDEO_FILES_MB * MB, _VIDEO_SECONDS * rate_hz, _ANY)
            return Limits(full, small=Weight(16 * MB, 600, _ANY))


@dataclass(frozen=True)
class PreviousVersion:
    """The version whose files can be shared."""

    folder: Path
    layout: Layout
    # Camera -> digest of its videos' codec extradata.
    extradata: dict[str, str]
    # Indices of the episodes for validation.
    held_out: list[int]

    @classmethod
    def read(cls, folder: Path, format_version: int) -> PreviousVersion | None:
        """Read a version folder; None if it was written in another format, so that nothing of it can be shared."""
        value = json.loads((folder / VERSION_FILE).read_text(encoding="utf-8"))
        if value["format"] != format_version:
            return None
        return cls(folder, Layout.from_json(value), value["extradata"], value.get(HELD_OUT, []))


@dataclass(frozen=True)
class Bytes:
    """Sizes of the files of a version: written for it, and shared with the previous one."""

    new: int = 0
    linked: int = 0


class VersionWriter:
    """Plans the files of a version, then writes or links them."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        entries: tuple[Entry, ...],
        *,
        features: dict[str, dict[str, Any]],
        spec: RobotSpec,
        robot: str,
        previous: PreviousVersion | None,
        held_out: Sequence[int] = (),
    ) -> None:
        self.episodes, self.entries, self.features, self.held_out = episodes, entries, features, list(held_out)
        self.spec, self.robot, self.previous = spec, robot, previous
        self.cameras = list(spec.cameras)
        self.rate_hz = episodes[0].meta.rate_hz
        self.layout = Layout(entries, {})
        self.runs: dict[str, list[Run]] = {}
        self._plan()

    def _plan(self) -> None:
        for camera in self.cameras:
            self._plan_stream(video_stream(video_key(camera)), lambda k, camera=camera: self._video_weight(k, camera))
        self._plan_stream(DATA, self._data_weight)
        self._plan_stream(META, lambda _: Weight(episodes=1))

    def _plan_stream(self, stream: str, weigh: Callable[[int], Weight]) -> None:
        held = self.previous.layout.keys_by_file(stream) if self.previous else []
        runs = plan_runs(self.layout.keys(stream), held, weigh=weigh, limits=file_limits(stream, self.rate_hz))
        if stream == META:
            # Its rows hold the number of their own file.
            runs = [run if run.kept in (None, number) else Run(run.start, run.stop) for number, run in enumerate(runs)]
        self.runs[stream] = runs
        self.layout = self.layout.with_files(stream, runs)

    def _video_weight(self, k: int, camera: str) -> Weight:
        return Weight(video_bytes(self.episodes[k], camera), self.entries[k].length, 1)

    def _data_weight(self, k: int) -> Weight:
        numbers = sum(self.features[name]["shape"][0] for name in VECTORS)
        return Weight(self.entries[k].length * (4 * numbers + 8 * len(INDEX_COLUMNS)), self.entries[k].length, 1)

    def write(self, folder: Path, identity: dict[str, Any], progress: Progress | None) -> Bytes:
        """Write everything into `folder`; `identity` is put into vla_ops.json."""
        tick = Ticks(progress, sum(len(r.episodes) for s, runs in self.runs.items() if s != META for r in runs if r.kept is None))
        linked = sum(self._link(stream, number, run, folder) for stream, runs in self.runs.items() for number, run in enumerate(runs))
        extradata = {camera: self._write_videos(folder, camera, tick) for camera in self.cameras}
        for number, run in self._fresh(DATA):
            for _ in write_data(folder / file_name(DATA, number), self.episodes, run, layout=self.layout):
                tick()
        for number, run in self._fresh(META):
            write_episodes(folder / file_name(META, number), [self._row(k, number) for k in run.episodes])
        self._write_summaries(folder, identity | {"extradata": extradata})
        self._protect(folder)
        return Bytes(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) - linked, linked)

    def _fresh(self, stream: str) -> list[tuple[int, Run]]:
        return [(number, run) for number, run in enumerate(self.runs[stream]) if run.kept is None]

    def _link(self, stream: str, number: int, run: Run, folder: Path) -> int:
        """Share a file of the previous version; return the bytes that were not written again."""
        if run.kept is None or self.previous is None:
            return 0
        return link_or_copy(self.previous.folder / file_name(stream, run.kept), folder / file_name(stream, number))

    def _write_videos(self, folder: Path, camera: str, tick: Callable[[], None]) -> str:
        stream = video_stream(video_key(camera))
        shared = self.previous is not None and any(run.kept is not None for run in self.runs[stream])
        extradata = self.previous.extradata[camera] if shared and self.previous else None
        for number, run in self._fresh(stream):
            clips = [Clip(self.entries[k].id, self.episodes[k].video(camera), self.episodes[k].meta.videos[camera]) for k in run.episodes]
            target = folder / file_name(stream, number)
            extradata = concatenate(clips, target, rate_hz=self.rate_hz, extradata=extradata, each=tick)
        return extradata or ""

    def _stats(self, k: int) -> FeatureStats:
        """LeRobot's statistics of one episode, in the order of the features."""
        found = episode_stats(k, self.episodes[k].meta, self.layout)
        return {name: found[name] for name in self.features}

    def _row(self, k: int, number: int) -> dict[str, Any]:
        keys = [video_key(camera) for camera in self.cameras]
        return episode_row(k, self.layout, video_keys=keys, stats=self._stats(k), rate_hz=self.rate_hz, meta_file=number)

    def _write_summaries(self, folder: Path, identity: dict[str, Any]) -> None:
        tasks = self.layout.tasks
        counts = {"episodes": len(self.entries), "frames": self.layout.first_frames[-1], "tasks": len(tasks), "held_out": self.held_out}
        info = make_info(self.features, robot=self.robot, rate_hz=self.rate_hz, **counts)
        about = {**identity, "robot": self.robot, "spec_fingerprint": self.spec.conversion_fingerprint}
        about |= {HELD_OUT: self.held_out} if self.held_out else {}
        write_tasks(folder / TASKS_FILE, list(tasks))
        _dump(folder / INFO_FILE, info)
        _dump(folder / STATS_FILE, self._dataset_stats())
        # On one line: Python's encoder for indented JSON would take longer than all else for a dataset of thousands.
        (folder / VERSION_FILE).write_text(json.dumps(about | self.layout.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")
        card = dataset_card(info, list(tasks), robot=self.robot, licence=self.spec.dataset.licence, held_out=self.held_out)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")

    def _dataset_stats(self) -> dict[str, Any]:
        """Statistics of all episodes that trainings read, continued from those of the previous version if this one only adds to it."""
        held_out = set(self.held_out)
        read = [k for k in range(len(self.entries)) if k not in held_out]
        old = self.previous.layout.entries if self.previous else ()
        added = len(old)
        if self.previous is None or self.entries[:added] != old or [k for k in self.held_out if k < added] != self.previous.held_out:
            return aggregate_stats([self._stats(k) for k in read])
        known = json.loads((self.previous.folder / STATS_FILE).read_text(encoding="utf-8"))
        return aggregate_stats([known, *(self._stats(k) for k in read if k >= added)])

    def _protect(self, folder: Path) -> None:
        # Versions share inodes: a tool that opens a file of one of them for writing would change the others.
        for stream, runs in self.runs.items():
            for number, run in enumerate(runs):
                if run.kept is None:
                    (folder / file_name(stream, number)).chmod(0o444)


def video_bytes(episode: Episode, camera: str) -> int:
    """Size of an episode's video. Raise DatasetError if it is missing."""
    path = episode.video(camera)
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        todo = "Delete the episode's folder and convert its recording again."
        raise DatasetError("a video is missing", episode=episode.id, stream=camera, file=path, todo=todo) from error


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
