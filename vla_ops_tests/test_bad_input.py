"""Bad recordings, end to end: each is put in quarantine with a message that a person can act on, and the good ones beside it convert."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vla_ops.errors import RecordingError, StoreError
from vla_ops_tests.episodes.ingesting import Run, assert_says, robot_at, run, write_arm
from vla_ops_tests.recordings.hdf5_files import write_images
from vla_ops_tests.recordings.pictures import as_jpeg, frame_picture
from vla_ops_tests.recordings.zarr_files import write_replay_buffer

FRAMES = 12

TIMES = "/observations/timestamps/robot"

HIGH, WRIST = "/observations/images/high", "/observations/images/wrist"

CAMERAS = {"high": {"source": HIGH, "role": "base"}, "wrist": {"source": WRIST, "role": "left_wrist"}}


def stamps() -> np.ndarray:
    return np.arange(FRAMES) / 20


def write_good(path: Path, seed: int, **options: Any) -> None:
    write_arm(path, frames=FRAMES, cameras=("high", "wrist"), seed=seed, **{"stamps_s": stamps(), **options})


def replace_images(path: Path, camera: str, pictures: list[np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        del file[camera]
        write_images(file, camera, pictures, "jpeg_rows")


@pytest.fixture(scope="module")
def hdf5(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("hdf5")
    write_good(folder / "good_1.hdf5", 1)
    write_good(folder / "good_2.hdf5", 2)
    _write_links(folder)
    _write_wrong_shapes(folder)
    _write_wrong_values(folder)
    _write_wrong_files(folder)
    _write_same_names(folder)
    robot = robot_at(folder, "*.hdf5", "hdf5", recordings={"times": {"*": TIMES}}, cameras=CAMERAS)
    return run(robot, tmp_path_factory.mktemp("store"))


def _write_links(folder: Path) -> None:
    outside = folder / "outside.h5"
    write_good(outside, 90)
    for name in ("external_link", "soft_link"):
        write_good(folder / f"{name}.hdf5", 3)
    with h5py.File(folder / "external_link.hdf5", "r+") as file:
        del file["/observations/qpos"]
        file["/observations/qpos"] = h5py.ExternalLink("outside.h5", "/observations/qpos")
    with h5py.File(folder / "soft_link.hdf5", "r+") as file:
        del file["/observations/qpos"]
        file["/elsewhere"] = h5py.ExternalLink("outside.h5", "/")
        file["/observations/qpos"] = h5py.SoftLink("/elsewhere/observations/qpos")


def _write_wrong_shapes(folder: Path) -> None:
    write_good(folder / "narrow_state.hdf5", 4)
    with h5py.File(folder / "narrow_state.hdf5", "r+") as file:
        values = file["/observations/qpos"][:, :6]
        del file["/observations/qpos"]
        file["/observations/qpos"] = values
    write_good(folder / "resolution.hdf5", 5)
    sizes = [(48, 80)] * 7 + [(64, 96)] * 5
    replace_images(folder / "resolution.hdf5", HIGH, [frame_picture(k, size=size) for k, size in enumerate(sizes)])
    write_arm(folder / "no_wrist.hdf5", frames=FRAMES, cameras=("high",), seed=6, stamps_s=stamps())


def _write_wrong_values(folder: Path) -> None:
    write_good(folder / "bad_jpeg.hdf5", 7)
    with h5py.File(folder / "bad_jpeg.hdf5", "r+") as file:
        file[WRIST][5] = np.frombuffer(as_jpeg(frame_picture(5))[:300] + b"\0" * 50, np.uint8)
    write_good(folder / "nan.hdf5", 8)
    with h5py.File(folder / "nan.hdf5", "r+") as file:
        file["/observations/qpos"][4, 2] = np.nan
    late = stamps()
    late[6:] -= 0.2
    write_good(folder / "clock.hdf5", 9, stamps_s=late)


def _write_wrong_files(folder: Path) -> None:
    (folder / "zero.hdf5").touch()
    (folder / "gone.hdf5").symlink_to(folder / "deleted.hdf5")
    write_good(folder / "cut_off.hdf5", 10)
    with open(folder / "cut_off.hdf5", "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)


def _write_same_names(folder: Path) -> None:
    shutil.copy(folder / "good_1.hdf5", folder / "twin.hdf5")
    write_good(folder / "Clash.hdf5", 11)
    write_good(folder / "clash.hdf5", 12)
    write_good(folder / "caf\u00e9.hdf5", 13)
    write_good(folder / "cafe\u0301.hdf5", 14)


def test_the_good_recordings_beside_the_bad_ones_are_converted(hdf5: Run):
    good = {"good_1.hdf5", "good_2.hdf5", "Clash.hdf5", "cafe\u0301.hdf5"}
    assert {key for key, state in hdf5.states.items() if state == "converted"} == good
    assert all(len(hdf5.store.read_episodes(key)) == 1 for key in good)


def test_nothing_half_written_stays(hdf5: Run):
    assert hdf5.left_behind == []


def test_no_bad_recording_leaves_episodes(hdf5: Run):
    assert not [key for key, state in hdf5.states.items() if state != "converted" and hdf5.store.recording_folder(key).exists()]


@pytest.mark.parametrize("recording", ["external_link.hdf5", "soft_link.hdf5"])
def test_a_link_out_of_the_file_is_refused(hdf5: Run, recording: str):
    assert_says(
        hdf5.reason(recording), f"file {recording}", "stream /observations/qpos", "external link leaves the recording", "outside.h5"
    )


def test_a_state_narrower_than_the_spec_names_the_missing_dimension(hdf5: Run):
    assert_says(hdf5.reason("narrow_state.hdf5"), "file narrow_state.hdf5", "/observations/qpos[6:7]", "found 6 values", "gripper")


def test_a_resolution_that_changes_midway_names_camera_frame_and_both_sizes(hdf5: Run):
    said = "file resolution.hdf5", f"stream {HIGH}", "camera high", "frame 7", "found 96 x 64", "expected 80 x 48", "Split the recording"
    assert_says(hdf5.reason("resolution.hdf5"), *said)


def test_a_missing_camera_names_what_is_there(hdf5: Run):
    assert_says(hdf5.reason("no_wrist.hdf5"), "file no_wrist.hdf5", WRIST, f"Did you mean '{HIGH}'")


def test_a_jpeg_that_does_not_decode_names_camera_and_image(hdf5: Run):
    assert_says(hdf5.reason("bad_jpeg.hdf5"), "file bad_jpeg.hdf5", "jpeg", f"stream {WRIST}", "camera wrist", "image 5")


def test_nan_names_the_joint_and_the_frame(hdf5: Run):
    assert_says(hdf5.reason("nan.hdf5"), "file nan.hdf5", "state j3", "1 of 11 values are NaN", "at frame 4", "Repair the recording")


def test_stamps_that_go_back_name_the_stream_and_the_sample(hdf5: Run):
    assert_says(hdf5.reason("clock.hdf5"), "file clock.hdf5", "/observations/qpos", "jumps back", "0.150 s back at sample 6")


def test_an_empty_file_is_named(hdf5: Run):
    assert_says(hdf5.reason("zero.hdf5"), "file zero.hdf5", "empty (0 bytes)", "Copy it again")


def test_an_hdf5_file_that_was_cut_off_is_named(hdf5: Run):
    assert_says(hdf5.reason("cut_off.hdf5"), "file cut_off.hdf5", "truncated", "Copy it again")


def test_a_link_to_a_file_that_is_gone_is_named(hdf5: Run):
    assert_says(hdf5.reason("gone.hdf5"), "gone.hdf5", "No such file")


def test_a_recording_with_the_bytes_of_another_is_not_counted_twice(hdf5: Run):
    assert_says(hdf5.reason("twin.hdf5"), "same bytes as good_1.hdf5", "file twin.hdf5", "duplicates: keep")


@pytest.mark.parametrize(("second", "first"), [("clash.hdf5", "Clash.hdf5"), ("caf\u00e9.hdf5", "cafe\u0301.hdf5")])
def test_ids_that_differ_only_in_case_or_unicode_form_are_one_id(hdf5: Run, second: str, first: str):
    assert_says(hdf5.reason(second), "two recordings with the same id", f"file {second}", first, "Rename")


def test_the_run_names_what_it_refused_without_converting(hdf5: Run):
    (line,) = [line for line in hdf5.said if line.startswith("in quarantine without being converted")]
    assert all(name in line for name in ("twin.hdf5 (duplicate)", "clash.hdf5 (same id)", "gone.hdf5 (unreadable)"))


def test_a_recording_inside_a_recording_is_a_wrong_pattern(tmp_path: Path):
    write_replay_buffer(tmp_path / "raw/a.zarr", cameras=())
    write_replay_buffer(tmp_path / "raw/a.zarr/b.zarr", cameras=())
    with pytest.raises(RecordingError) as caught:
        run(robot_at(tmp_path / "raw", "**/*.zarr", "zarr"), tmp_path / "store")
    assert_says(str(caught.value), "file a.zarr", "found a.zarr/b.zarr", "Narrow recordings.pattern")


# Zarr

ZARR_STATE = [
    {"source": "data/robot0_eef_pos", "names": ["x", "y", "z"], "unit": "m", "kind": "position"},
    {"source": "data/robot0_gripper_width", "names": ["gripper"], "unit": "m", "kind": "gripper"},
]


@pytest.fixture(scope="module")
def zarr(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("zarr")
    write_replay_buffer(folder / "good.zarr.zip", episode_ends=(5, 12), cameras=())
    write_replay_buffer(folder / "escaping.zarr.zip", cameras=())
    with zipfile.ZipFile(folder / "escaping.zarr.zip", "a") as archive:
        archive.writestr("../../evil", b"x")
    (folder / "zero.zarr.zip").touch()
    write_replay_buffer(folder / "wide.zarr.zip", cameras=(), widths={"robot0_eef_pos": 4, "robot0_gripper_width": 1})
    _write_unknown_compressor(folder / "codec.zarr")
    robot = robot_at(folder, "*.zarr*", "zarr", recordings={"source_rate_hz": 20}, state=ZARR_STATE)
    return run(robot, tmp_path_factory.mktemp("store"))


def _write_unknown_compressor(path: Path) -> None:
    write_replay_buffer(path, cameras=(), seed=3)
    array = path / "data/robot0_eef_pos/.zarray"
    array.write_text(json.dumps(json.loads(array.read_text()) | {"compressor": {"id": "vendor_lz"}}))


def test_the_good_replay_buffer_is_converted_and_nothing_else(zarr: Run):
    assert [key for key, state in zarr.states.items() if state == "converted"] == ["good.zarr.zip"]
    assert [e.meta.length for e in zarr.store.read_episodes("good.zarr.zip")] == [4, 6]
    assert zarr.left_behind == []


def test_a_zip_entry_that_escapes_is_refused(zarr: Run):
    assert_says(zarr.reason("escaping.zarr.zip"), "file escaping.zarr.zip", "leaves the archive", "../../evil", "Pack it again")


def test_an_empty_zip_is_named(zarr: Run):
    assert_says(zarr.reason("zero.zarr.zip"), "file zero.zarr.zip", "empty (0 bytes)")


def test_a_state_wider_than_the_spec_names_the_dimensions(zarr: Run):
    said = "stream data/robot0_eef_pos", "found 4 values", "expected 3: x, y, z", "none of 2 episodes is usable"
    reason = zarr.reason("wide.zarr.zip")
    assert all(word in reason for word in said), reason


def test_an_unknown_compressor_is_named_with_the_known_ones(zarr: Run):
    reason = zarr.reason("codec.zarr")
    assert all(word in reason for word in ("file codec.zarr", "data/robot0_eef_pos", "compressor vendor_lz", "numcodecs")), reason


# Store


def test_a_store_that_cannot_be_written_stops_the_run_and_says_where(tmp_path: Path):
    write_arm(tmp_path / "raw/a.hdf5")
    (tmp_path / "home").write_text("a file where the store should be")
    with pytest.raises(StoreError) as caught:
        run(robot_at(tmp_path / "raw", "*.hdf5", "hdf5"), tmp_path / "home")
    assert_says(str(caught.value), "cannot write to the store", str(tmp_path / "home"), "VLA_OPS_HOME")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a full disk needs a small file system, and it cannot be mounted: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_store_stops_the_run_and_keeps_what_is_done(tmp_path: Path, small_disk: Path):
    for k in range(3):
        write_arm(tmp_path / f"raw/{k}.hdf5", frames=12 if k == 0 else 6000, seed=k)
    robot = robot_at(tmp_path / "raw", "*.hdf5", "hdf5")
    with pytest.raises(StoreError) as caught:
        run(robot, small_disk)
    assert_says(str(caught.value), "the store is full", str(small_disk), "Free space")
    assert (small_disk / "arm/episodes/0.hdf5/0/episode.json").exists()
    assert not [p for p in small_disk.rglob("*") if ".tmp-" in p.name]
