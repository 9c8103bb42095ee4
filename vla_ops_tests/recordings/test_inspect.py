from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.errors import RecordingError, RecordingFormatError, UnsafePathError
from vla_ops.recordings.base import Span, StreamInfo
from vla_ops.recordings.inspect import Description, describe, render, sniff_format
from vla_ops.recordings.suggest import suggest_yaml
from vla_ops.robot import RobotSpec
from vla_ops_tests.recordings.hdf5_files import write_aloha, write_robomimic
from vla_ops_tests.recordings.zarr_files import write_replay_buffer

EPOCH = 1_700_000_000 * 10**9


def loaded(text: str) -> RobotSpec:
    document = yaml.safe_load(text)
    assert document["type"] == "vla_ops.RobotPipeline"
    return RobotSpec.model_validate(document["attributes"])


def suggested(path: Path) -> RobotSpec:
    return loaded(suggest_yaml(describe(path), "my_arm"))


def stream(name: str, *, width: int = 1, kind: str = "numbers", start: int = EPOCH, **more: object) -> StreamInfo:
    info = StreamInfo(name, "numbers", "float32", (width,), 100, start, start + 99 * 40_000_000)
    return replace(info, kind=kind, **more)  # pyright: ignore[reportArgumentType]


def described(*streams: StreamInfo, task: str | None = None) -> Description:
    return Description("/recordings/0.mcap", "mcap", 1000, streams, (Span("0", task=task),))


def ptk_streams() -> list[StreamInfo]:
    """A two-arm AIRBOT station, its cameras on the clock that counts from power-on."""
    joints = [
        stream(f"/{side}/{arm}/{part}/joint_state/position", width=width)
        for side in ("right", "left")
        for arm in ("lead", "follow")
        for part, width in (("eef", 1), ("arm", 6))
    ]
    velocities = [stream(f"/{side}/follow/arm/joint_state/velocity", width=6) for side in ("left", "right")]
    cameras = [
        stream(f"/{c}_camera/color/image_raw", kind="images", shape=(480, 640, 3), dtype="uint8", encoding="h264", start=8_225 * 10**9)
        for c in ("env", "left", "right")
    ]
    return joints + velocities + cameras


class TestSniffing:
    def test_the_content_decides_and_not_the_name(self, tmp_path):
        write_aloha(tmp_path / "recording.bin")
        write_replay_buffer(tmp_path / "buffer.bin.zip").path.rename(tmp_path / "buffer.bin")
        (tmp_path / "r.dat").write_bytes(b"\x89MCAP0\r\n")
        assert sniff_format(tmp_path / "recording.bin") == "hdf5"
        assert sniff_format(tmp_path / "buffer.bin") == "zarr"
        assert sniff_format(tmp_path / "r.dat") == "mcap"

    @pytest.mark.parametrize("version", [2, 3])
    def test_a_store_in_a_folder_is_zarr_whatever_its_name(self, tmp_path, version):
        write_replay_buffer(tmp_path / "buffer", version=version)
        assert sniff_format(tmp_path / "buffer") == "zarr"

    def test_a_damaged_file_goes_to_the_reader_its_name_says_which_tells_what_is_wrong(self, tmp_path):
        (tmp_path / "a.hdf5").write_bytes(b"")
        with pytest.raises(RecordingFormatError, match="empty"):
            describe(tmp_path / "a.hdf5")

    def test_what_is_nothing_known_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_text("hello")
        (tmp_path / "folder").mkdir()
        with pytest.raises(RecordingFormatError, match="5 bytes beginning with b'hello'"):
            describe(tmp_path / "a.txt")
        with pytest.raises(RecordingFormatError, match="folder that is no recording"):
            describe(tmp_path / "folder")
        with pytest.raises(RecordingError, match="No such file"):
            describe(tmp_path / "none.txt")

    def test_errors_name_the_file(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5")
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["out"] = h5py.ExternalLink("b.hdf5", "/x")
        with pytest.raises(UnsafePathError, match=r"file .*a\.hdf5"):
            describe(tmp_path / "a.hdf5")


class TestRendering:
    def test_columns_are_aligned_and_lines_fit_a_terminal(self, tmp_path):
        write_robomimic(tmp_path / "r.hdf5")
        with h5py.File(tmp_path / "r.hdf5", "a") as file:
            file["data"].attrs["model"] = "<mujoco>" * 200
            file["data/demo_1/" + "a_very_long_group_name/" * 8 + "values"] = np.zeros((12, 3))
        text = render(describe(tmp_path / "r.hdf5"))
        lines = text.splitlines()
        header = next(line for line in lines if line.startswith("stream"))
        rows = lines[lines.index(header) + 1 :][:8]
        assert max(map(len, lines)) <= 140
        assert all(row[header.index("kind") :].startswith(("numbers", "images", "other")) for row in rows)
        assert "3 episodes of 12 to 14 steps, 39 in all: demo_1, demo_2, demo_10" in text
        assert "task: put the bowl on the plate" in text
        assert "source_rate_hz" in text
        assert "dg check yaml" in text

    def test_times_are_relative_to_the_first_stream_and_another_clock_is_named(self):
        late = replace(stream("/late"), first_ns=EPOCH + 500_000_000, last_ns=EPOCH + 4_000_000_000)
        text = render(described(stream("/a"), late, stream("/b"), stream("/cam", start=8_000 * 10**9)))
        assert "0.000 .. 3.960 s" in text
        assert "0.500 .. 4.000 s" in text
        assert "25.00 Hz" in text
        assert "another clock, 3.96 s" in text
        assert "clock_offsets: {/cam: start}" in text

    def test_an_empty_recording_says_that_there_is_nothing_to_convert(self):
        assert "nothing in it to convert" in render(Description("/a.mcap", "mcap", 0, (), ()))


class TestSuggestions:
    def test_aloha_is_two_arms_with_grippers_split_off_by_slices(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", task="fold the towel")
        spec = suggested(tmp_path / "a.hdf5")
        sources = [part.source for part in spec.state]
        assert sources == [f"/observations/qpos[{s}]" for s in ("0:6", "6:7", "7:13", "13:14")]
        assert [d.name for d in spec.action_dims] == [d.name for d in spec.state_dims]
        assert [k for k, is_delta in enumerate(spec.delta_mask) if not is_delta] == [6, 13]
        assert spec.camera_slots == {
            "base_0_rgb": "cam_high",
            "left_wrist_0_rgb": "cam_left_wrist",
            "right_wrist_0_rgb": "cam_right_wrist",
        }
        assert (spec.timeline.rate_hz, spec.task.origin) == (50, "recording")

    def test_times_are_mapped_to_the_cameras_they_are_named_after(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", stamps_s=np.arange(30) / 50)
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["observations/timestamps/cam_high"] = np.arange(30) / 50
        assert suggested(tmp_path / "a.hdf5").recordings.times == {
            "*": "/observations/timestamps/robot",
            "/observations/images/cam_high": "/observations/timestamps/cam_high",
        }

    def test_robomimic_actions_are_controller_deltas_and_stay_absolute(self, tmp_path):
        write_robomimic(tmp_path / "r.hdf5")
        spec = suggested(tmp_path / "r.hdf5")
        assert [d.name for d in spec.state_dims] == [*(f"j{k}" for k in range(1, 8)), "gripper_1", "gripper_2"]
        assert [d.name for d in spec.action_dims] == ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"]
        assert spec.norm_stats.action_space == "absolute"
        assert spec.camera_slots == {"base_0_rgb": "agentview", "left_wrist_0_rgb": "eye_in_hand"}

    def test_airbot_ptk_reads_follow_as_state_and_lead_as_action_left_before_right(self):
        spec = loaded(suggest_yaml(described(*ptk_streams()), "ptk"))
        arms = [f"/{side}/{{}}/{part}/joint_state/position" for side in ("left", "right") for part in ("arm", "eef")]
        assert [part.source for part in spec.state] == [a.format("follow") for a in arms]
        assert [part.source for part in spec.action_parts] == [a.format("lead") for a in arms]
        assert [d.name for d in spec.state_dims][5:8] == ["left_j6", "left_gripper", "right_j1"]
        assert [d.kind for d in spec.state_dims].count("gripper") == 2
        assert spec.camera_slots == {
            "base_0_rgb": "env_camera",
            "left_wrist_0_rgb": "left_camera",
            "right_wrist_0_rgb": "right_camera",
        }
        assert spec.timeline.rate_hz == 25
        assert spec.timeline.clock_offsets == {f"/{c}_camera/color/image_raw": "start" for c in ("env", "left", "right")}

    def test_joint_states_are_selected_by_the_names_they_carry(self):
        names = ("shoulder", "elbow", "gripper_finger")
        states = [
            stream(f"/robot/arm_left_{a}/joint_states", width=3, fields=("position", "velocity"), joint_names=names)
            for a in ("lead", "follow")
        ]
        spec = loaded(suggest_yaml(described(*states), "arm"))
        assert [(p.source, p.joints, p.kind) for p in spec.state] == [
            ("/robot/arm_left_follow/joint_states.position", ["shoulder", "elbow"], "joint"),
            ("/robot/arm_left_follow/joint_states.position", ["gripper_finger"], "gripper"),
        ]
        assert spec.action_parts[0].source == "/robot/arm_left_lead/joint_states.position"

    def test_a_pose_message_is_a_position_and_a_quaternion(self):
        fields = tuple(f"pose.{p}" for p in ("position.x", "position.y", "position.z", *(f"orientation.{a}" for a in "xyzw")))
        pose = stream("/arm/tcp_pose", width=7, fields=fields, schema="geometry_msgs/msg/PoseStamped")
        spec = loaded(suggest_yaml(described(pose), "arm"))
        assert [(p.source, p.kind) for p in spec.state] == [("/arm/tcp_pose[0:3]", "position"), ("/arm/tcp_pose[3:7]", "quaternion_xyzw")]

    def test_messages_of_single_numbers_give_one_dimension_a_field(self):
        state = stream("/cartpole/state", width=2, fields=("cart.position", "pole_angle"))
        spec = loaded(suggest_yaml(described(state), "arm"))
        assert [(p.source, p.names) for p in spec.state] == [
            ("/cartpole/state.cart.position", ["cart_position"]),
            ("/cartpole/state.pole_angle", ["pole_angle"]),
        ]

    def test_umi_has_poses_and_grippers_of_both_robots_and_the_next_state_as_action(self, recordings_dir):
        spec = suggested(recordings_dir / "zarr" / "umi_bimanual.zarr.zip")
        assert [p.kind for p in spec.state] == ["position", "rotation", "gripper"] * 2
        assert not isinstance(spec.action, list)
        assert spec.camera_slots == {"left_wrist_0_rgb": "camera0", "right_wrist_0_rgb": "camera1"}

    def test_a_second_camera_of_a_role_gets_none_and_says_why(self):
        cameras = [stream(f"/{c}/image_raw", kind="images", encoding="jpeg") for c in ("front", "top")]
        text = suggest_yaml(described(stream("/qpos", width=7), *cameras), "arm")
        assert loaded(text).camera_slots == {"base_0_rgb": "front"}
        assert "front has role base already" in text

    @pytest.mark.parametrize(
        "name", ["hdf5/robosuite_handover_panda_panda.hdf5", "hdf5/robosuite_wipe_panda.hdf5", "zarr/pusht_cchi_v7_replay.zarr.zip"]
    )
    def test_what_is_suggested_for_real_recordings_loads(self, recordings_dir, name):
        spec = suggested(recordings_dir / name)
        assert spec.action_dims
        assert isinstance(spec.action, list)

    @pytest.mark.parametrize(
        "name", ["airbot_ptk_h264.mcap", "airbot_1-1_h264_oldcollector.mcap", "cartpole_sim.mcap", "nebius_sim2real_sample.mcap"]
    )
    def test_what_is_suggested_for_real_mcap_recordings_loads(self, recordings_dir, name):
        pytest.importorskip("vla_ops.recordings.mcap")
        description = describe(recordings_dir / "mcap" / name)
        assert max(map(len, render(description).splitlines())) <= 140
        spec = loaded(suggest_yaml(description, "arm"))
        if name.startswith("airbot_ptk"):
            assert (len(spec.state_dims), len(spec.action_dims), len(spec.camera_slots)) == (14, 14, 3)

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(
            st.builds(
                stream,
                st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=20).map(lambda n: "/" + n + "/x"),
                width=st.integers(1, 20),
                kind=st.sampled_from(["numbers", "images", "other"]),
                joint_names=st.sampled_from([(), ("a b", "1", "on", "left gripper")]),
                fields=st.sampled_from([(), ("position", "velocity"), ("jaw.x", "y"), ("D", "K", "R")]),
            ),
            max_size=6,
        ),
        st.text(max_size=10),
        st.none() | st.text(min_size=1, max_size=100),
    )
    def test_whatever_the_names_the_text_is_valid_yaml_and_a_valid_robot(self, streams, robot, task):
        loaded(suggest_yaml(described(*streams, task=task), robot))


def test_a_zip_that_is_no_store_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(RecordingFormatError, match="no Zarr array"):
        describe(tmp_path / "a.zip")
