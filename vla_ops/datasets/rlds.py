"""RLDS datasets, which OpenVLA-OFT reads through TFDS: the same episodes, in the same order, as one version of the v3.0 dataset.

`<store>/rlds/<version>-<what else it depends on>/` holds `<name>/1.0.0/` (what `tfds.builder(name, data_dir=...)` opens),
`oft_dataset.json` and `dataset_statistics.json`. Views are immutable and share shards, and an image is encoded once. A run that
is killed leaves whole shards in `unfinished/`, where the next one finds them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.datasets.lerobot_layout import Layout
from vla_ops.datasets.lerobot_version import HELD_OUT, VERSION_FILE
from vla_ops.datasets.rlds_features import IS_FIRST, TFDS_VERSION, make_features, make_info
from vla_ops.datasets.rlds_oft import STATISTICS_FILE, oft_statistics
from vla_ops.datasets.rlds_plan import VIEW_FILE, Plan, RldsSettings, shard_file
from vla_ops.datasets.rlds_shards import UNFINISHED, ShardWriter, is_whole, read_view
from vla_ops.datasets.tfrecord import FRAMING_BYTES, count_values, read_records
from vla_ops.datasets.ticks import Progress
from vla_ops.datasets.views import in_order
from vla_ops.episodes.store import Episode
from vla_ops.episodes.video import available_cores
from vla_ops.errors import DatasetError
from vla_ops.files import replacing, sweep
from vla_ops.robot import RobotSpec

__all__ = ["Held", "RldsSettings", "RldsView", "disagreements", "write_rlds"]

OFT_FILE, INFO_FILE, FEATURES_FILE = "oft_dataset.json", "dataset_info.json", "features.json"


@dataclass(frozen=True)
class RldsView:
    """An RLDS dataset on disk and what writing it took."""

    # TFDS's data_dir, OFT's data_root_dir.
    folder: Path
    # TFDS's and OFT's name of the dataset.
    name: str
    # Of the v3.0 dataset that it is a view of.
    version: str
    # Split -> number of episodes.
    episodes: dict[str, int]
    frames: int
    shards: int
    # Shards written now, and episodes whose images were encoded for them.
    written: int = 0
    encoded: int = 0
    # False: it was there already and nothing was done.
    created: bool = False

    @property
    def dataset(self) -> Path:
        """What `tfds.builder_from_directory` takes."""
        return self.folder / self.name / TFDS_VERSION

    def summary(self) -> str:
        """One line on what is there and what writing it took."""
        done = f"{self.encoded} encoded; {self.written} shards written, {self.shards - self.written} shared"
        episodes = ", ".join(f"{count} {split}" for split, count in self.episodes.items())
        return f"version {self.version}: {episodes} episodes, {self.frames:,} frames; {done if self.created else 'up to date'}"


def write_rlds(
    root: Path,
    v30: Path,
    episodes: Sequence[Episode],
    *,
    spec: RobotSpec,
    robot: str,
    settings: RldsSettings | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> RldsView:
    """Write the RLDS view of the v3.0 dataset folder `v30` made of `episodes` (in any order) to a folder below `root`.

    The episodes that are held out for validation are the split `val`. `progress(done, total)` counts episodes; `workers` cameras are
    encoded at once, by default one a core. Raise DatasetError naming episode and camera for a video or frames that are not the
    episode's, SpecError if no camera has a role, and StoreError for a full disk.
    """
    plan = Plan.read(v30, spec=spec, robot=robot, settings=settings or RldsSettings())
    if _is_there(plan, root):
        return _view(plan, root)
    ordered = in_order(episodes, plan.layout, v30)
    statistics = oft_statistics(v30, [entry.length for entry in plan.layout.entries], plan.training)
    for folder in (root, root / UNFINISHED):
        sweep(folder)
    writer = ShardWriter(root, plan, ordered, progress=progress, workers=workers or available_cores())
    with replacing(plan.folder(root)) as work:
        files = writer.write(work)
        _write_descriptions(work, plan, files, statistics)
    shutil.rmtree(root / UNFINISHED, ignore_errors=True)
    return _view(plan, root, written=writer.written, encoded=writer.encoded, created=True)


def _is_there(plan: Plan, root: Path) -> bool:
    view = read_view(plan.folder(root))
    return view is not None and all(is_whole(plan.folder(root), file) for file in view["files"])


def _view(plan: Plan, root: Path, **took: Any) -> RldsView:
    counts = {split: len(places) for split, places in plan.splits.items()}
    return RldsView(plan.folder(root), plan.name, plan.version, counts, plan.layout.first_frames[-1], len(plan.shards), **took)


def _write_descriptions(work: Path, plan: Plan, files: Sequence[dict[str, Any]], statistics: dict[str, Any]) -> None:
    dataset = work / plan.name / TFDS_VERSION
    splits: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        count = len(file["episodes"])
        splits.setdefault(file["split"], []).append((count, file["bytes"] - FRAMING_BYTES * count))
    _dump(dataset / INFO_FILE, make_info(plan.name, splits, robot=plan.robot, version=plan.version))
    _dump(dataset / FEATURES_FILE, make_features(plan.spec, size=plan.settings.image_size))
    _dump(work / OFT_FILE, plan.oft)
    _dump(work / STATISTICS_FILE, statistics)
    about = {"version": plan.version, "robot": plan.robot, "settings": vars(plan.settings), "records": plan.records, "files": files}
    # On one line: Python's encoder for indented JSON would take longer than all else for a dataset of thousands.
    (work / VIEW_FILE).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Held:
    """What an RLDS dataset holds, counted from its shards: split -> episodes, and split -> steps."""

    episodes: dict[str, int]
    steps: dict[str, int]

    @classmethod
    def by(cls, folder: Path) -> Held:
        """Count in a view's folder, reading no image. Raise DatasetError naming a file that is missing or damaged."""
        episodes: dict[str, int] = {}
        steps: dict[str, int] = {}
        for split, path in _shards(folder):
            counts = [_steps(record, path) for record in read_records(path)]
            episodes[split] = episodes.get(split, 0) + len(counts)
            steps[split] = steps.get(split, 0) + sum(counts)
        return cls(episodes, steps)


def _steps(record: memoryview, path: Path) -> int:
    try:
        return count_values(record, IS_FIRST)
    except DatasetError as error:
        raise error.at(file=path) from error.__cause__


def _shards(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (split, path) of every shard that dataset_info.json speaks of."""
    for path in folder.glob(f"*/{TFDS_VERSION}/{INFO_FILE}"):
        info = json.loads(path.read_text(encoding="utf-8"))
        for split in info["splits"]:
            count = len(split["shardLengths"])
            for number in range(count):
                shard = folder / shard_file(info["name"], split["name"], number, count)
                if not shard.is_file():
                    todo = f"Delete {folder}; the next run writes it anew."
                    raise DatasetError("a shard is missing", file=shard, todo=todo)
                yield split["name"], shard


def disagreements(folder: Path, v30: Path) -> list[str]:
    """Say in what the RLDS view in `folder`, as read back from its shards, differs from the v3.0 dataset `v30`; empty if in nothing."""
    identity = json.loads((v30 / VERSION_FILE).read_text(encoding="utf-8"))
    entries, held_out = Layout.from_json(identity).entries, set(identity.get(HELD_OUT, ()))
    lengths = {"train": [e.length for k, e in enumerate(entries) if k not in held_out], "val": [entries[k].length for k in held_out]}
    held = Held.by(folder)
    pairs = [
        (f"{split} {what}", found.get(split, 0), expected)
        for split in lengths
        for what, found, expected in (("episodes", held.episodes, len(lengths[split])), ("steps", held.steps, sum(lengths[split])))
    ]
    return [f"{what}: {found} in RLDS, {expected} in LeRobot v3.0" for what, found, expected in pairs if found != expected]
