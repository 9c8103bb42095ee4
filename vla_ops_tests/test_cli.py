from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml

from vla_ops.robot_file import load_robot
from vla_ops_tests.terminal import Terminal, add_robot, assert_refused

REPO = Path(__file__).resolve().parents[1]
MCAP = REPO / "robots/aloha_sim/recordings/transfer_cube_000.mcap"
DATA = REPO / "vla_ops_tests/data/aloha_sim"


@pytest.fixture
def vla_ops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, monkeypatch, capsys)


# inspect


INSPECTED = {
    "mcap": (MCAP, ["/left_follower/joint_states", "320", "/cam_high/image_raw/compressed", "jpeg", "25.00 Hz"]),
    "hdf5": (DATA / "transfer_cube_000.hdf5", ["/observations/qpos", "/action", "/observations/images/cam_high", "jpeg"]),
    "zarr": (DATA / "transfer_cube.zarr.zip", ["data/state", "data/action", "data/cam_high", "jpegxl", "2 episodes"]),
}


@pytest.mark.parametrize("format", INSPECTED)
def test_inspect_shows_the_streams_and_a_yaml_to_start_from(vla_ops: Terminal, format: str):
    path, words = INSPECTED[format]
    ran = vla_ops("inspect", path, "--robot", "left_arm")
    assert (ran.code, ran.err) == (0, "")
    streams, stanza = ran.out.split("\n# A start for robots/left_arm/defs.yaml", 1)
    assert not [word for word in words if word not in streams], streams
    written = yaml.safe_load(stanza.split("\n", 1)[1])
    assert written["type"] == "vla_ops.RobotPipeline"
    assert written["attributes"]["recordings"]["format"] == format


@pytest.mark.parametrize("format", INSPECTED)
def test_the_yaml_of_inspect_can_be_saved_and_loads_as_a_robot(vla_ops: Terminal, tmp_path: Path, format: str):
    path = INSPECTED[format][0]
    ran = vla_ops("inspect", path, "--robot", "left_arm", "--only-yaml")
    assert (ran.code, ran.err) == (0, "")
    folder = tmp_path / "robots/left_arm"
    folder.mkdir(parents=True)
    (folder / "defs.yaml").write_text(ran.out)
    robot = load_robot(folder)
    assert robot.spec.recordings.format == format
    assert Path(robot.recordings_uri) == path.parent
    assert len(robot.spec.cameras) == 3


def test_inspect_without_yaml_shows_the_streams_alone(vla_ops: Terminal):
    ran = vla_ops("inspect", MCAP, "--no-yaml")
    assert ran.code == 0
    assert "/cam_high/image_raw/compressed" in ran.out
    assert "vla_ops.RobotPipeline" not in ran.out


@pytest.mark.parametrize("name", ["a.mcap", "a.hdf5", "a.zarr.zip", "a.zarr"])
def test_inspect_of_a_file_that_is_not_there_is_one_message(vla_ops: Terminal, tmp_path: Path, name: str):
    assert_refused(vla_ops("inspect", tmp_path / name), str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.mcap", "a.hdf5", "a.zarr.zip", "a.bag", "a"])
@pytest.mark.parametrize("data", [b"", b"no recording at all" * 100], ids=["empty", "junk"])
def test_inspect_of_a_file_that_is_no_recording_is_one_message(vla_ops: Terminal, tmp_path: Path, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    assert_refused(vla_ops("inspect", tmp_path / name), str(tmp_path / name))


@pytest.mark.parametrize("format", INSPECTED)
def test_inspect_of_a_file_that_was_cut_off_is_one_message_or_says_so(vla_ops: Terminal, tmp_path: Path, format: str):
    source = INSPECTED[format][0]
    cut = tmp_path / source.name
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    ran = vla_ops("inspect", cut)
    if ran.code == 0:
        assert "truncated" in ran.out
    else:
        assert_refused(ran, str(cut))


def test_inspect_of_a_folder_that_is_no_recording_is_one_message(vla_ops: Terminal, tmp_path: Path):
    (tmp_path / "stuff").mkdir()
    (tmp_path / "stuff/readme.txt").write_text("hello")
    assert_refused(vla_ops("inspect", tmp_path / "stuff"), str(tmp_path / "stuff"))


# A robot from nothing to norm stats


def test_from_status_over_convert_to_norm_stats_and_back(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path)
    before = vla_ops("status", "arm")
    assert before.code == 0
    assert "recordings  2 (2 new)" in before.out
    assert before.out.count("none yet") == 2

    converted = vla_ops("convert", "arm", "--workers", "1")
    assert (converted.code, converted.err) == (0, "")
    assert "arm: 2 of 2 recordings to convert (2 new)" in converted.out
    dataset = Path(converted.out.strip().splitlines()[-1])
    assert json.loads((dataset / "meta/info.json").read_text())["total_episodes"] == 2

    computed = vla_ops("norm-stats", "arm")
    assert (computed.code, computed.err) == (0, "")
    assert all(name in computed.out for name in ("j1", "gripper"))
    stats = Path(computed.out.strip().splitlines()[-1])
    assert set(json.loads(stats.read_text())["norm_stats"]) == {"state", "actions"}

    after = vla_ops("status", "arm")
    assert "recordings  2 (2 converted)" in after.out
    assert f"2 episodes, 22 frames  {dataset}" in after.out
    assert f"norm_stats  {stats}" in after.out

    again = vla_ops("convert", "arm")
    assert again.code == 0
    assert "nothing new or changed among 2 recordings" in again.out
    assert again.out.strip().splitlines()[-1] == str(dataset)


def test_convert_names_what_is_not_in_the_dataset_and_status_why(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path, recordings=1)
    (tmp_path / "robots/arm/recordings/bad.hdf5").write_bytes(b"not an HDF5 file")
    ran = vla_ops("convert", "arm")
    assert ran.code == 0
    assert ran.err.startswith("NOT IN THE DATASET: ")
    assert "file bad.hdf5" in ran.err
    status = vla_ops("status", "arm")
    assert "recordings  2 (1 converted, 1 quarantined)" in status.out
    assert status.out.count("  quarantine  ") == 1
    assert "file bad.hdf5" in status.out


def test_convert_only_converts_what_is_named(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path)
    ran = vla_ops("convert", "arm", "--only", "1.hdf5")
    assert ran.code == 0
    assert "arm: 1 of 2 recordings to convert (2 new)" in ran.out
    assert [p.name for p in (tmp_path / "home/arm/episodes").iterdir()] == ["1.hdf5"]


def test_convert_only_of_a_recording_that_is_not_there_names_the_nearest(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path)
    assert_refused(vla_ops("convert", "arm", "--only", "11.hdf5"), "no such recording", "file 11.hdf5", "'1.hdf5'")


def test_convert_without_a_usable_recording_is_refused_with_the_reasons(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path, recordings=0)
    (tmp_path / "robots/arm/recordings").mkdir()
    (tmp_path / "robots/arm/recordings/bad.hdf5").write_bytes(b"not an HDF5 file")
    ran = vla_ops("convert", "arm")
    assert ran.code == 2
    assert "QUARANTINED bad.hdf5" in ran.out
    assert ran.err.startswith("vla-ops: no episode of arm is usable; 1 in quarantine:")
    assert "file bad.hdf5" in ran.err
    assert "Traceback" not in ran.err


def test_convert_takes_the_path_of_a_robot_too(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path, recordings=0)
    shutil.move(tmp_path / "robots/arm", tmp_path / "elsewhere")
    assert_refused(vla_ops("convert", tmp_path / "elsewhere"), "recordings root is not there", str(tmp_path / "elsewhere/recordings"))


def test_norm_stats_before_a_dataset_say_what_to_run(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path, recordings=0)
    assert_refused(vla_ops("norm-stats", "arm"), "arm has no dataset yet", "`vla-ops convert arm`")


def test_a_store_that_cannot_be_written_is_one_message(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path, recordings=1)
    (tmp_path / "home").write_text("a file where the store should be")
    assert_refused(vla_ops("convert", "arm"), "cannot write to the store", "VLA_OPS_HOME")


@pytest.mark.parametrize("command", ["convert", "norm-stats", "status"])
def test_a_wrong_robot_name_names_those_that_exist(vla_ops: Terminal, tmp_path: Path, command: str):
    add_robot(tmp_path, "left_arm", recordings=0)
    add_robot(tmp_path, "right_arm", recordings=0)
    assert_refused(vla_ops(command, "left_amr"), "no such robot", "left_amr", "left_arm, right_arm")


def test_a_mistake_in_the_yaml_names_file_and_line_without_a_traceback(vla_ops: Terminal, tmp_path: Path):
    add_robot(tmp_path, recordings=0)
    path = tmp_path / "robots/arm/defs.yaml"
    path.write_text(path.read_text().replace("pattern:", "patern:"))
    ran = vla_ops("status", "arm")
    assert ran.code == 2
    assert f"{path}:" in ran.err
    assert "Traceback" not in ran.err


# As a program


def program(*words: str | Path, home: Path, robots: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VLA_OPS_HOME": str(home), "VLA_OPS_ROBOTS": str(robots)}
    command = [sys.executable, "-m", "vla_ops.cli", *map(str, words)]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False, timeout=250)


def test_the_program_leaves_with_its_exit_code_and_no_traceback(tmp_path: Path):
    ran = program("status", "nobody", home=tmp_path, robots=REPO / "robots")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("vla-ops: no such robot")
    assert "aloha_sim" in ran.stderr


@pytest.mark.parametrize(("words", "said"), [((), ["inspect", "convert", "norm-stats", "status"]), (("convert",), ["--only", "--workers"])])
def test_help_names_every_command_and_option(vla_ops: Terminal, words: tuple[str, ...], said: list[str]):
    ran = vla_ops(*words, "--help")
    assert ran.code == 0
    assert not [word for word in said if word not in ran.out]


def test_an_unknown_command_is_refused(vla_ops: Terminal):
    ran = vla_ops("transmogrify")
    assert ran.code == 2
    assert "transmogrify" in ran.out + ran.err
    assert "Traceback" not in ran.out + ran.err


def test_on_a_terminal_convert_draws_a_bar(tmp_path: Path):
    add_robot(tmp_path, recordings=1)
    environment = {**os.environ, "VLA_OPS_HOME": str(tmp_path / "home"), "VLA_OPS_ROBOTS": str(tmp_path / "robots"), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vla_ops.cli", "convert", "arm"]
    with subprocess.Popen(command, cwd=REPO, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        printed = b"".join(_until_closed(ours))
    assert process.returncode == 0
    assert "1/1 recordings" in printed.decode()
    assert "lerobot_v3" in printed.decode()


def _until_closed(terminal: int):
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            data = b""
        if not data:
            os.close(terminal)
            return
        yield data


# inspect --only-yaml


@pytest.mark.parametrize("format", INSPECTED)
def test_inspect_with_only_yaml_prints_a_file_that_is_yaml_from_its_first_line(vla_ops: Terminal, format: str):
    ran = vla_ops("inspect", INSPECTED[format][0], "--robot", "left_arm", "--only-yaml")
    assert (ran.code, ran.err) == (0, "")
    written = yaml.safe_load(ran.out)
    assert list(written) == ["type", "attributes"]
    assert written["attributes"]["dataset"] == {"repo_id": "my-lab/left_arm"}
    assert ran.out in vla_ops("inspect", INSPECTED[format][0], "--robot", "left_arm").out


def test_inspect_says_which_checks_see_mistakes_and_how_open_questions_are_marked(vla_ops: Terminal):
    out = vla_ops("inspect", MCAP).out
    assert "uv run dg check defs" in out
    assert "uv run vla-ops status ROBOT" in out
    assert "--only-yaml" in out
    assert "dg check yaml" not in out
    assert "marked `check`" not in out


def test_inspect_of_a_file_with_nothing_to_convert_gives_no_yaml(vla_ops: Terminal, tmp_path: Path):
    with h5py.File(tmp_path / "texts.hdf5", "w") as file:
        file["note"] = "hello"
    ran = vla_ops("inspect", tmp_path / "texts.hdf5")
    assert ran.code == 0
    assert "There is nothing in it to convert." in ran.out
    assert "RobotPipeline" not in ran.out
    assert_refused(vla_ops("inspect", tmp_path / "texts.hdf5", "--only-yaml"), "nothing in it to convert", "texts.hdf5")


def test_a_dataset_that_was_copied_in_part_can_be_looked_at_and_says_what_is_missing(vla_ops: Terminal, recordings_dir: Path):
    ran = vla_ops("inspect", recordings_dir / "lerobot/unitree_g1_v21_partial")
    assert ran.code == 0
    assert "note: 98 of 100 episodes that meta/ lists are not there" in ran.out
    assert "    format: lerobot\n" in ran.out
