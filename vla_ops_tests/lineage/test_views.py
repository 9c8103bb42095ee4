"""The other formats as assets: the same version of the dataset, made once, checked against it."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from vla_ops.datasets.lerobot_v3 import current_version
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import SpecError
from vla_ops_tests.lineage.conftest import Lineage

ONLY_V30, ALL = "repo_id: local/aloha_sim_transfer_cube", "repo_id: local/aloha_sim_transfer_cube\n    rlds: {image_size: 64}"


@pytest.fixture
def with_views(lineage: Lineage) -> Lineage:
    lineage.edit("    - lerobot_v3.0\n", "    - lerobot_v3.0\n    - lerobot_v2.1\n    - rlds\n")
    lineage.edit(ONLY_V30, ALL)
    return lineage


def views_of(lineage: Lineage) -> dict[str, list[str]]:
    root = RobotStore.of(lineage.robot.name).root
    return {name: sorted(p.name for p in (root / name).iterdir() if p.name != "unfinished") for name in ("lerobot_v21", "rlds")}


def test_the_views_are_made_with_the_dataset_and_hold_what_it_holds(with_views: Lineage) -> None:
    result = with_views.run()
    assert result.success
    checks = {c.asset_key.path[-1]: c for c in result.get_asset_check_evaluations() if c.check_name == "holds_what_lerobot_v3_holds"}
    assert {name: check.passed for name, check in checks.items()} == {"lerobot_v21": True, "rlds": True}
    current = current_version(RobotStore.of(with_views.robot.name).root / "lerobot_v3")
    assert current is not None
    found = views_of(with_views)
    assert found["lerobot_v21"] == [current.version]
    assert [name.split("-")[0] for name in found["rlds"]] == [current.version]
    info = json.loads((current.folder.parents[1] / "lerobot_v21" / current.version / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"]) == (current.episodes, current.frames)


def test_a_second_run_writes_no_view_and_a_new_recording_makes_new_ones_that_share_the_old_files(with_views: Lineage) -> None:
    with_views.run()
    before = views_of(with_views)
    again = with_views.run()
    assert views_of(with_views) == before
    written = {m.asset_key.path[-1]: m.metadata.get("written_now") for m in materializations(again)}
    assert (written["lerobot_v21"], written["rlds"]) == (dg.IntMetadataValue(0), dg.IntMetadataValue(0))
    with_views.add("c.mcap", of="transfer_cube_002.mcap")
    more = with_views.run()
    assert {name: len(found) for name, found in views_of(with_views).items()} == {"lerobot_v21": 2, "rlds": 2}
    encoded = {m.asset_key.path[-1]: m.metadata for m in materializations(more)}
    assert encoded["lerobot_v21"]["written_now"] == dg.IntMetadataValue(1)
    assert encoded["rlds"]["encoded_now"] == dg.IntMetadataValue(1)


def materializations(result: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization]:
    return [event.materialization for event in result.get_asset_materialization_events() if event.partition is None]


def test_a_view_alone_is_refused_since_the_others_are_views_of_v30(lineage: Lineage) -> None:
    lineage.edit("    - lerobot_v3.0\n", "    - lerobot_v2.1\n")
    with pytest.raises(SpecError, match=r"write \[lerobot_v3.0, lerobot_v2.1\]"):
        lineage.definitions()
