"""Everything between a robot's raw recordings and a served vision-language-action policy.

`RobotPipeline` and `Mixture` are the Dagster components behind `type: vla_ops.RobotPipeline` and `type: vla_ops.Mixture`. They are
imported on first use, so that the library, the CLI and the conversion workers do not load Dagster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla_ops.lineage.mixture import Mixture
    from vla_ops.lineage.pipeline import RobotPipeline

__all__ = ["Mixture", "RobotPipeline"]


def __getattr__(name: str) -> Any:
    if name == "RobotPipeline":
        from vla_ops.lineage.pipeline import RobotPipeline

        return RobotPipeline
    if name == "Mixture":
        from vla_ops.lineage.mixture import Mixture

        return Mixture
    raise AttributeError(f"module 'vla_ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
