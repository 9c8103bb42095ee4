"""`<robot>/lerobot_v3`: all usable episodes as one LeRobot v3.0 dataset, by packet copy."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from vla_ops.datasets.judged import claims
from vla_ops.datasets.lerobot_v3 import DatasetVersion
from vla_ops.datasets.refresh import Refreshed, refresh_lerobot_v3
from vla_ops.episodes.pictures import CONTACT_SHEET
from vla_ops.episodes.store import Episode
from vla_ops.homes.needs import data, needs_of
from vla_ops.lineage.at_home import done_at_home
from vla_ops.lineage.names import Stage, code_version
from vla_ops.lineage.semantics import say_contradictions, semantic_check_specs, semantic_checks
from vla_ops.lineage.tables import picture, table, version_metadata
from vla_ops.norm_stats import Provenance

COMPLETE = "holds_every_usable_episode"


def lerobot_v3_asset(stage: Stage) -> dg.AssetsDefinition:
    """The asset; a new version appears beside the old ones and unchanged files are shared."""
    key = stage.key("lerobot_v3")

    @dg.asset(
        key=key,
        deps=[stage.key("episodes")],
        code_version=_made_by(stage),
        group_name=stage.robot.name,
        kinds={"lerobot", "parquet"},
        description="All usable episodes as a LeRobot v3.0 dataset, made without decoding an image. New recordings are appended.",
        check_specs=[
            dg.AssetCheckSpec(COMPLETE, asset=key, blocking=True, description="Frames and episodes are those of the episode folders."),
            *semantic_check_specs(stage, key),
        ],
    )
    @done_at_home(lambda: needs_of(stage.robot, data))
    def lerobot_v3(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        refreshed = refresh_lerobot_v3(stage.robot, stage.store, say=context.log.info)
        made, episodes = refreshed.made, refreshed.episodes
        say_contradictions(context.log, stage.robot.spec, refreshed.judged)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(made.version),
            metadata=_metadata(stage, made, episodes) | _curated(refreshed),
            check_results=[_complete(refreshed), *semantic_checks(stage, refreshed.judged)],
        )

    return lerobot_v3


def _made_by(stage: Stage) -> str:
    """Code version: what of the YAML and of the curation the dataset, its checks or its page show."""
    spec, decisions = stage.robot.spec, stage.robot.curation.decisions
    read = [spec.dataset.licence, spec.dataset.repo_id, claims(spec), _deltas(stage)]
    return code_version([*read, decisions] if decisions else read)


def _curated(refreshed: Refreshed) -> dict[str, Any]:
    """The episodes that no training reads."""
    rows = [{"episode": e.id, "frames": e.meta.length} for e in refreshed.episodes if e.id in refreshed.held_out]
    return {"held_out": len(rows)} | ({"held_out_episodes": table(rows, ["episode", "frames"])} if rows else {})


def _metadata(stage: Stage, made: DatasetVersion, episodes: Sequence[Episode]) -> dict[str, Any]:
    spec = stage.robot.spec
    tasks: dict[str, int] = {}
    for episode in episodes:
        tasks[episode.meta.task] = tasks.get(episode.meta.task, 0) + 1
    metadata: dict[str, Any] = {
        **version_metadata(made, rate_hz=spec.timeline.rate_hz, repo_id=spec.dataset.repo_id),
        "tasks": table([{"task": task, "episodes": count} for task, count in tasks.items()], ["task", "episodes"]),
        "dimensions": table(_dimensions(stage), ["vector", "index", "name", "unit", "kind", "delta"]),
        "dagster/column_schema": dg.TableSchema(columns=_columns(stage)),
    }
    sheet = episodes[0].folder.parent / CONTACT_SHEET
    if sheet.exists():
        metadata["contact_sheet"] = picture(sheet)
    return metadata


def _dimensions(stage: Stage) -> list[dict[str, Any]]:
    spec = stage.robot.spec
    rows = [
        {"vector": "state", "index": i, "name": d.name, "unit": d.unit, "kind": d.kind, "delta": ""} for i, d in enumerate(spec.state_dims)
    ]
    for i, (dim, delta) in enumerate(zip(spec.action_dims, _deltas(stage), strict=True)):
        rows.append({"vector": "action", "index": i, "name": dim.name, "unit": dim.unit, "kind": dim.kind, "delta": delta})
    return rows


def _deltas(stage: Stage) -> Sequence[str]:
    """How each action dimension is delta-encoded for a model."""
    return Provenance.of(stage.robot.spec, robot=stage.robot.name, dataset_version="").deltas


def _columns(stage: Stage) -> list[dg.TableColumn]:
    spec = stage.robot.spec
    vectors = [("observation.state", len(spec.state_dims)), ("action", len(spec.action_dims))]
    columns = [dg.TableColumn(name, f"float32[{width}]") for name, width in vectors]
    columns += [dg.TableColumn(f"observation.images.{c}", "video", description=f"role {s.role or 'none'}") for c, s in spec.cameras.items()]
    return [
        *columns,
        dg.TableColumn("timestamp", "float32", description="k / rate, from 0 in each episode"),
        dg.TableColumn("task_index", "int64"),
    ]


def _complete(refreshed: Refreshed) -> dg.AssetCheckResult:
    held, episodes = refreshed.held, refreshed.episodes
    frames = sum(e.meta.length for e in episodes)
    return dg.AssetCheckResult(
        check_name=COMPLETE,
        passed=(held.listed, held.frames) == (len(episodes), frames),
        description=f"read back from the files: {held.listed} episodes, {held.frames} frames; episode folders: {len(episodes)}, {frames}",
        metadata={"dataset_frames": held.frames, "episode_frames": frames},
    )
