"""Norm stats that are taken, and those that are refused by what they say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from pydantic import ValidationError

from vla_ops.errors import FetchError, PublishError, StatsMismatchError
from vla_ops.norm_stats import compute_norm_stats, write_norm_stats, written_numbers
from vla_ops.policies import PolicyStats, StatsFrom, check_stats, read_stats, take_stats, write_stats
from vla_ops.policies.normalize import Numbers
from vla_ops.publishing.package import Package
from vla_ops.publishing.publish import publish
from vla_ops.publishing.stores import LocalStore
from vla_ops.robot import RobotSpec
from vla_ops_tests.norm_stats.arms import parts, pose_spec, poses
from vla_ops_tests.norm_stats.data import ALOHA, make_spec, write_dataset
from vla_ops_tests.policies.making import ARM, aloha_spec, arm_spec, numbers
from vla_ops_tests.services.http import HttpServer

ROBOT = "test_arm"  # as write_dataset has it


def from_(origin: Path | str, asset_id: str = "trossen", **other: Any) -> StatsFrom:
    return StatsFrom.model_validate({"from": str(origin), "asset_id": asset_id, **other})


def openpi_checkpoint(folder: Path, state: Numbers, actions: Numbers | None = None, asset_id: str = "trossen") -> Path:
    """A step's folder with norm stats as openpi writes them."""
    target = folder / "assets" / asset_id / "norm_stats.json"
    target.parent.mkdir(parents=True)
    value = {"norm_stats": {"state": state.as_json(), "actions": (actions or state).as_json()}}
    target.write_text(json.dumps(value, indent=2))
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """This project's norm stats of an arm."""
    rows = np.cumsum(np.random.default_rng(0).normal(scale=0.05, size=(60, 3)), axis=0).astype(np.float32)
    dataset = write_dataset(tmp_path / "dataset", rows, rows, [20, 40], names=ARM)
    return write_norm_stats(tmp_path / "norm_stats", compute_norm_stats(dataset, spec=arm_spec()))


# our own


def test_the_numbers_are_those_in_the_file_and_the_file_says_what_they_are_of(own: Path) -> None:
    stats = read_stats(own)
    written = json.loads(own.read_text())["norm_stats"]
    assert (stats.state.as_json(), stats.actions.as_json()) == (written["state"], written["actions"])
    assert stats.provenance is not None
    assert not stats.accepted
    check_stats(stats, arm_spec(), robot=ROBOT, horizon=5)
    check_stats(stats, arm_spec(), robot=ROBOT, horizon=5, dataset_version=stats.provenance.dataset_version)
    assert read_stats(own.parent).fingerprint == stats.fingerprint


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (arm_spec(action_horizon=6), "horizon 5.*horizon 6"),
        (arm_spec(action_space="absolute"), "action space delta.*action space absolute"),
        (make_spec(["waist", "wrist", "gripper"], norm_stats={"action_horizon": 5}), r"dimension state 1, wrist in rad.*elbow.*wrist"),
        (make_spec(["elbow", "waist", "gripper"], norm_stats={"action_horizon": 5}), r"dimension state 0, elbow in rad"),
        (make_spec([*ARM[:2], "roll", "gripper"], norm_stats={"action_horizon": 5}), "state width 3.*state width 4"),
        (make_spec(ARM, unit="deg", norm_stats={"action_horizon": 5}), r"dimension state 0, waist in deg.*'rad'.*'deg'"),
    ],
)
def test_openpi_773_stats_of_other_data_are_refused_with_both_values(own: Path, spec: RobotSpec, said: str) -> None:
    with pytest.raises(StatsMismatchError, match=f"(?s)are not for this data.*{said}") as raised:
        check_stats(read_stats(own), spec, robot=ROBOT, horizon=spec.norm_stats.action_horizon)
    assert raised.value.where["robot"] == ROBOT


def test_stats_of_another_robot_or_dataset_are_refused(own: Path) -> None:
    stats = read_stats(own)
    with pytest.raises(StatsMismatchError, match="found robot test_arm; expected robot other_arm"):
        check_stats(stats, arm_spec(), robot="other_arm", horizon=5)
    with pytest.raises(StatsMismatchError, match=r"found dataset content-.*expected dataset v2"):
        check_stats(stats, arm_spec(), robot=ROBOT, horizon=5, dataset_version="v2")


def test_stats_of_rotations_in_another_way_are_refused(tmp_path: Path) -> None:
    arm = parts("rotation_vector", "rad", stream="/state")
    rows = poses(60, "rotation_vector", "rad")
    dataset = write_dataset(tmp_path / "dataset", rows, rows, [60], names=["x", "y", "z", "r0", "r1", "r2", "gripper"])
    path = write_norm_stats(tmp_path / "stats", compute_norm_stats(dataset, spec=pose_spec(arm, rotation_delta="subtracted")))
    with pytest.raises(StatsMismatchError, match="rotation delta subtracted; expected rotation delta composed"):
        check_stats(read_stats(path), pose_spec(arm), robot=ROBOT, horizon=5)


def test_stats_in_pis_space_are_refused_where_the_robot_is_not(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (50, 14)).astype(np.float32)
    dataset = write_dataset(tmp_path / "dataset", rows, rows, [50], names=ALOHA)
    path = write_norm_stats(tmp_path / "stats", compute_norm_stats(dataset, spec=aloha_spec(adapt_to_pi=True)))
    with pytest.raises(StatsMismatchError, match=r"action 6, left_gripper in ratio.*adapt_to_pi True.*adapt_to_pi False"):
        check_stats(read_stats(path), aloha_spec(), robot=ROBOT, horizon=10)


def test_numbers_that_were_edited_are_refused(own: Path) -> None:
    own.write_text(own.read_text().replace('"mean"', '"mean"', 1).replace("0.", "0.9", 1))
    with pytest.raises(StatsMismatchError, match=rf"are not those that norm_stats\.meta\.json tells of \[file {own.parent}\]"):
        read_stats(own)


def test_they_go_into_a_checkpoints_assets_and_come_back_whole(tmp_path: Path, own: Path) -> None:
    stats = read_stats(own)
    path = write_stats(tmp_path / "1000" / "assets" / ROBOT, stats)
    again = read_stats(path)
    assert (again.provenance, again.fingerprint) == (stats.provenance, stats.fingerprint)
    taken = take_stats(from_(tmp_path / "1000", ROBOT), arm_spec(), robot=ROBOT)
    assert taken.fingerprint == stats.fingerprint


def test_widened_numbers_are_the_ones_that_are_used(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    rows[:, 1] = 0.25
    stats = compute_norm_stats(write_dataset(tmp_path / "dataset", rows, rows, [50], names=ARM), spec=arm_spec())
    read = read_stats(write_norm_stats(tmp_path / "stats", stats))
    assert (stats.state.std[1], read.state.std[1]) == (0, 5e-4)
    assert read.state.as_json() == written_numbers(stats)["state"]


# those of others


def test_stats_that_say_nothing_are_refused_unless_they_are_asked_for(tmp_path: Path) -> None:
    base = openpi_checkpoint(tmp_path / "base", numbers(3, 0))
    bare = read_stats(base / "assets" / "trossen")
    assert bare.provenance is None
    with pytest.raises(StatsMismatchError, match=r"do not say what they were made from.*3 state and 3 action.*`norm_stats: \{from"):
        check_stats(bare, arm_spec(), robot=ROBOT, horizon=5)
    taken = take_stats(from_(base), arm_spec(), robot=ROBOT)
    check_stats(taken, arm_spec(), robot=ROBOT, horizon=5)
    assert taken.state.as_json() == bare.state.as_json()
    assert taken.accepted


@pytest.mark.parametrize("tail", ["", "/", "/params", "/assets"])
def test_they_are_found_from_the_checkpoint_its_params_or_its_assets(tmp_path: Path, tail: str) -> None:
    base = openpi_checkpoint(tmp_path / "base", numbers(3, 0))
    assert take_stats(from_(f"{base}{tail}"), arm_spec(), robot=ROBOT).origin == str(base / "assets" / "trossen")


def test_they_are_found_in_a_store() -> None:
    text = json.dumps({"norm_stats": {"state": numbers(3, 0).as_json(), "actions": numbers(3, 1).as_json()}})
    fsspec.filesystem("memory").pipe_file("/base/assets/trossen/norm_stats.json", text.encode())
    taken = take_stats(from_("memory://base/params"), arm_spec(), robot=ROBOT)
    assert taken.origin == "memory://base/assets/trossen"
    assert taken.actions.as_json() == numbers(3, 1).as_json()
    with pytest.raises(FetchError, match=r"no norm stats of this name.*found assets trossen; expected assets/franka/norm_stats.json"):
        take_stats(from_("memory://base", "franka"), arm_spec(), robot=ROBOT)


def test_of_what_was_published_they_are_compared_and_name_its_version(
    tmp_path: Path, http: HttpServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    base = openpi_checkpoint(tmp_path / "made", numbers(3, 0))
    name = "assets/trossen/norm_stats.json"
    package = Package("policy", "arm/pi0", {name: base / name}, {"robot": "arm"}, {})
    done = publish(package, LocalStore(http.folder), work=tmp_path / "work")
    uri = f"{http.uri}/arm/pi0"
    taken = take_stats(from_(uri), arm_spec(), robot=ROBOT)
    assert taken.origin == f"{uri}@{done.manifest.version}/assets/trossen"
    http.trouble = lambda *_: 503
    assert take_stats(from_(uri), arm_spec(), robot=ROBOT).fingerprint == taken.fingerprint
    assert f"Taken is {uri}@{done.manifest.version}" in caplog.text
    http.trouble = lambda *_: "none"
    (http.folder / "arm/pi0" / done.manifest.folder / name).write_text("{}")
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "another"))
    with pytest.raises(PublishError, match=r"not what was published.*norm_stats\.json"):
        take_stats(from_(uri), arm_spec(), robot=ROBOT)


def test_a_six_joint_arm_takes_half_of_an_alohas_only_when_it_says_which_half(tmp_path: Path) -> None:
    wide = numbers(14, 0)
    base = openpi_checkpoint(tmp_path / "base", wide)
    spec = make_spec(["j1", "j2", "j3", "j4", "j5", "j6", "gripper"], norm_stats={"action_horizon": 50})
    with pytest.raises(
        StatsMismatchError,
        match=r"not as wide as the robot's state.*found 14 dimensions.*expected 7: j1, .*, gripper\. .*dims: \[0, 1, 2, 3, 4, 5, 6\]",
    ):
        take_stats(from_(base), spec, robot=ROBOT)
    right = take_stats(from_(base, dims=[7, 8, 9, 10, 11, 12, 13]), spec, robot=ROBOT)
    np.testing.assert_array_equal(right.state.mean, wide.mean[7:])
    np.testing.assert_array_equal(right.actions.std, wide.std[7:])
    other = take_stats(from_(base, dims=list(range(7)), action_dims=list(range(7, 14))), spec, robot=ROBOT)
    np.testing.assert_array_equal(other.state.mean, wide.mean[:7])
    np.testing.assert_array_equal(other.actions.mean, wide.mean[7:])


def test_zeros_that_openpi_filled_up_with_are_no_dimensions(tmp_path: Path) -> None:
    real = numbers(3, 0)
    zeros = np.zeros(29)
    assert real.q01 is not None
    assert real.q99 is not None
    columns = (real.mean, real.std, real.q01, real.q99)
    padded = Numbers(*(np.concatenate([column, zeros]) for column in columns))
    taken = take_stats(from_(openpi_checkpoint(tmp_path / "base", padded)), arm_spec(), robot=ROBOT)
    assert taken.state.as_json() == real.as_json()
    glitch = Numbers(*(column.copy() for column in (padded.mean, padded.std, padded.q01, padded.q99) if column is not None))
    glitch.mean[20] = 1e-3
    with pytest.raises(StatsMismatchError, match="found 32 dimensions"):
        take_stats(from_(openpi_checkpoint(tmp_path / "other", glitch)), arm_spec(), robot=ROBOT)


@pytest.mark.parametrize(
    ("dims", "said"),
    [
        ([0, 1], "`dims` do not fit.*expected 3 different ones: waist, elbow, gripper"),
        ([0, 1, 1], "`dims` do not fit"),
        ([0, 1, 3], r"leave the file's state \[.*dimension gripper.*found 3; expected 0 \.\. 2"),
        ([0, 1, -1], "leave the file's state"),
    ],
)
def test_dims_that_cannot_be_meant_are_refused(tmp_path: Path, dims: list[int], said: str) -> None:
    base = openpi_checkpoint(tmp_path / "base", numbers(3, 0))
    with pytest.raises(StatsMismatchError, match=said):
        take_stats(from_(base, dims=dims), arm_spec(), robot=ROBOT)


def test_narrower_stats_are_refused_and_never_filled_up(tmp_path: Path) -> None:
    base = openpi_checkpoint(tmp_path / "base", numbers(2, 0))
    with pytest.raises(StatsMismatchError, match=r"found 2 dimensions in the file; expected 3: waist, elbow, gripper"):
        take_stats(from_(base), arm_spec(), robot=ROBOT)


def test_what_was_accepted_stands_beside_its_copy_for_whom_it_was(tmp_path: Path) -> None:
    base = openpi_checkpoint(tmp_path / "base", numbers(14, 0))
    taken = take_stats(from_(base, dims=[7, 8, 13]), arm_spec(), robot=ROBOT)
    path = write_stats(tmp_path / "1000" / "assets" / "trossen", taken)
    again = read_stats(path)
    assert (again.provenance, again.accepted, again.fingerprint) == (taken.provenance, True, taken.fingerprint)
    check_stats(again, arm_spec(), robot=ROBOT, horizon=5, dataset_version="any")
    with pytest.raises(StatsMismatchError, match="horizon 5; expected horizon 9"):
        check_stats(again, arm_spec(action_horizon=9), robot=ROBOT, horizon=9)
    numbers_there = json.loads(path.read_text())
    numbers_there["norm_stats"]["state"]["mean"][0] += 1
    path.write_text(json.dumps(numbers_there))
    with pytest.raises(StatsMismatchError, match=r"not those that norm_stats\.accepted\.json tells of"):
        read_stats(path)


def test_stats_that_name_another_robot_are_taken_only_where_that_is_said(tmp_path: Path, own: Path) -> None:
    write_stats(tmp_path / "1000" / "assets" / ROBOT, read_stats(own))
    with pytest.raises(StatsMismatchError, match="found robot test_arm; expected robot twin"):
        take_stats(from_(tmp_path / "1000", ROBOT), arm_spec(), robot="twin")
    taken = take_stats(from_(tmp_path / "1000", ROBOT, robot=ROBOT), arm_spec(), robot="twin")
    check_stats(taken, arm_spec(), robot="twin", horizon=5)
    assert taken.accepted
    with pytest.raises(StatsMismatchError, match="need no `dims`"):
        take_stats(from_(tmp_path / "1000", ROBOT, dims=[0, 1, 2]), arm_spec(), robot=ROBOT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": [0.0, float("nan"), 0.0]}, r"no statistics.*dimension state 1"),
        ({"std": [1.0, 1.0, -1.0]}, r"no statistics.*dimension state 2"),
        ({"q01": [9.0, 9.0, 9.0]}, r"no statistics.*dimension state 0"),
        ({"std": [1.0]}, "not of one width"),
        ({"q99": None}, "not of one width"),
        ({"mean": "none"}, "not a file of norm stats"),
    ],
)
def test_numbers_that_cannot_be_statistics_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = Numbers(np.zeros(3), np.ones(3), -np.ones(3), np.ones(3)).as_json()
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": good | change, "actions": good}}))
    with pytest.raises(StatsMismatchError, match=said) as raised:
        read_stats(folder)
    assert raised.value.where["file"] == str(folder)


def test_files_without_quantiles_exist(tmp_path: Path) -> None:
    base = openpi_checkpoint(tmp_path / "base", Numbers(np.zeros(3), np.ones(3)))
    stats = take_stats(from_(base), arm_spec(), robot=ROBOT)
    assert stats.state.q01 is None


def test_stats_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no norm stats here.*expected norm_stats\.json"):
        read_stats(tmp_path)
    with pytest.raises(FetchError, match=r"no norm stats of this name.*found no assets"):
        take_stats(from_(tmp_path), arm_spec(), robot=ROBOT)


def test_a_misspelt_key_is_told_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'asset_id'"):
        StatsFrom.model_validate({"from": "base", "asset": "trossen"})


def test_stats_of_one_robot_have_one_fingerprint(own: Path) -> None:
    stats = read_stats(own)
    assert isinstance(stats, PolicyStats)
    assert stats.fingerprint != read_stats_of_half(own).fingerprint


def read_stats_of_half(own: Path) -> PolicyStats:
    """The same numbers as nobody's."""
    (own.parent / "norm_stats.meta.json").unlink()
    return read_stats(own)
