"""`<robot>/<training>/torch_policy`: the best checkpoint for PyTorch, in the layouts that the YAML asks for. No parity, no asset."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from vla_ops.episodes.store import RobotStore
from vla_ops.errors import VlaOpsError
from vla_ops.export.refresh import EXPORT_VERSION, Export, refresh_exports
from vla_ops.homes import needs
from vla_ops.lineage.at_home import done_at_home
from vla_ops.lineage.names import code_version
from vla_ops.lineage.tables import picture, table
from vla_ops.lineage.training import POOL
from vla_ops.mixture_file import Mixture
from vla_ops.robot import fingerprint
from vla_ops.robot_file import Robot
from vla_ops.spec.training import ExportSpec

PARITY = "parity"
_COLUMNS = ["layout", "comparison", "precision", "difference", "of size", "ratio", "limit"]
_JOINTS = ["layout", "how", "precision", "dimension", "difference", "unit"]


def torch_policy_assets(robot: Robot | Mixture) -> list[dg.AssetsDefinition]:
    """One asset for each training that has `export`."""
    return [_torch_policy_asset(robot, name, each.export) for name, each in robot.spec.trainings.items() if each.export is not None]


def _torch_policy_asset(robot: Robot | Mixture, name: str, asked: ExportSpec) -> dg.AssetsDefinition:
    key = dg.AssetKey([robot.name, name, "torch_policy"])
    said = "In float32 both models agree to 1e-4 of the numbers' size, in bfloat16 to 5e-2, on held-out observations and the same noise."

    @dg.asset(
        key=key,
        deps=[dg.AssetKey([robot.name, name, "checkpoint"])],
        code_version=code_version([EXPORT_VERSION, asked.model_dump(mode="json")]),
        group_name=robot.name,
        kinds={"pytorch"},
        pool=POOL,
        description=f"The best checkpoint in the layouts {', '.join(asked.layouts)}, {asked.dtype}; kept only where it computes the same.",
        check_specs=[dg.AssetCheckSpec(PARITY, asset=key, blocking=True, description=said)],
    )
    @done_at_home(lambda: needs.needs_of(robot, needs.training(name, to_resume=False), of_sources=needs.said))
    def torch_policy(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        home = RobotStore.of(robot.name).root.parent
        try:
            exports = refresh_exports(home, robot.name, name, asked, say=context.log.info)
        except VlaOpsError as error:
            # The message says it all, and the same would happen again.
            raise dg.Failure(str(error), allow_retries=False) from None
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprint([EXPORT_VERSION, *(export.version for export in exports)])),
            metadata=_metadata(exports),
            check_results=[_parity(exports)],
        )

    return torch_policy


def _parity(exports: Sequence[Export]) -> dg.AssetCheckResult:
    rows = [row for export in exports for row in export.parity["rows"]]
    worst = max(rows, key=lambda row: row["ratio"] / row["limit"])
    found = f"{worst['what']} in {worst['precision']}: {worst['ratio']:.2g} of the numbers' size, the limit is {worst['limit']:.0e}"
    return dg.AssetCheckResult(
        check_name=PARITY, passed=all(row["passes"] for row in rows), description=f"{len(rows)} comparisons; nearest to its limit: {found}"
    )


def _metadata(exports: Sequence[Export]) -> dict[str, Any]:
    first = exports[0]
    return {
        "checkpoint": dg.MetadataValue.path(str(first.checkpoint)),
        **{f"{export.layout}_folder": dg.MetadataValue.path(str(export.folder)) for export in exports},
        **{f"{export.layout}_size_mb": round(export.size_bytes / 1e6, 3) for export in exports},
        "compared_on": f"{len(first.parity['places'])} observations, {first.parity['origin']}",
        "parity": table([_row(export, row) for export in exports for row in export.parity["rows"]], _COLUMNS),
        "largest_difference_of_an_action": table(
            [_joint(export, joint) for export in exports for joint in export.parity["joints"]], _JOINTS
        ),
        **{f"{export.layout}_parity": picture(export.picture) for export in exports},
    }


def _row(export: Export, row: dict[str, Any]) -> dict[str, Any]:
    numbers = {"difference": _short(row["error"]), "of size": _short(row["scale"]), "ratio": _short(row["ratio"]), "limit": row["limit"]}
    return {"layout": export.layout, "comparison": row["what"], "precision": row["precision"], **numbers}


def _joint(export: Export, joint: dict[str, Any]) -> dict[str, Any]:
    told = {"how": joint["how"], "precision": joint["precision"], "dimension": joint["name"], "unit": joint["unit"]}
    return {"layout": export.layout, **told, "difference": _short(joint["error"])}


def _short(value: float) -> float:
    return float(f"{value:.3g}")
