"""Write the folder of one version of a mixture.

Videos are hard links of the sources' own files wherever a file's episodes stand in the mixture as they do in it, else packets are
copied; no image is decoded. A file holds videos of one codec header alone. Numbers are written anew, since they have other places.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vla_ops.datasets.dataset_card import dataset_card
from vla_ops.datasets.file_runs import Run, Weight, plan_runs
from vla_ops.datasets.lerobot_features import INDEX_COLUMNS, make_info, video_key
from vla_ops.datasets.lerobot_layout import DATA, META, Layout, file_name, video_stream
from vla_ops.datasets.lerobot_stats import FeatureStats
from vla_ops.datasets.lerobot_tables import episode_row, write_episodes, write_tasks
from vla_ops.datasets.lerobot_version import (
    CARD_FILE,
    HELD_OUT,
    INFO_FILE,
    STATS_FILE,
    TASKS_FILE,
    VERSION_FILE,
    Bytes,
    file_limits,
    video_bytes,
)
from vla_ops.datasets.mixture.black_video import BlackVideos
from vla_ops.datasets.mixture.card import about_sources
from vla_ops.datasets.mixture.frames import write_frames
from vla_ops.datasets.mixture.placed import Placed
from vla_ops.datasets.mixture.sampling import Sampling, write_sampling
from vla_ops.datasets.mixture.sources import SourceData
from vla_ops.datasets.mixture.stats import mixture_stats, placed_stats
from vla_ops.datasets.ticks import Progress
from vla_ops.datasets.video_concat import Clip, concatenate
from vla_ops.files import link_or_copy
from vla_ops.mixture_file import Mixture

# A black frame takes about as many bytes.
_BLACK_FRAME = 64


@dataclass(frozen=True)
class Kept:
    """A file that exists, and what each episode's part of it depends on, in order."""

    path: Path
    keys: list[Hashable]


@dataclass(frozen=True)
class Previous:
    """The version of the mixture before, as far as files can be shared with it."""

    folder: Path
    layout: Layout
    # Source -> what of it a data row depends on, and camera -> what its video shows.
    rows: Mapping[str, str]
    shows: Mapping[str, Mapping[str, str]]
    # Rows of meta/episodes have statistics of these.
    features: list[str]

    @classmethod
    def read(cls, folder: Path, format_version: int) -> Previous | None:
        """Read a version folder; None if it was written in another format."""
        value = json.loads((folder / VERSION_FILE).read_text(encoding="utf-8"))
        if value.get("mixture_format") != format_version:
            return None
        return cls(folder, Layout.from_json(value), value["rows"], value["shows"], value["features"])

    def kept(self, stream: str, camera: str | None) -> list[Kept]:
        """The files of a stream."""
        keys = _keys(self.layout, stream, self.rows, self.shows, camera)
        runs = self.layout.runs(stream)
        return [Kept(self.folder / file_name(stream, k), keys[run.start : run.stop]) for k, run in enumerate(runs)]


def _keys(
    layout: Layout, stream: str, rows: Mapping[str, str], shows: Mapping[str, Mapping[str, str]], camera: str | None
) -> list[Hashable]:
    """What each episode's part of a file depends on: what it does in its own dataset, and how its source is placed in the mixture."""
    own = layout.keys(stream)
    sources = [entry.id.partition("/")[0] for entry in layout.entries]
    if camera is None:
        return [(key, rows.get(source)) for key, source in zip(own, sources, strict=True)]
    return [(key, shows.get(source, {}).get(camera)) for key, source in zip(own, sources, strict=True)]


class MixtureWriter:
    """Plans the files of a version, then links or writes them."""

    def __init__(
        self,
        mixture: Mixture,
        placed: Sequence[Placed],
        *,
        sources: Sequence[SourceData],
        features: dict[str, dict[str, Any]],
        black: Mapping[str, BlackVideos],
        previous: Previous | None,
    ) -> None:
        """`black`: for each camera of the mixture, what stands in for it."""
        self.mixture, self.placed, self.sources, self.features, self.black = mixture, placed, sources, features, black
        self.schema, self.rate_hz, self.previous = mixture.schema, mixture.schema.rate_hz, previous
        self.rows = {data.name: self.schema.of(data.source.placement) for data in sources}
        self.shows = {data.name: {camera: self._shown(data, camera) for camera in self.schema.cameras} for data in sources}
        self.layout = Layout(tuple(p.entry for p in placed), {})
        # Stream -> its files in order: the episodes, and the file that is there already.
        self.files: dict[str, list[tuple[Run, Path | None]]] = {}
        self._plan()

    def _shown(self, data: SourceData, camera: str) -> str:
        own = data.source.placement.cameras[camera]
        return self.black[camera].name if own is None else f"camera {own} of {data.source.robot.name}"

    def _plan(self) -> None:
        for camera in self.schema.cameras:
            stream = video_stream(video_key(camera))
            parts = [list(group) for _, group in groupby(range(len(self.placed)), lambda k, camera=camera: self._header(k, camera))]
            kept = [*self._of_sources(camera), *(self.previous.kept(stream, camera) if self.previous else ())]
            self._plan_stream(stream, parts, kept, lambda k, camera=camera: self._video_weight(k, camera), camera)
        everything = [list(range(len(self.placed)))]
        self._plan_stream(DATA, everything, self.previous.kept(DATA, None) if self.previous else [], self._data_weight)
        same_rows = self.previous is not None and self.previous.features == list(self.features)
        self._plan_stream(
            META, everything, self.previous.kept(META, None) if self.previous and same_rows else [], lambda _: Weight(episodes=1)
        )

    def _plan_stream(
        self, stream: str, parts: list[list[int]], kept: list[Kept], weigh: Callable[[int], Weight], camera: str | None = None
    ) -> None:
        keys, limits = _keys(self.layout, stream, self.rows, self.shows, camera), file_limits(stream, self.rate_hz)
        best = _longest_fitting(kept, keys)
        held = [file.keys for file in best]
        files: list[tuple[Run, Path | None]] = []
        for part in parts:
            first = part[0]
            runs = plan_runs(keys[first : part[-1] + 1], held, weigh=lambda k, first=first: weigh(first + k), limits=limits)
            files += [(Run(first + r.start, first + r.stop), None if r.kept is None else best[r.kept].path) for r in runs]
        if stream == META:
            # Its rows hold the number of their own file.
            files = [(run, path if path and path.match(file_name(stream, number)) else None) for number, (run, path) in enumerate(files)]
        self.files[stream] = files
        self.layout = self.layout.with_files(stream, [run for run, _ in files])

    def _of_sources(self, camera: str) -> Iterator[Kept]:
        """The sources' own mp4s of what stands in the mixture as `camera`."""
        for data in self.sources:
            own = data.source.placement.cameras[camera]
            for path, keys in data.video_files(own) if own is not None else ():
                yield Kept(path, [(key, self.shows[data.name][camera]) for key in keys])

    def _header(self, k: int, camera: str) -> str:
        """What must be the same of all videos in one file."""
        data = self.placed[k].data
        own = data.source.placement.cameras[camera]
        return "black" if own is None else f"{data.extradata[own]} {data.codec(own)}"

    def _video_weight(self, k: int, camera: str) -> Weight:
        placed = self.placed[k]
        own = placed.placement.cameras[camera]
        frames = placed.episode.meta.length
        return Weight(frames * _BLACK_FRAME if own is None else video_bytes(placed.episode, own), frames, 1)

    def _data_weight(self, k: int) -> Weight:
        frames = self.placed[k].episode.meta.length
        numbers = len(self.schema.state_dims) + len(self.schema.action_dims)
        return Weight(frames * (4 * numbers + 8 * len(INDEX_COLUMNS)), frames, 1)

    def write(self, folder: Path, identity: Mapping[str, Any], sampling: Sampling, progress: Progress | None) -> Bytes:
        """Write everything into `folder`; `identity` is put into vla_ops.json."""
        fresh = {stream: [(k, run) for k, (run, path) in enumerate(files) if path is None] for stream, files in self.files.items()}
        total = sum(len(run.episodes) for stream, runs in fresh.items() if stream != META for _, run in runs)
        linked = sum(link_or_copy(p, folder / file_name(s, k)) for s, files in self.files.items() for k, (_, p) in enumerate(files) if p)
        for done, _ in enumerate(self._write_fresh(folder, fresh), 1):
            if progress is not None:
                progress(done, total)
        stats = [placed_stats(p, k, schema=self.schema, layout=self.layout) for k, p in enumerate(self.placed)]
        for number, run in fresh[META]:
            write_episodes(folder / file_name(META, number), [self._row(k, stats[k], number) for k in run.episodes])
        self._write_summaries(folder, identity, sampling, stats)
        # Versions and sources share inodes: a tool that opens a file of one of them for writing would change the others.
        for stream, runs in fresh.items():
            for number, _ in runs:
                (folder / file_name(stream, number)).chmod(0o444)
        return Bytes(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) - linked, linked)

    def _write_fresh(self, folder: Path, fresh: Mapping[str, list[tuple[int, Run]]]) -> Iterator[None]:
        """Write data and videos; yield after each episode of each."""
        for camera in self.schema.cameras:
            stream = video_stream(video_key(camera))
            for number, run in fresh[stream]:
                self._write_video(folder / file_name(stream, number), run, camera)
                yield from (None for _ in run.episodes)
        for number, run in fresh[DATA]:
            yield from write_frames(folder / file_name(DATA, number), self.placed, run, schema=self.schema, layout=self.layout)

    def _write_video(self, target: Path, run: Run, camera: str) -> None:
        placed = [self.placed[k] for k in run.episodes]
        if placed[0].placement.cameras[camera] is None:
            self.black[camera].write(target, sum(p.episode.meta.length for p in placed))
            return
        clips = []
        for p in placed:
            own = str(p.placement.cameras[camera])
            clips.append(Clip(p.entry.id, p.episode.video(own), p.episode.meta.videos[own]))
        first = placed[0]
        concatenate(clips, target, rate_hz=self.rate_hz, extradata=first.data.extradata[str(first.placement.cameras[camera])])

    def _row(self, k: int, stats: FeatureStats, number: int) -> dict[str, Any]:
        keys = [video_key(camera) for camera in self.schema.cameras]
        in_order = {name: stats[name] for name in self.features}
        return episode_row(k, self.layout, video_keys=keys, stats=in_order, rate_hz=self.rate_hz, meta_file=number)

    def _write_summaries(self, folder: Path, identity: Mapping[str, Any], sampling: Sampling, stats: Sequence[FeatureStats]) -> None:
        held_out = [k for k, p in enumerate(self.placed) if p.is_held_out]
        trained = [k for k, p in enumerate(self.placed) if not p.is_held_out]
        tasks = list(self.layout.tasks)
        counts = {"episodes": len(self.placed), "frames": self.layout.first_frames[-1], "tasks": len(tasks), "held_out": held_out}
        info = make_info(self.features, robot=self.mixture.name, rate_hz=self.rate_hz, **counts)
        write_tasks(folder / TASKS_FILE, tasks)
        _dump(folder / INFO_FILE, info)
        _dump(folder / STATS_FILE, mixture_stats([self.placed[k] for k in trained], [stats[k] for k in trained], self.schema))
        about = {**identity, "robot": self.mixture.name, "rows": self.rows, "shows": self.shows, "features": list(self.features)}
        about |= {HELD_OUT: held_out} if held_out else {}
        about["dims"] = {vector: [asdict(dim) for dim in self.schema.dims(vector)] for vector in ("state", "action")}
        (folder / VERSION_FILE).write_text(json.dumps(about | self.layout.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")
        write_sampling(folder, sampling)
        licence, about = self.mixture.spec.dataset.licence, about_sources(self.mixture, self.sources, sampling)
        card = dataset_card(info, tasks, robot=self.mixture.name, licence=licence, held_out=held_out, of="in the mixture", about=about)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")


def _longest_fitting(kept: Sequence[Kept], keys: Sequence[Hashable]) -> list[Kept]:
    """Of the files that begin with the same episode the one that holds most of what follows it in `keys`, and nothing else."""
    place = {key: k for k, key in enumerate(keys)}
    best: dict[Hashable, Kept] = {}
    for file in kept:
        start = place.get(file.keys[0]) if file.keys else None
        if start is None or list(keys[start : start + len(file.keys)]) != file.keys:
            continue
        if file.keys[0] not in best or len(file.keys) > len(best[file.keys[0]].keys):
            best[file.keys[0]] = file
    return list(best.values())


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
