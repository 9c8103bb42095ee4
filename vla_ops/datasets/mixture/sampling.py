"""How often a training reads each frame of a mixture: `meta/sampling.json`, and the weights that samplers take from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vla_ops.datasets.mixture.sources import SourceData, episode_id
from vla_ops.errors import DatasetError

SAMPLING_FILE = "meta/sampling.json"


@dataclass(frozen=True)
class SourceSampling:
    """What of the mixture is one source's. Ranges are [from, to) and ascend."""

    name: str
    robot: str
    dataset_version: str
    # As written in the YAML; None: proportional to frames.
    weight: float | None
    # That a frame a training reads is of this source; they sum to 1.
    probability: float
    episodes: list[list[int]]
    # Indices of those of its episodes that no training reads.
    held_out: list[int]
    # Frames of the episodes that are not held out, by index in the dataset.
    training_ranges: list[list[int]]
    frames: int
    training_frames: int
    # Probability of each of its training frames.
    frame_weight: float


@dataclass(frozen=True)
class Sampling:
    """The sources of a mixture, in order."""

    frames: int
    sources: list[SourceSampling]


def make_sampling(sources: Sequence[SourceData], ids: Sequence[str], lengths: Sequence[int]) -> Sampling:
    """The sampling of a mixture whose episodes, in order, have these ids and lengths."""
    weights = [data.source.spec.weight for data in sources]
    mass = [float(data.training_frames if weight is None else weight) for data, weight in zip(sources, weights, strict=True)]
    first, place = [0, *accumulate(lengths)], {name: k for k, name in enumerate(ids)}
    found = []
    for data, weight, share in zip(sources, weights, mass, strict=True):
        of_source = sorted(place[episode_id(data, episode)] for episode in data.episodes)
        training = [k for k in of_source if ids[k] not in data.held_out]
        probability = share / sum(mass)
        found.append(
            SourceSampling(
                name=data.name,
                robot=data.source.robot.name,
                dataset_version=data.version.version,
                weight=weight,
                probability=probability,
                episodes=_ranges([(k, k + 1) for k in of_source]),
                held_out=[k for k in of_source if ids[k] in data.held_out],
                training_ranges=_ranges([(first[k], first[k + 1]) for k in training]),
                frames=sum(lengths[k] for k in of_source),
                training_frames=data.training_frames,
                # In this order it is the same number for all sources without weights.
                frame_weight=share / data.training_frames / sum(mass),
            )
        )
    return Sampling(first[-1], found)


def _ranges(parts: Sequence[tuple[int, int]]) -> list[list[int]]:
    joined: list[list[int]] = []
    for start, stop in parts:
        if joined and joined[-1][1] == start:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    return joined


def write_sampling(folder: Path, sampling: Sampling) -> None:
    """Write it into the dataset in `folder`, which nobody else reads yet."""
    path = folder / SAMPLING_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(sampling), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_sampling(folder: Path) -> Sampling:
    """Read the sampling of the mixture in `folder`. Raise DatasetError if it is none."""
    path = folder / SAMPLING_FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Sampling(value["frames"], [SourceSampling(**source) for source in value["sources"]])
    except FileNotFoundError as error:
        raise DatasetError("not a mixture: it says no sampling weights", file=path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError("cannot be read", file=path, found=repr(error), todo="Delete the version; it is then written anew.") from error


def frame_weights(folder: Path) -> npt.NDArray[np.float64]:
    """Probability of each frame [frames] of the mixture in `folder`: they sum to 1, those of held-out episodes are 0."""
    sampling = read_sampling(folder)
    weights = np.zeros(sampling.frames)
    for source in sampling.sources:
        for start, stop in source.training_ranges:
            weights[start:stop] = source.frame_weight
    return weights
