"""Everything between a robot's raw recordings and a served vision-language-action policy.

`RobotPipeline` is the Dagster component behind `type: vla_ops.RobotPipeline`. It is imported on first use, so that the
library, the CLI and the conversion workers do not load Dagster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla_ops.lineage.pipeline import RobotPipeline

__all__ = ["RobotPipeline"]


def __getattr__(name: str) -> Any:
    if name == "RobotPipeline":
        from vla_ops.lineage.pipeline import RobotPipeline

        return RobotPipeline
    raise AttributeError(f"module 'vla_ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
