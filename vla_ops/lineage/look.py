"""`<robot>_look`: one episode's facts and pictures in the UI, as an observation of its partition of `<robot>/episodes`."""

from typing import Any

import dagster as dg
from pydantic import Field

from vla_ops.episodes.look import Look, look_at
from vla_ops.episodes.rerun_log import RRD
from vla_ops.errors import VlaOpsError
from vla_ops.homes.at_home import fetched
from vla_ops.homes.needs import episode
from vla_ops.lineage.names import Stage
from vla_ops.lineage.tables import picture


class LookConfig(dg.Config):
    """Which episode to show."""

    episode: str = Field(description="<recording id>/<k>, k counted from 0; the recording's id alone where it has one episode.")


def look_job(stage: Stage) -> dg.JobDefinition:
    """The job; nothing of the lineage is changed by it."""
    name = stage.robot.name

    @dg.op(name=f"{name}_look_at_an_episode")
    def look_at_an_episode(context: dg.OpExecutionContext, config: LookConfig) -> None:
        try:
            fetched({stage.robot.name: episode(config.episode)}, context.log.info)
            look = look_at(config.episode, stage.robot, stage.store)
        except VlaOpsError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.log.info(look.facts)
        partition = stage.partition_of(look.episode.meta.recording)
        context.log_event(dg.AssetObservation(stage.key("episodes"), partition=partition, metadata=_metadata(look)))

    @dg.job(
        name=f"{name}_look",
        description="Show one episode: launch it with the episode's id, then see the event in the run or on the episodes' partition.",
        executor_def=dg.in_process_executor,
        tags={"vla_ops/robot": name},
    )
    def look() -> None:
        look_at_an_episode()

    return look


def _metadata(look: Look) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "episode": look.episode.id,
        "facts": dg.MetadataValue.md(f"```text\n{look.facts}\n```"),
        "folder": dg.MetadataValue.path(str(look.folder)),
    }
    for path in look.files:
        if path.name == RRD:
            metadata["rerun_recording"] = dg.MetadataValue.path(str(path))
        else:
            metadata[path.stem] = picture(path)
    return metadata | ({"note": look.note} if look.note else {})
