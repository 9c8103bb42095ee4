"""The component behind `type: vla_ops.RobotPipeline`: one robot's YAML as assets, jobs, a sensor and a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel

from vla_ops.lineage.episodes import episodes_asset
from vla_ops.lineage.lerobot_v3 import lerobot_v3_asset
from vla_ops.lineage.names import Stage
from vla_ops.lineage.norm_stats import norm_stats_asset
from vla_ops.lineage.recordings import recordings_asset, recordings_sensor
from vla_ops.lineage.scaffold import RobotScaffolder
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot


@dg.scaffold_with(RobotScaffolder)
@dataclass
class RobotPipeline(dg.Component):
    """From a robot's raw recordings to datasets, norm stats and checkpoints."""

    spec: RobotSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The YAML's `attributes` are a RobotSpec."""
        return RobotSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Fill in `{{ env.NAME }}` and validate once more with the values."""
        if not isinstance(attributes, RobotSpec):
            raise TypeError(f"attributes of a robot are a RobotSpec, not {type(attributes).__name__}")
        written = attributes.model_dump(by_alias=True, exclude_unset=True)
        return cls(RobotSpec.model_validate(_resolved(written, context.resolution_context)))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The robot is named after its folder."""
        folder = Path(context.path)
        return robot_definitions(Robot((folder.parent if folder.is_file() else folder).name, folder, self.spec))


def _resolved(value: Any, context: dg.ResolutionContext) -> Any:
    """Resolve the templates in `value`. Jinja compiles everything it is given, which is most of the loading time of twenty robots."""
    if isinstance(value, dict):
        return {key: _resolved(inner, context.at_path(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, context.at_path(index)) for index, inner in enumerate(value)]
    return context.resolve_value(value) if isinstance(value, str) and "{{" in value else value


def robot_definitions(robot: Robot) -> dg.Definitions:
    """Everything Dagster knows of one robot."""
    stage = Stage.of(robot)
    data = [episodes_asset(stage), lerobot_v3_asset(stage), norm_stats_asset(stage)]
    everything = dg.AssetSelection.assets(*(asset.key for asset in data))
    common: dict[str, Any] = {"executor_def": dg.in_process_executor, "tags": {"vla_ops/robot": robot.name}}
    jobs = [
        dg.define_asset_job(
            f"{robot.name}_ingest", everything, description="Convert new and changed recordings; datasets and norm stats.", **common
        ),
        dg.define_asset_job(f"{robot.name}_all", everything, description="The whole lineage of the robot.", **common),
    ]
    return dg.Definitions(
        assets=[recordings_asset(stage), *data],
        jobs=jobs,
        sensors=[recordings_sensor(stage, f"{robot.name}_ingest")],
        schedules=_schedules(robot),
    )


def _schedules(robot: Robot) -> list[dg.ScheduleDefinition]:
    plan = robot.spec.reconvert
    if plan is None:
        return []
    name = f"{robot.name}_reconvert"
    return [dg.ScheduleDefinition(name=name, job_name=f"{robot.name}_ingest", cron_schedule=plan.cron, execution_timezone=plan.timezone)]
