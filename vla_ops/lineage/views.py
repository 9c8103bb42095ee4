"""`<robot>/lerobot_v21` and `<robot>/rlds`: the version of `lerobot_v3` in the formats that openpi and OpenVLA-OFT read."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from vla_ops.datasets.lerobot_v3 import current_version
from vla_ops.datasets.lerobot_v21 import differences
from vla_ops.datasets.refresh import refresh_lerobot_v21, refresh_rlds
from vla_ops.datasets.rlds import disagreements
from vla_ops.homes.needs import data, needs_of
from vla_ops.lineage.at_home import done_at_home
from vla_ops.lineage.names import Stage, code_version

SAME = "holds_what_lerobot_v3_holds"


def view_assets(stage: Stage) -> list[dg.AssetsDefinition]:
    """The formats besides v3.0 that the YAML asks for."""
    makers = {"lerobot_v2.1": _lerobot_v21_asset, "rlds": _rlds_asset}
    return [make(stage) for name, make in makers.items() if name in stage.robot.spec.dataset.formats]


def _lerobot_v21_asset(stage: Stage) -> dg.AssetsDefinition:
    key = stage.key("lerobot_v21")

    @dg.asset(
        key=key,
        deps=[stage.key("lerobot_v3")],
        code_version=code_version([stage.robot.spec.dataset.licence]),
        group_name=stage.robot.name,
        kinds={"lerobot", "parquet"},
        description="The version of lerobot_v3 in LeRobot's format v2.1, which openpi reads. Its videos are links of the episodes' own.",
        check_specs=[_same_spec(key, "Frames, indices, numbers, tasks and statistics are the same.")],
    )
    @done_at_home(lambda: needs_of(stage.robot, data))
    def lerobot_v21(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        view = refresh_lerobot_v21(stage.robot, stage.store, say=context.log.info)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(view.version),
            metadata={
                "dagster/row_count": view.layout.first_frames[-1],
                "episodes": len(view.layout.entries),
                "written_now": len(view.written),
                "folder": dg.MetadataValue.path(str(view.folder)),
            },
            check_results=[_same([*differences(view.folder, _v30(stage))])],
        )

    return lerobot_v21


def _rlds_asset(stage: Stage) -> dg.AssetsDefinition:
    key, spec = stage.key("rlds"), stage.robot.spec
    claims = [[dim.name, dim.kind, dim.means, dim.open_at] for dim in spec.action_dims]

    @dg.asset(
        key=key,
        deps=[stage.key("lerobot_v3")],
        code_version=code_version([spec.dataset.rlds.model_dump(), {name: c.role for name, c in spec.cameras.items()}, claims]),
        group_name=stage.robot.name,
        kinds={"tensorflow"},
        description="The version of lerobot_v3 as RLDS, which OpenVLA-OFT reads through TFDS, with the dataset's entry for OFT beside it.",
        check_specs=[_same_spec(key, "Each split has the episodes and steps it should have, counted from the shards.")],
    )
    @done_at_home(lambda: needs_of(stage.robot, data))
    def rlds(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        view = refresh_rlds(stage.robot, stage.store, say=context.log.info)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(view.folder.name),
            metadata={
                "dagster/row_count": view.frames,
                **{f"episodes_{split}": count for split, count in view.episodes.items()},
                "shards": view.shards,
                "written_now": view.written,
                "encoded_now": view.encoded,
                "folder": dg.MetadataValue.path(str(view.folder)),
                "load_with": dg.MetadataValue.md(f"```python\ntfds.builder_from_directory({str(view.dataset)!r})\n```"),
            },
            check_results=[_same(disagreements(view.folder, _v30(stage)))],
        )

    return rlds


def _v30(stage: Stage) -> Path:
    """The folder of the v3.0 dataset in use, of which a view was just made."""
    current = current_version(stage.store.root / "lerobot_v3")
    if current is None:
        raise dg.Failure("the LeRobot v3.0 dataset was deleted while a view of it was made")
    return current.folder


def _same_spec(key: dg.AssetKey, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(SAME, asset=key, blocking=True, description=description)


def _same(found: Sequence[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=SAME,
        passed=not found,
        description="\n".join(found[:10]) or "the same in both",
        metadata={"different": len(found)},
    )
