"""The component behind `type: vla_ops.RobotPipeline`: one robot's YAML as assets, jobs, a sensor and a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import BaseModel

from vla_ops.lineage.as_written import as_written
from vla_ops.lineage.episodes import episodes_asset
from vla_ops.lineage.lerobot_v3 import lerobot_v3_asset
from vla_ops.lineage.look import look_job
from vla_ops.lineage.names import Stage
from vla_ops.lineage.norm_stats import norm_stats_asset
from vla_ops.lineage.published import published_dataset_assets, published_policy_assets
from vla_ops.lineage.recordings import reconvert_schedule, recordings_asset, recordings_sensor
from vla_ops.lineage.scaffold import RobotScaffolder
from vla_ops.lineage.torch_policy import torch_policy_assets
from vla_ops.lineage.training import checkpoint_assets, train_jobs, train_tags
from vla_ops.lineage.views import view_assets
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot, load_robot


@dg.scaffold_with(RobotScaffolder)
@dataclass
class RobotPipeline(dg.Component):
    """From a robot's raw recordings to datasets, norm stats and checkpoints."""

    robot: Robot

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The YAML's `attributes`, described by the schema of RobotSpec."""
        return as_written(RobotSpec)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:  # noqa: ARG003 - Dagster calls it so
        """Load the robot that is named after its folder. Raise SpecError naming file and line of every mistake."""
        folder = Path(context.path)
        return cls(load_robot(folder.parent if folder.is_file() else folder))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster calls it so
        """Everything Dagster knows of the robot."""
        return robot_definitions(self.robot)


def robot_definitions(robot: Robot) -> dg.Definitions:
    """Everything Dagster knows of one robot."""
    stage = Stage.of(robot)
    data = [episodes_asset(stage), lerobot_v3_asset(stage), *view_assets(stage), norm_stats_asset(stage)]
    checkpoints = checkpoint_assets(robot)
    policies = [*torch_policy_assets(robot), *published_policy_assets(robot), *published_dataset_assets(stage)]
    ingest: dict[str, str] = {"vla_ops/robot": robot.name, "vla_ops/ingest": robot.name}
    jobs = [
        dg.define_asset_job(
            f"{robot.name}_ingest",
            dg.AssetSelection.assets(*(asset.key for asset in data)),
            description="Convert new and changed recordings; datasets and norm stats.",
            executor_def=dg.in_process_executor,
            tags=ingest,
        ),
        dg.define_asset_job(
            f"{robot.name}_all",
            dg.AssetSelection.assets(*(asset.key for asset in [*data, *checkpoints, *policies])),
            description="The whole lineage of the robot.",
            executor_def=dg.in_process_executor,
            # New recordings do not wait for hours until it has trained.
            tags=train_tags(robot.name) if checkpoints else ingest,
        ),
        *train_jobs(robot, checkpoints),
    ]
    return dg.Definitions(
        assets=[recordings_asset(stage), *data, *checkpoints, *policies],
        jobs=[*jobs, look_job(stage)],
        sensors=[recordings_sensor(stage, f"{robot.name}_ingest")],
        schedules=[reconvert_schedule(stage, f"{robot.name}_ingest")] if robot.spec.reconvert else [],
    )
