"""What the card of a mixture says of its sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla_ops.datasets.mixture.sampling import SAMPLING_FILE, Sampling, SourceSampling
from vla_ops.datasets.mixture.sources import SourceData
from vla_ops.mixture_file import Mixture
from vla_ops.mixture_schema import action_origin

SOURCE_COLUMNS = (
    "source", "robot", "version", "episodes", "frames", "training frames", "weight", "probability", "action",
    "missing dimensions", "missing cameras", "left out", "licence",
)  # fmt: skip


def source_rows(mixture: Mixture, sources: Sequence[SourceData], sampling: Sampling) -> list[dict[str, Any]]:
    """One row of SOURCE_COLUMNS a source."""
    return [_row(mixture, data, drawn) for data, drawn in zip(sources, sampling.sources, strict=True)]


def _row(mixture: Mixture, data: SourceData, drawn: SourceSampling) -> dict[str, Any]:
    spec = data.source.robot.spec
    return {
        "source": data.name,
        "robot": drawn.robot,
        "version": drawn.dataset_version,
        "episodes": len(data.episodes),
        "frames": drawn.frames,
        "training frames": drawn.training_frames,
        "weight": "by frames" if drawn.weight is None else drawn.weight,
        "probability": round(drawn.probability, 6),
        "action": action_origin(spec),
        "missing dimensions": ", ".join(missing_dims(mixture, data)),
        "missing cameras": ", ".join(camera for camera, own in data.source.placement.cameras.items() if own is None),
        "left out": ", ".join(_left_out(data)),
        "licence": spec.dataset.licence,
    }


def missing_dims(mixture: Mixture, data: SourceData) -> list[str]:
    """The mixture's dimensions that a source does not have, those of state and action under one name once."""
    placement, schema = data.source.placement, mixture.schema
    state = [dim.name for dim, column in zip(schema.state_dims, placement.state, strict=True) if column is None]
    action = [dim.name for dim, column in zip(schema.action_dims, placement.action, strict=True) if column is None]
    return list(dict.fromkeys([*state, *action]))


def _left_out(data: SourceData) -> list[str]:
    """What the robot has and the mixture's schema has not, by the robot's names."""
    spec, placement = data.source.robot.spec, data.source.placement
    state = [dim.name for k, dim in enumerate(spec.state_dims) if k not in placement.state]
    action = [dim.name for k, dim in enumerate(spec.action_dims) if k not in placement.action]
    return list(dict.fromkeys([*state, *action, *(name for name in spec.cameras if name not in placement.cameras.values())]))


def about_sources(mixture: Mixture, sources: Sequence[SourceData], sampling: Sampling) -> list[str]:
    """The lines of the dataset's card that only a mixture has."""
    rows = [f"| {' | '.join(str(row[column]) for column in SOURCE_COLUMNS)} |" for row in source_rows(mixture, sources, sampling)]
    return [
        "## Sources",
        "",
        f"| {' | '.join(SOURCE_COLUMNS)} |",
        f"|{'---|' * len(SOURCE_COLUMNS)}",
        *rows,
        "",
        "What a source does not have is 0 or black in its frames and False in the mask of the feature (`mask.observation.state`, "
        "`mask.action`, `mask.observation.images.<camera>`). `meta/stats.json` holds of each dimension and camera the statistics over "
        "the training episodes that have it, whatever their weights; norm stats of each source are kept apart from the dataset.",
        "",
        f"`{SAMPLING_FILE}` says how often a training is to read each source. Per frame, held-out episodes being 0:",
        "",
        "```python",
        "from vla_ops.datasets.mixture import frame_weights",
        "sampler = WeightedRandomSampler(frame_weights(root), num_samples=len(dataset))",
        "```",
        "",
    ]
