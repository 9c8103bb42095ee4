"""Bring a mixture up to date with its sources' datasets: the one path behind the asset and the CLI.

`<store>/lerobot_v3/<version>/` is immutable, as a robot's is; the version is a hash of the sources' versions, the schema and the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vla_ops.datasets.lerobot_v3 import DatasetVersion, Held, current_version, set_current
from vla_ops.datasets.mixture.black_video import BlackVideos
from vla_ops.datasets.mixture.features import mixture_features
from vla_ops.datasets.mixture.placed import Placed, place_episodes
from vla_ops.datasets.mixture.sampling import Sampling, make_sampling
from vla_ops.datasets.mixture.sources import SourceData, black_video, read_sources
from vla_ops.datasets.mixture.write import MixtureWriter, Previous
from vla_ops.episodes.progress import Steps
from vla_ops.episodes.store import RobotStore
from vla_ops.files import only_one, replacing, sweep
from vla_ops.mixture_file import Mixture
from vla_ops.robot import fingerprint

# Raise when the same sources would now give other files.
MIXTURE_FORMAT = 1


@dataclass(frozen=True)
class RefreshedMixture:
    """A mixture's dataset, read back, and its sources."""

    made: DatasetVersion
    # Counted from its files.
    held: Held
    sources: list[SourceData]
    sampling: Sampling


def refresh_mixture(mixture: Mixture, store: RobotStore, *, say: Callable[[str], None]) -> RefreshedMixture:
    """Write the mixture of the sources' datasets in use; nothing is done where it is there.

    Waits for runs that are converting a source. Raise DatasetError with every reason why the sources cannot be this mixture.
    """
    steps = Steps("mixture", say)
    with _sources_held(mixture, store, say):
        sources = read_sources(mixture, store.root.parent)
        made, sampling = _write(mixture, sources, store.root / "lerobot_v3", steps.show)
    say(f"mixture {made.summary()}")
    return RefreshedMixture(made, Held.by(made.folder), sources, sampling)


@contextmanager
def _sources_held(mixture: Mixture, store: RobotStore, say: Callable[[str], None]) -> Iterator[None]:
    roots = {source.robot.name: store.root.parent / source.robot.name for source in mixture.sources} | {mixture.name: store.root}
    with ExitStack() as held:
        # In one order, so that two mixtures do not wait for each other.
        for name, root in sorted(roots.items()):
            held.enter_context(only_one(root, lambda who, name=name: say(f"{mixture.name}: waiting, {who} is using {name}")))
        yield


def _write(
    mixture: Mixture, sources: list[SourceData], root: Path, progress: Callable[[int, int], None]
) -> tuple[DatasetVersion, Sampling]:
    current = current_version(root)
    previous = Previous.read(current.folder, MIXTURE_FORMAT) if current else None
    placed = place_episodes(sources, previous.layout.entries if previous else ())
    features = mixture_features(mixture.schema, sources)
    entries = [p.entry for p in placed]
    sampling = make_sampling(sources, [entry.id for entry in entries], [entry.length for entry in entries])
    made_of = _made_of(mixture, sources, placed, features, sampling)
    version = fingerprint(made_of)
    if current is not None and current.version == version:
        return current, sampling
    found = _described(root / version, placed, current, previous)
    if not found.folder.is_dir():
        sweep(root)
        with TemporaryDirectory(prefix="vla-ops-black-") as pieces, replacing(found.folder) as work:
            black = _black(mixture, sources, Path(pieces))
            writer = MixtureWriter(mixture, placed, sources=sources, features=features, black=black, previous=previous)
            written = writer.write(work, {"mixture_format": MIXTURE_FORMAT, "version": version}, sampling, progress)
        found = replace(found, bytes_written=written.new, bytes_linked=written.linked, created=True)
    set_current(root, found)
    return found, sampling


def _black(mixture: Mixture, sources: Sequence[SourceData], pieces: Path) -> dict[str, BlackVideos]:
    found = {}
    for camera in mixture.schema.cameras:
        (pieces / camera).mkdir()
        found[camera] = BlackVideos(pieces / camera, black_video(camera, sources), rate_hz=mixture.schema.rate_hz)
    return found


def _made_of(
    mixture: Mixture, sources: Sequence[SourceData], placed: Sequence[Placed], features: Mapping[str, Any], sampling: Sampling
) -> dict[str, Any]:
    """Everything that determines the dataset. The repo id is not in it: another name on the Hub changes nothing."""
    schema = mixture.schema
    return {
        "format": MIXTURE_FORMAT,
        "mixture": mixture.name,
        "licence": mixture.spec.dataset.licence,
        "features": features,
        "schema": [schema.rate_hz, [asdict(d) for d in schema.state_dims], [asdict(d) for d in schema.action_dims], schema.cameras],
        "sources": [
            [data.name, data.source.robot.name, data.version.version, schema.of(data.source.placement), data.source.placement.cameras]
            for data in sources
        ],
        "sampling": asdict(sampling),
        "episodes": [[p.entry.id, p.entry.version, p.entry.length, p.entry.task, p.is_held_out] for p in placed],
    }


def _described(folder: Path, placed: Sequence[Placed], current: DatasetVersion | None, previous: Previous | None) -> DatasetVersion:
    now = {p.entry.key for p in placed}
    before = {entry.key for entry in previous.layout.entries} if previous else set()
    held_out = [p.entry.length for p in placed if p.is_held_out]
    return DatasetVersion(
        folder=folder,
        version=folder.name,
        episodes=len(placed),
        frames=sum(p.entry.length for p in placed),
        bytes_written=0,
        bytes_linked=0,
        added=len(now - before),
        removed=len(before - now),
        previous=current.version if current else None,
        created=False,
        held_out_episodes=len(held_out),
        held_out_frames=sum(held_out),
    )
