"""`published_policy`, `published_torch_policy`, `published_dataset`: what was uploaded where, read back, and only then pointed to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from vla_ops.datasets.refresh import accepted_dataset
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import VlaOpsError
from vla_ops.homes import needs
from vla_ops.homes.at_home import at_home
from vla_ops.homes.robot_home import Wanted
from vla_ops.lineage.names import Stage, code_version
from vla_ops.lineage.tables import table
from vla_ops.mixture_file import Mixture
from vla_ops.publishing.publish import Published
from vla_ops.publishing.refresh import PUBLISH_VERSION, publish_dataset, publish_exports, publish_policy
from vla_ops.robot import fingerprint
from vla_ops.robot_file import Robot
from vla_ops.spec.publishing import HUB, PublishSpec
from vla_ops.spec.training import ExportSpec

POINTED_TO = "is_pointed_to"
_COLUMNS = ["publication", "version", "kind", "files", "size_mb", "sent_mb"]
_Say = Callable[[str], None]


def published_policy_assets(robot: Robot | Mixture) -> list[dg.AssetsDefinition]:
    """One asset for each training that has `publish`, and one more where it has `export` too."""
    assets = []
    for name, training in robot.spec.trainings.items():
        if training.publish is not None:
            assets.append(_policy_asset(robot, name, training.publish))
            if training.export is not None:
                assets.append(_torch_policy_asset(robot, name, training.export, training.publish))
    return assets


def published_dataset_assets(stage: Stage) -> list[dg.AssetsDefinition]:
    """One asset where the dataset has `publish`."""
    asked = stage.robot.spec.dataset.publish
    if asked is None:
        return []

    def make(say: _Say) -> list[Published]:
        with at_home(needs.needs_of(stage.robot, needs.dataset), say):
            accepted = accepted_dataset(stage.robot, stage.store)
            return [publish_dataset(stage.store.root.parent, accepted.version.folder, asked, stage.robot.spec.dataset.metrics, say=say)]

    what = "The dataset version in use, as LeRobot v3.0"
    return [_asset(stage.key("published_dataset"), stage.key("lerobot_v3"), asked, what, make)]


def _policy_asset(robot: Robot | Mixture, training: str, asked: PublishSpec) -> dg.AssetsDefinition:
    def make(say: _Say) -> list[Published]:
        with at_home(_needs(robot, training), say):
            return [publish_policy(RobotStore.of(robot.name).root.parent, robot.name, training, asked, say=say)]

    key = [robot.name, training, "published_policy"]
    what = "The best checkpoint with what a server needs, without its train state"
    return _asset(dg.AssetKey(key), dg.AssetKey([robot.name, training, "checkpoint"]), asked, what, make)


def _torch_policy_asset(robot: Robot | Mixture, training: str, exported: ExportSpec, asked: PublishSpec) -> dg.AssetsDefinition:
    def make(say: _Say) -> list[Published]:
        with at_home(_needs(robot, training), say):
            return publish_exports(RobotStore.of(robot.name).root.parent, robot.name, training, exported, asked, say=say)

    key = [robot.name, training, "published_torch_policy"]
    what = "The exports for PyTorch"
    return _asset(dg.AssetKey(key), dg.AssetKey([robot.name, training, "torch_policy"]), asked, what, make)


def _needs(robot: Robot | Mixture, training: str) -> Mapping[str, Wanted]:
    return needs.needs_of(robot, needs.training(training, to_resume=False), of_sources=needs.said)


def _asset(
    key: dg.AssetKey, of: dg.AssetKey, asked: PublishSpec, what: str, make: Callable[[_Say], list[Published]]
) -> dg.AssetsDefinition:
    said = "Every file there was compared with its hash before the pointer was moved."

    @dg.asset(
        key=key,
        deps=[of],
        code_version=code_version([PUBLISH_VERSION, asked.model_dump(mode="json")]),
        group_name=key.path[0],
        kinds={_kind(place) for place in asked.places},
        description=f"{what}, in {' or '.join(asked.places)}. {said}",
        check_specs=[dg.AssetCheckSpec(POINTED_TO, asset=key, description="Whoever follows the pointer gets this version.")],
    )
    def published(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        try:
            done = make(context.log.info)
        except VlaOpsError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprint([PUBLISH_VERSION, *(each.manifest.version for each in done)])),
            metadata=_metadata(done),
            check_results=[_pointed_to(done)],
        )

    return published


def _kind(place: str) -> str:
    return "huggingface" if place.startswith(HUB) else {"s3": "s3", "gs": "gcs"}.get(place.partition("://")[0], "file")


def _pointed_to(done: Sequence[Published]) -> dg.AssetCheckResult:
    # Not so where another machine published at the same time.
    said = [f"{each.uri} is {each.pointed_to}, published was {each.manifest.version}" for each in done]
    passed = all(each.pointed_to == each.manifest.version for each in done)
    return dg.AssetCheckResult(check_name=POINTED_TO, passed=passed, description="; ".join(said))


def _metadata(done: Sequence[Published]) -> dict[str, Any]:
    first = done[0]
    return {
        "uri": f"{first.uri}@{first.manifest.version}",
        "size_mb": round(sum(each.manifest.total_bytes for each in done) / 1e6, 3),
        "sent_mb": round(sum(each.bytes_sent for each in done) / 1e6, 3),
        "seconds": round(sum(each.seconds for each in done), 1),
        "recordings": len(first.manifest.origin["recordings"] or ()),
        "publications": table([_row(each) for each in done], _COLUMNS),
        "look_at_it": dg.MetadataValue.md(f"```\nvla-ops lineage {first.uri}\n```"),
    }


def _row(each: Published) -> dict[str, Any]:
    size, sent = round(each.manifest.total_bytes / 1e6, 3), round(each.bytes_sent / 1e6, 3)
    told = {"publication": each.uri, "version": each.manifest.version, "kind": each.manifest.kind}
    return told | {"files": len(each.manifest.files), "size_mb": size, "sent_mb": sent}
