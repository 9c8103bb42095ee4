from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import Writer
from pydantic import ValidationError

from vla_ops.errors import RecordingError, RecordingFormatError, UnsafePathError
from vla_ops.recordings import FORMATS, open_recording
from vla_ops.recordings.base import Span, StreamInfo
from vla_ops.recordings.inspect import Description, describe, render, sniff_format
from vla_ops.recordings.suggest import suggest_yaml
from vla_ops.robot import RobotSpec
from vla_ops_tests.recordings.hdf5_files import write_aloha, write_robomimic
from vla_ops_tests.recordings.zarr_files import write_replay_buffer

EPOCH = 1_700_000_000 * 10**9


NO_TASK = "DECIDE: what the robot does, in one sentence"


def filled_in(text: str) -> dict[str, Any]:
    """The attributes after a person decided what only a person can: the task and, where there is none, the state."""
    document = yaml.safe_load(text)
    assert document["type"] == "vla_ops.RobotPipeline"
    attributes = document["attributes"]
    if attributes["task"] == {"text": NO_TASK}:
        attributes["task"] = {"text": "fold the towel"}
    if not attributes["state"]:
        attributes["state"] = [{"source": "/arm/q", "names": ["q1"], "unit": "rad"}]
        attributes["norm_stats"] = {"action_space": "absolute"}
    return attributes


def loaded(text: str) -> RobotSpec:
    return RobotSpec.model_validate(filled_in(text))


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

    @pytest.mark.parametrize("name", ["a.mcap", "a.hdf5", "a.zarr.zip", "a"])
    def test_a_file_of_no_bytes_is_called_empty_whatever_its_name(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(RecordingFormatError, match="the file is empty"):
            describe(tmp_path / name)

    def test_a_folder_with_the_name_of_a_file_is_called_a_folder(self, tmp_path):
        for name in ("x.mcap", "x.hdf5"):
            (tmp_path / name).mkdir()
            with pytest.raises(RecordingFormatError, match="a folder"):
                describe(tmp_path / name)
            with pytest.raises(RecordingFormatError, match=r"a folder, and .*recordings\.pattern"):
                open_recording(str(tmp_path / name), name[2:])

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
        header = next(line for line in lines if line.startswith("stream "))
        rows = lines[lines.index(header) + 1 :][:8]
        assert max(map(len, lines)) <= 140
        assert all(row[header.index("kind") :].startswith(("numbers", "images", "other")) for row in rows)
        assert "3 episodes of 12 to 14 steps, 39 in all: demo_1, demo_2, demo_10" in text
        assert "task: put the bowl on the plate" in text
        assert "source_rate_hz" in text
        assert "uv run dg check defs" in text
        assert "uv run vla-ops status ROBOT" in text

    def test_times_are_relative_to_the_first_stream_and_another_clock_is_named(self):
        late = replace(stream("/late"), first_ns=EPOCH + 500_000_000, last_ns=EPOCH + 4_000_000_000)
        text = render(described(stream("/a"), late, stream("/b"), stream("/cam", start=8_000 * 10**9)))
        assert "0.000 .. 3.960 s" in text
        assert "0.500 .. 4.000 s" in text
        assert "25.00 Hz" in text
        assert "another clock, 3.96 s" in text
        assert "clock_offsets: {/cam: start}" in text

    def test_the_table_of_many_episodes_says_that_it_is_of_the_first_and_one_of_one_episode_does_not(self, tmp_path):
        write_robomimic(tmp_path / "r.hdf5")
        write_aloha(tmp_path / "a.hdf5")
        assert "\nstreams of episode 0 of 3\nstream " in render(describe(tmp_path / "r.hdf5"))
        assert "streams of episode" not in render(describe(tmp_path / "a.hdf5"))

    def test_clock_jumps_beyond_five_are_counted_and_not_listed(self):
        spans = tuple(Span(f"run_{k}", k, clock_jump=f"back {k} s" if k else None) for k in range(9))
        text = render(replace(described(stream("/a")), spans=spans))
        assert text.count("jumped back") == 5
        assert "run_5 begins" in text
        assert "run_6 begins" not in text
        assert "and 3 more" in text
        assert "more" not in render(replace(described(stream("/a")), spans=spans[:6]))

    def test_a_rate_from_stamps_that_are_all_alike_is_not_shown_and_sets_no_timeline(self):
        burst = replace(stream("/joints"), last_ns=EPOCH + 407)
        assert " Hz" not in render(described(burst))
        assert loaded(suggest_yaml(described(burst), "arm")).timeline.rate_hz == 30
        assert "1000.00 Hz" in render(described(replace(burst, last_ns=EPOCH + 99 * 10**6)))

    def test_an_empty_recording_says_that_there_is_nothing_to_convert(self):
        assert "nothing in it to convert" in render(Description("/a.mcap", "mcap", 0, (), ()))

    def test_a_recording_of_texts_alone_says_that_there_is_nothing_to_convert_and_no_yaml_is_made_of_it(self):
        texts = described(stream("/log", kind="other"))
        assert "nothing in it to convert" in render(texts)
        with pytest.raises(RecordingFormatError, match="no numeric stream and no camera"):
            suggest_yaml(texts, "arm")


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
        assert (spec.timeline.rate_hz, spec.recordings.source_rate_hz, spec.task.origin) == (50, 50, "recording")

    def test_a_recording_without_a_task_gets_a_text_that_is_refused_until_a_person_writes_one(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5")
        attributes = yaml.safe_load(suggest_yaml(describe(tmp_path / "a.hdf5"), "arm"))["attributes"]
        assert attributes["task"] == {"text": NO_TASK}
        with pytest.raises(ValidationError, match="DECIDE"):
            RobotSpec.model_validate(attributes)

    @pytest.mark.parametrize(
        "name",
        [
            "/action",
            "/left/lead/q",
            "/leader1/joint_position",
            "/masterArm/qpos",
            "/cmd_vel",
            "/joint_commands",
            "/ctrl/state",
            "/target_pose",
        ],
    )
    def test_what_was_told_to_the_robot_is_never_its_state(self, name):
        text = suggest_yaml(described(stream(name, width=6)), "arm")
        attributes = yaml.safe_load(text)["attributes"]
        assert attributes["state"] == []
        assert "  state: []  # DECIDE" in text
        with pytest.raises(ValidationError, match="state"):
            RobotSpec.model_validate({**attributes, "task": {"text": "fold"}})

    def test_a_field_that_holds_commands_is_no_dimension_of_the_state(self):
        both = stream("/arm/feedback", width=3, fields=("lift", "lift_target", "slide"))
        assert [p.source for p in loaded(suggest_yaml(described(both), "arm")).state] == ["/arm/feedback.lift", "/arm/feedback.slide"]

    @pytest.mark.parametrize("others", [["controller_info/robot_controls/action", "policy_action"], ["rewards", "dones", "timestamps"]])
    def test_the_simulators_states_stand_in_for_a_state_before_anything_else(self, others):
        demo = replace(described(*(stream(n, width=14) for n in [*others, "actions", "states"])), format="hdf5")
        text = suggest_yaml(demo, "arm")
        assert [p.source for p in loaded(text).state] == ["states"]
        assert "DECIDE: no state was found by name" in text

    def test_cameras_alone_leave_the_state_to_a_person(self):
        text = suggest_yaml(described(stream("/cam/image_raw", kind="images", encoding="jpeg")), "arm")
        assert yaml.safe_load(text)["attributes"]["state"] == []
        assert "/state" not in text

    @pytest.mark.parametrize(
        ("attribute", "value", "rate"),
        [
            ("env_args", '{"env_name": "Lift", "control_freq": 25}', 25),
            ("env_args", '{"pad": "' + "x" * 300 + '", "control_freq": 10, "more": "' + "y" * 300 + '"}', 10),
            ("fps", 29.97, 29.97),
            ("fps", 0, 20),
            ("note", "none", 20),
        ],
    )
    def test_without_stamps_the_rate_is_the_one_the_file_names_or_the_layouts_usual_one(self, tmp_path, attribute, value, rate):
        write_robomimic(tmp_path / "r.hdf5")
        with h5py.File(tmp_path / "r.hdf5", "a") as file:
            del file["data"].attrs["env_args"]
            file["data"].attrs[attribute] = value
        text = suggest_yaml(describe(tmp_path / "r.hdf5"), "arm")
        spec = loaded(text)
        assert (spec.recordings.source_rate_hz, spec.timeline.rate_hz) == (rate, round(rate))
        assert f"    source_rate_hz: {rate}  # DECIDE: " in text

    def test_an_unknown_layout_without_stamps_takes_the_timelines_rate_and_asks(self, tmp_path):
        write_replay_buffer(tmp_path / "buffer.zarr", cameras=("cam_high",))
        text = suggest_yaml(describe(tmp_path / "buffer.zarr"), "arm")
        assert "source_rate_hz: 30  # DECIDE: the rate it was recorded at; not in the file" in text
        assert loaded(text).recordings.source_rate_hz == 30

    def test_times_are_mapped_to_the_cameras_they_are_named_after(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", stamps_s=np.arange(30) / 50)
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["observations/timestamps/cam_high"] = np.arange(30) / 50
        assert suggested(tmp_path / "a.hdf5").recordings.times == {
            "*": "/observations/timestamps/robot",
            "/observations/images/cam_high": "/observations/timestamps/cam_high",
        }
        assert suggested(tmp_path / "a.hdf5").recordings.source_rate_hz is None

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

    @pytest.mark.parametrize(
        ("name", "width", "kind", "names", "asks"),
        [
            ("data/robot0_eef_rot_axis_angle", 3, "rotation_vector", ["rx", "ry", "rz"], False),
            ("/eef/rotvec", 3, "rotation_vector", ["rx", "ry", "rz"], False),
            ("/eef/rpy", 3, "rotation_rpy", ["roll", "pitch", "yaw"], False),
            ("/eef_euler", 3, "rotation_rpy", ["roll", "pitch", "yaw"], False),
            ("/eef/rotation", 3, "rotation_vector", ["rx", "ry", "rz"], True),
            ("/eef/rot6d", 6, "rotation_6d", ["r1", "r2", "r3", "r4", "r5", "r6"], False),
            ("/eef/rotation", 6, "other", ["r1", "r2", "r3", "r4", "r5", "r6"], True),
            ("/eef/quat_wxyz", 4, "quaternion_wxyz", ["qw", "qx", "qy", "qz"], False),
            ("/eef/quat_xyzw", 4, "quaternion_xyzw", ["qx", "qy", "qz", "qw"], False),
            ("/eef/quat", 4, "quaternion_xyzw", ["qx", "qy", "qz", "qw"], True),
        ],
    )
    def test_a_rotation_gets_the_form_its_name_says_and_a_person_is_asked_where_it_says_none(self, name, width, kind, names, asks):
        text = suggest_yaml(described(stream(name, width=width)), "arm")
        (part,) = loaded(text).state
        assert (part.kind, part.names) == (kind, names)
        (line,) = [line for line in text.splitlines() if f"kind: {kind}" in line]
        assert ("# DECIDE" in line) == asks

    def test_messages_of_single_numbers_give_one_dimension_a_field(self):
        state = stream("/cartpole/state", width=2, fields=("cart.position", "pole_angle"))
        spec = loaded(suggest_yaml(described(state), "arm"))
        assert [(p.source, p.names) for p in spec.state] == [
            ("/cartpole/state.cart.position", ["cart_position"]),
            ("/cartpole/state.pole_angle", ["pole_angle"]),
        ]

    def test_umi_has_poses_and_grippers_of_both_robots_and_the_next_state_as_action(self, recordings_dir):
        spec = suggested(recordings_dir / "zarr" / "umi_bimanual.zarr.zip")
        assert [p.kind for p in spec.state] == ["position", "rotation_vector", "gripper"] * 2
        assert not isinstance(spec.action, list)
        assert spec.camera_slots == {"left_wrist_0_rgb": "camera0", "right_wrist_0_rgb": "camera1"}
        assert spec.recordings.source_rate_hz == 60

    def test_the_state_of_a_handover_is_not_its_controllers_action(self, recordings_dir):
        text = suggest_yaml(describe(recordings_dir / "hdf5" / "robosuite_handover_panda_panda.hdf5"), "pandas")
        spec = loaded(text)
        assert [(p.source, len(p.names)) for p in spec.state] == [("states", 50)]
        assert "source_rate_hz: 20  # DECIDE: the rate it was recorded at; control_freq in the file's" in text

    def test_push_t_was_recorded_at_10_hz(self, recordings_dir):
        assert suggested(recordings_dir / "zarr" / "pusht_cchi_v7_replay.zarr.zip").recordings.source_rate_hz == 10

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
        assert " Hz" in render(description)
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
            unique_by=lambda info: info.name,
        ),
        st.text(max_size=10),
        st.none() | st.text(min_size=1, max_size=100),
    )
    def test_whatever_the_names_the_text_is_valid_yaml_and_a_valid_robot(self, streams, robot, task):
        description = described(stream("/x"), *streams, task=task)
        attributes = yaml.safe_load(suggest_yaml(description, robot))["attributes"]
        assert not any({"action", "leader", "target"} & set(part["source"].split("/")) for part in attributes["state"])
        loaded(suggest_yaml(description, robot))


def test_a_zip_that_is_no_store_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(RecordingFormatError, match="no Zarr array"):
        describe(tmp_path / "a.zip")


def write_mcap(path: Path) -> None:
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("Value", "jsonschema", b'{"type": "object", "properties": {"v": {"type": "number"}}}')
        channel = writer.register_channel("/a", "json", schema)
        for k in range(50):
            writer.add_message(channel, EPOCH + k * 10**8, b'{"v": %d}' % k, EPOCH + k * 10**8)
        writer.finish()


@pytest.mark.parametrize("said", FORMATS)
@pytest.mark.parametrize("real", [*FORMATS, "zarr folder"])
def test_a_reader_that_gets_a_file_of_another_format_says_to_check_the_format(tmp_path, said, real):
    path = tmp_path / "recording"
    if real == "mcap":
        write_mcap(path)
    elif real == "hdf5":
        write_aloha(path)
    else:
        write_replay_buffer(tmp_path / ("recording" if real == "zarr folder" else "recording.zip")).path.rename(path)
    if said == real.partition(" ")[0]:
        open_recording(str(path), said).close()
        return
    with pytest.raises(RecordingFormatError, match=rf"check `recordings\.format`, which says {said}") as refused:
        open_recording(str(path), said)
    assert "again from the robot" not in str(refused.value)


def test_a_cut_mcap_is_told_to_keep_the_whole_part_only_where_there_is_one(tmp_path):
    write_mcap(tmp_path / "whole.mcap")
    data = (tmp_path / "whole.mcap").read_bytes()
    (tmp_path / "late.mcap").write_bytes(data[:-20])
    (tmp_path / "early.mcap").write_bytes(data[:60])
    with pytest.raises(RecordingFormatError, match=r"50 messages.*keep_whole"):
        describe(tmp_path / "late.mcap")
    with pytest.raises(RecordingFormatError, match=r"0 messages.*no message in it is whole") as refused:
        describe(tmp_path / "early.mcap")
    assert "keep_whole" not in str(refused.value)
