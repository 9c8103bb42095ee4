"""Where conversions run: processes of this machine, or the nodes of a Ray cluster."""

from __future__ import annotations

from vla_ops.episodes.pool import Workers
from vla_ops.episodes.workers.local import LocalWorkers
from vla_ops.spec import ConversionSpec

__all__ = ["LocalWorkers", "Workers", "workers_of"]


def workers_of(conversion: ConversionSpec, *, at_once: int | None = None) -> Workers:
    """The workers that a robot's YAML asks for; `at_once` recordings instead of as many as it says."""
    if conversion.ray is None:
        return LocalWorkers(at_once or (conversion.local.workers if conversion.local else None))
    from vla_ops.episodes.workers.ray_workers import RayWorkers

    return RayWorkers(conversion.ray.model_copy(update={"max_in_flight": at_once}) if at_once else conversion.ray)
