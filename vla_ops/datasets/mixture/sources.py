"""The datasets a mixture is made of as they are on disk, and every reason why they cannot be one dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_ops.datasets.lerobot_features import video_key
from vla_ops.datasets.lerobot_layout import Layout, file_name, video_stream
from vla_ops.datasets.lerobot_v3 import DatasetVersion
from vla_ops.datasets.lerobot_version import HELD_OUT, INFO_FILE, VERSION_FILE
from vla_ops.datasets.refresh import accepted_dataset
from vla_ops.defs_file import nearest
from vla_ops.episodes.store import Episode, RobotStore, VideoInfo
from vla_ops.errors import DatasetError
from vla_ops.mixture_file import Mixture, Source

# The video features' settings in info.json that are the same of all files only if all sources agree on them.
_CODEC, _PIX_FMT = "video.codec", "video.pix_fmt"


@dataclass(frozen=True)
class SourceData:
    """A source's dataset in use, and what of it is in the mixture."""

    source: Source
    version: DatasetVersion
    # Of the whole dataset.
    layout: Layout
    # Camera, by the robot's name -> digest of its videos' codec extradata.
    extradata: Mapping[str, str]
    features: Mapping[str, Mapping[str, Any]]
    # In the order of the dataset; ids as the mixture has them.
    episodes: tuple[Episode, ...]
    # Ids of those that no training reads.
    held_out: frozenset[str]

    @property
    def name(self) -> str:
        """Its name in the mixture."""
        return self.source.name

    def shape(self, camera: str) -> list[int]:
        """[height, width, channels] of one of the robot's cameras."""
        return list(self.features[video_key(camera)]["shape"])

    def codec(self, camera: str) -> str:
        """Codec and pixel format of one of the robot's cameras."""
        info = self.features[video_key(camera)]["info"]
        return f"{info[_CODEC]} {info[_PIX_FMT]}"

    def video_files(self, camera: str) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
        """Every mp4 of one of the robot's cameras, and the (id in the mixture, version) of the episodes in it."""
        stream = video_stream(video_key(camera))
        for number, run in enumerate(self.layout.runs(stream)):
            entries = [self.layout.entries[k] for k in run.episodes]
            yield self.version.folder / file_name(stream, number), [(mixture_id(self.source, e.id), e.version) for e in entries]

    @property
    def training_frames(self) -> int:
        """Frames that trainings read."""
        return sum(episode.meta.length for episode in self.episodes if episode_id(self, episode) not in self.held_out)


def mixture_id(source: Source, episode: str) -> str:
    """The id of a source's episode in the mixture: two robots may have recordings of one name."""
    return f"{source.name}/{episode}"


def episode_id(data: SourceData, episode: Episode) -> str:
    """See `mixture_id`."""
    return mixture_id(data.source, episode.id)


def read_sources(mixture: Mixture, root: Path | None = None) -> list[SourceData]:
    """Read the sources' datasets in use. Raise DatasetError with every reason why they cannot be this mixture.

    `root` is that of the stores, by default VLA_OPS_HOME.
    """
    found: list[SourceData] = []
    reasons: list[str] = []
    for k, source in enumerate(mixture.sources):
        try:
            found.append(_read(source, RobotStore.of(source.robot.name, root)))
        except DatasetError as error:
            reasons.append(f"{mixture.place(('sources', k))}: {source.name}: {error}")
    if not reasons:
        reasons = [*_shapes(mixture, found)]
        chosen = [_with_tasks(data) for data in found]
        reasons += [*_unknown_tasks(mixture, found), *_nothing_left(mixture, chosen)]
        found = chosen
    if reasons:
        raise DatasetError("\n".join([f"the mixture {mixture.name} cannot be made", *reasons]))
    return found


def _read(source: Source, store: RobotStore) -> SourceData:
    accepted = accepted_dataset(source.robot, store)
    folder = accepted.version.folder
    made = json.loads((folder / VERSION_FILE).read_text(encoding="utf-8"))
    held_out = frozenset(mixture_id(source, made["episodes"][k]["id"]) for k in made.get(HELD_OUT, ()))
    return SourceData(
        source=source,
        version=accepted.version,
        layout=Layout.from_json(made),
        extradata=made["extradata"],
        features=json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))["features"],
        episodes=tuple(accepted.episodes),
        held_out=held_out,
    )


def _with_tasks(data: SourceData) -> SourceData:
    tasks = data.source.spec.tasks
    if tasks is None:
        return data
    episodes = tuple(episode for episode in data.episodes if episode.meta.task in tasks)
    return replace(data, episodes=episodes, held_out=data.held_out & {episode_id(data, episode) for episode in episodes})


def _unknown_tasks(mixture: Mixture, found: Sequence[SourceData]) -> Iterator[str]:
    for k, data in enumerate(found):
        known = list(dict.fromkeys(episode.meta.task for episode in data.episodes))
        for place, task in enumerate(data.source.spec.tasks or ()):
            if task not in known:
                where = mixture.place(("sources", k, "tasks", place))
                yield f"{where}: the dataset of {data.source.robot.name} has no task {task!r}; {nearest(task, known)}"


def _nothing_left(mixture: Mixture, chosen: Sequence[SourceData]) -> Iterator[str]:
    for k, data in enumerate(chosen):
        if data.episodes and not data.training_frames:
            said = f"all {len(data.episodes)} episodes of {data.name} are held out for validation: none is left for training"
            yield f"{mixture.place(('sources', k))}: {said}"


def _shapes(mixture: Mixture, found: Sequence[SourceData]) -> Iterator[str]:
    for camera in mixture.schema.cameras:
        having = [(k, data, own) for k, data in enumerate(found) if (own := data.source.placement.cameras[camera]) is not None]
        _, first, of_first = having[0]
        for k, data, own in having[1:]:
            if data.shape(own) != first.shape(of_first):
                there, here = ("x".join(map(str, d.shape(name)[:2])) for d, name in ((first, of_first), (data, own)))
                said = f"camera {camera}: {there} in {first.name}, {here} in {data.name} (height x width)"
                yield f"{mixture.place(('sources', k))}: {said}; rename one of them under `cameras`, or record at one size"


def black_video(camera: str, found: Sequence[SourceData]) -> VideoInfo:
    """What the video is like that stands in for a camera (by the mixture's name): as the first source's that has it."""
    data, own = next((data, own) for data in found if (own := data.source.placement.cameras[camera]) is not None)
    height, width, _ = data.shape(own)
    codec = str(data.features[video_key(own)]["info"][_CODEC])
    return VideoInfo(height, width, codec, str(data.features[video_key(own)]["info"][_PIX_FMT]), 0)
