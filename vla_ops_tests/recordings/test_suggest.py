"""The YAML that is suggested for a recording: what each layout gives, and what is left to a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vla_ops.recordings.inspect import describe, render
from vla_ops.recordings.suggest import suggest_yaml
from vla_ops.robot import RobotSpec
from vla_ops_tests.recordings.described import NO_TASK, described, loaded, ptk_streams, stream
from vla_ops_tests.recordings.hdf5_files import write_aloha, write_robomimic
from vla_ops_tests.recordings.zarr_files import write_replay_buffer


def suggested(path: Path) -> RobotSpec:
    return loaded(suggest_yaml(describe(path), "my_arm"))


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
        assert "source_rate_hz: 20  # DECIDE: the rate it was recorded at; the file's control_freq" in text

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
