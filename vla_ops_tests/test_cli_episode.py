"""`vla-ops inspect ROBOT --episode`: one converted episode in a terminal, and what is said of words that do not go together."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vla_ops_tests.terminal import Terminal, add_robot, assert_refused


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the robot `arm` has converted its recordings `0.hdf5` and `1.hdf5`."""
    folder = tmp_path_factory.mktemp("arm")
    add_robot(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLA_OPS_HOME", str(folder / "home"))
        from vla_ops.episodes.ingest import ingest
        from vla_ops.episodes.store import RobotStore
        from vla_ops.robot_file import load_robot

        ingest(load_robot(folder / "robots/arm"), RobotStore.of("arm"), say=lambda _: None, workers=1)
    return folder


@pytest.fixture
def vla_ops(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(home, monkeypatch, capsys)


def test_an_episode_is_shown_with_its_facts_and_the_files_that_were_written(vla_ops: Terminal, home: Path):
    ran = vla_ops("inspect", "arm", "--episode", "1.hdf5/0")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("arm 1.hdf5/0\n")
    for words in ("pick the cube", "11 frames, 0.55 s at 20 Hz", "/observations/qpos", "gripper    ratio", "findings"):
        assert words in ran.out
    files = [Path(line) for line in ran.out.splitlines() if line.startswith(str(home))]
    assert files[0] == home / "home/arm/looks/1.hdf5/0/vectors.png"
    assert all(path.stat().st_size > 1000 for path in files)


def test_the_files_go_where_out_says(vla_ops: Terminal, tmp_path: Path):
    ran = vla_ops("inspect", "arm", "--episode", "0.hdf5", "--out", tmp_path / "look")
    assert ran.code == 0
    assert str(tmp_path / "look/vectors.png") in ran.out
    assert (tmp_path / "look/vectors.png").stat().st_size > 1000


def test_the_robot_may_be_the_path_of_its_folder(vla_ops: Terminal, home: Path, tmp_path: Path):
    assert vla_ops("inspect", home / "robots/arm", "--episode", "0.hdf5/0", "--out", tmp_path).code == 0


def test_without_the_rerun_sdk_one_line_says_which_extra_to_install(vla_ops: Terminal, monkeypatch: pytest.MonkeyPatch):
    # What an import finds where the package is not installed.
    monkeypatch.setitem(sys.modules, "rerun", None)
    ran = vla_ops("inspect", "arm", "--episode", "0.hdf5/0")
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if "uv sync --extra viz" in line] == [ran.out.splitlines()[-1]]
    assert "vectors.png" in ran.out


def test_an_unknown_episode_is_one_message_with_the_nearest(vla_ops: Terminal):
    assert_refused(vla_ops("inspect", "arm", "--episode", "1.hdf/0"), "no such episode [episode 1.hdf/0]", "Did you mean '1.hdf5/0'?")


def test_an_unknown_robot_is_one_message_with_those_there_are(vla_ops: Terminal):
    assert_refused(vla_ops("inspect", "amr", "--episode", "1.hdf5/0"), "no such robot", "arm")


@pytest.mark.parametrize("options", [["--robot", "left"], ["--no-yaml"], ["--only-yaml"]])
def test_what_is_for_recordings_is_refused_with_an_episode(vla_ops: Terminal, options: list[str]):
    assert_refused(vla_ops("inspect", "arm", "--episode", "1.hdf5/0", *options), options[0], "is for a recording, not for --episode")


def test_a_recording_is_refused_with_an_episode(vla_ops: Terminal, home: Path):
    path = home / "robots/arm/recordings/1.hdf5"
    assert_refused(vla_ops("inspect", path, "--episode", "1.hdf5/0"), str(path), "--episode is of a robot", "inspect ROBOT --episode")


def test_out_without_an_episode_is_refused(vla_ops: Terminal, home: Path, tmp_path: Path):
    path = home / "robots/arm/recordings/1.hdf5"
    assert_refused(vla_ops("inspect", path, "--out", tmp_path / "x"), "--out is for --episode")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("called", ["by name", "by path"])
def test_a_robot_without_an_episode_is_told_to_name_one(vla_ops: Terminal, home: Path, called: str):
    name = home / "robots/arm" if called == "by path" else "arm"
    assert_refused(vla_ops("inspect", name), f"{name} is a robot, not a recording", f"vla-ops inspect {name} --episode")


def test_a_recording_with_the_name_of_a_robot_is_a_recording(vla_ops: Terminal, home: Path, tmp_path: Path):
    vla_ops.patch.chdir(tmp_path)
    os.link(home / "robots/arm/recordings/1.hdf5", tmp_path / "arm")
    ran = vla_ops("inspect", "arm", "--no-yaml")
    assert ran.code == 0
    assert "/observations/qpos" in ran.out
