"""Convert a LeRobot dataset folder to another version of the format, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from vla_ops.datasets.convert.report import Report, some
from vla_ops.datasets.convert.rows import episode_name
from vla_ops.datasets.convert.source import SourceDataset
from vla_ops.datasets.convert.stats import StatsBook, read_stats
from vla_ops.datasets.convert.to_v2 import V2Writer
from vla_ops.datasets.convert.to_v30 import V30Writer
from vla_ops.datasets.lerobot_version import VERSION_FILE
from vla_ops.datasets.ticks import Progress, Ticks
from vla_ops.errors import DatasetError, StoreError
from vla_ops.files import replacing, sweep

type Version = Literal["v2.0", "v2.1", "v3.0"]
# progress(done, total) in episodes of a stream: rows, and each camera's video.

_OF_META = {
    "v2.0": ("info.json", "episodes.jsonl", "tasks.jsonl", "stats.json"),
    "v2.1": ("info.json", "episodes.jsonl", "tasks.jsonl", "episodes_stats.jsonl"),
    "v3.0": ("info.json", "tasks.parquet", "stats.json"),
}


def convert_dataset(
    source: Path,
    target: Path,
    *,
    to: Version,
    without: Collection[str] = (),
    image_quantiles: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the dataset folder `source` as version `to` at `target`, which must not exist; return what was done and what was not kept.

    Rows, indices, tasks, times and packets are the source's. `without` are video features to leave out. `image_quantiles` decodes
    pictures for quantiles that the source does not have. Raise DatasetError, SchemaMismatchError or RecordingFormatError naming file,
    episode and camera for a source that is not whole or cannot be held by the version, and StoreError for a full disk.
    """
    _check_places(source, target)
    opened = SourceDataset(source, without=without)
    if opened.version == to:
        todo = f"Use it as it is, or give another version: {' | '.join(version for version in _OF_META if version != to)}."
        raise DatasetError(f"the dataset is {to} already", file=source, todo=todo)
    report = Report(source, target, opened.version, to, len(opened.places), opened.first_frames[-1], opened.cameras)
    each = Ticks(progress, len(opened.places) * (1 + len(opened.cameras)))
    _ = opened.cuts  # Read before anything is written.
    stats = StatsBook(opened, version=to, image_quantiles=image_quantiles)
    writer = V30Writer(opened, stats, report, each=each) if to == "v3.0" else V2Writer(opened, stats, report, version=to, each=each)
    sweep(target.parent, target=target.name)
    try:
        with replacing(target) as work:
            writer.write(work)
            _copy_others(opened, work, report)
    except StoreError as error:
        error.todo = "Free space there or give another TARGET, then run the same command again: nothing half-made is left."
        raise
    report.done.extend(stats.lines())
    report.not_kept.extend(stats.lacking())
    report.not_kept.extend(_not_kept(opened, to, without))
    return report


def check_dataset(folder: Path, *, without: Collection[str] = ()) -> str:
    """Read all that a conversion reads, and say what is there. Raise what `convert_dataset` raises for a source that is not whole."""
    source = SourceDataset(folder, without=without)
    videos = sum(len(cuts) for cuts in source.cuts.values())
    for _ in source.tables():
        pass
    read_stats(source)
    return f"{folder} ({source.version}): {len(source.places)} episodes, {source.first_frames[-1]:,} frames and {videos} videos are whole"


def _check_places(source: Path, target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise DatasetError("the target is there already", file=target, todo="Remove it or give another one: nothing is written into it.")
    inside, outside = target.resolve(), source.resolve()
    if inside.is_relative_to(outside):
        raise DatasetError("the target is in the source, which is never changed", file=target, expected=f"a folder outside of {source}")


def _not_kept(source: SourceDataset, to: str, without: Collection[str]) -> Iterator[str]:
    yield from (f"feature {name}: left out, as --without says" for name in without)
    if source.version == "v2.0" and (source.folder / "meta/stats.json").is_file():
        yield "meta/stats.json: statistics of the whole; those of this version are of its episodes, or aggregated from them"
    for camera in source.cameras:
        if kinds := sorted({kind for cut in source.cuts[camera] for kind in cut.table.others}):
            linked = not source.is_v30 and to != "v3.0"
            exact = [cut.is_exact(source.rate) for cut in source.cuts[camera] if cut.table.others]
            if not (linked and all(exact)):
                yield f"{', '.join(kinds)} in the videos of {camera}: only pictures are copied"
    if not source.is_v30 and to != "v3.0":
        for camera in source.cameras:
            if moved := [episode_name(k) for k, cut in enumerate(source.cuts[camera]) if not cut.is_exact(source.rate)]:
                yield f"times in the videos of {camera} in {some(moved)}: were not exactly k / fps, and are now"


def _copy_others(source: SourceDataset, work: Path, report: Report) -> None:
    """Copy the files that are not LeRobot's own: a card, notes, more metadata."""
    copied, left = [], []
    for path in _others(source):
        name = path.relative_to(source.folder)
        in_streams = name.parts[0] in ("data", "videos") or name.parts[:2] == ("meta", "episodes")
        hidden = len(name.parts) > 1 and name.parts[0].startswith(".")
        if in_streams or hidden or name.as_posix() == VERSION_FILE or (work / name).exists():
            left.append(name.as_posix())
            continue
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, work / name)
        copied.append(name.as_posix())
    if copied:
        report.done.append(f"copied as they are, whatever they say of the version: {some(copied, 20)}")
    if left:
        report.not_kept.append(f"files that are of no episode, or of the source's version: {some(left, 20)}")


def _others(source: SourceDataset) -> Iterator[Path]:
    own = {source.folder / "meta" / name for name in _OF_META[source.version]} | set(source.index.episode_files)
    own |= {path for place in source.places for path in place.files}
    return (path for path in sorted(source.folder.rglob("*")) if path.is_file() and path not in own)
