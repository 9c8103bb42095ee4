"""What is measured of a dataset: done once for a version and a YAML, and in the way of all that would be made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vla_ops.datasets.refresh import accepted_dataset, refresh_lerobot_v3, refresh_views
from vla_ops.episodes.ingest import ingest
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import DatasetError
from vla_ops.norm_stats.refresh import refresh_norm_stats
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot
from vla_ops_tests.episodes.ingesting import InThisProcess
from vla_ops_tests.episodes.semantics.made_up import aloha_robot


def claiming(robot: Robot, edit: Callable[[dict], None]) -> Robot:
    """The robot with an edited YAML."""
    written = robot.spec.model_dump(by_alias=True)
    edit(written)
    return replace(robot, spec=RobotSpec.model_validate(written))


def say_delta(written: dict) -> None:
    written["action"][0]["means"] = "delta"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Robot, RobotStore]:
    robot, store = aloha_robot(), RobotStore(tmp_path_factory.mktemp("aloha"))
    ingest(robot, store, say=lambda _: None, workers=InThisProcess())
    refresh_lerobot_v3(robot, store, say=lambda _: None)
    return robot, store


def kept(store: RobotStore) -> list[Path]:
    return sorted((store.root / "semantics").glob("*.json"))


def test_the_same_data_and_yaml_are_judged_once(made: tuple[Robot, RobotStore]) -> None:
    robot, store = made
    (before,) = kept(store)
    stamp = before.stat().st_mtime_ns
    again = refresh_lerobot_v3(robot, store, say=lambda _: None).judged
    assert again.against(robot.spec, "block") == again.against(robot.spec, "warn") == []
    assert before.stat().st_mtime_ns == stamp
    assert again.picture.read_bytes().startswith(b"\x89PNG")


def test_another_claim_is_judged_anew_and_nothing_is_made_of_what_it_contradicts(made: tuple[Robot, RobotStore]) -> None:
    robot, store = made
    wrong = claiming(robot, say_delta)
    assert wrong.spec.conversion_fingerprint == robot.spec.conversion_fingerprint
    with pytest.raises(DatasetError, match="the data contradict the robot's YAML") as refused:
        refresh_norm_stats(wrong, store)
    said = str(refused.value)
    assert all(word in said for word in ("action left_waist", "remove `means: delta`", "checks: {actions: warn}"))
    assert not (store.root / "norm_stats").exists()
    with pytest.raises(DatasetError, match="the data contradict"):
        refresh_views(claiming(wrong, lambda w: w["dataset"].update(formats=["lerobot_v3.0", "lerobot_v2.1"])), store, say=lambda _: None)
    assert not (store.root / "lerobot_v21").exists()


def test_who_knows_better_says_warn_and_goes_on(made: tuple[Robot, RobotStore]) -> None:
    robot, store = made

    def edit(written: dict) -> None:
        say_delta(written)
        written["checks"]["actions"] = "warn"

    accepted = accepted_dataset(claiming(robot, edit), store)
    assert accepted.version.episodes == 6


@pytest.mark.parametrize("name", ["recording.json", "0/episode.json"])
def test_an_episode_that_was_converted_again_since_is_named(made: tuple[Robot, RobotStore], name: str) -> None:
    robot, store = made
    meta = store.recording_folder("transfer_cube_003.mcap") / name
    text = meta.read_text()
    meta.write_text(text.replace('"source_version": "', '"source_version": "0'))
    try:
        with pytest.raises(DatasetError, match="converted again or removed since") as refused:
            list(accepted_dataset(robot, store).episodes)
        assert "transfer_cube_003.mcap/0" in str(refused.value)
    finally:
        meta.write_text(text)
