from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_ops.curation import Trim, Trims
from vla_ops.episodes.convert import Conversion, ConversionJob, convert_recording
from vla_ops.episodes.store import Episode
from vla_ops.episodes.trim import made_with
from vla_ops.spec import Kind, Unit
from vla_ops_tests.episodes.ingesting import RATE_HZ, robot_at
from vla_ops_tests.episodes.rotating import written
from vla_ops_tests.episodes.workshop import CAMERAS, TWO_JOINTS, Workshop, column, numbers_shown


class Trimming(Workshop):
    """Converts recordings with a trim."""

    def trim(self, trims: Trims, key: str = "a.hdf5", **sections: Any) -> Conversion:
        robot = robot_at(self.raw, "*", "hdf5", **{"state": TWO_JOINTS, **sections})
        return convert_recording(ConversionJob(key, str(self.raw / key), "v1", robot.spec, self.store.root, trims=trims))

    def episode(self, key: str = "a.hdf5") -> Episode:
        (episode,) = self.store.read_episodes(key)
        return episode


@pytest.fixture
def workshop(tmp_path: Path) -> Trimming:
    return Trimming(tmp_path)


RECORDED_ACTION = {"action": [{"source": "/action", "names": ["j1", "j2"], "unit": "rad"}]}


@pytest.mark.parametrize("action", [RECORDED_ACTION, {"action": {"from": "next_state", "steps": 3}}], ids=["recorded", "next_state"])
@pytest.mark.parametrize(
    ("trim", "rows"),
    [({"start_s": 0.2, "end_s": 0.5}, slice(4, 11)), ({"start_s": 0.19}, slice(4, None)), ({"end_s": 0.31}, slice(0, 7))],
)
def test_a_trimmed_episode_is_those_rows_of_the_untrimmed_one(
    workshop: Trimming, action: dict[str, Any], trim: dict[str, float], rows: slice
) -> None:
    workshop.aloha(cameras=("high",))
    sections = {**action, "cameras": CAMERAS}
    workshop.convert(**sections)
    whole = workshop.episode()
    shown, states, actions = numbers_shown(whole), column(whole, "observation.state"), column(whole, "action")
    result = workshop.trim(Trims(whole=Trim(**trim)), **sections)
    cut = workshop.episode()
    assert cut.meta.length == len(states[rows])
    np.testing.assert_array_equal(column(cut, "observation.state"), states[rows])
    np.testing.assert_array_equal(column(cut, "action"), actions[rows])
    assert numbers_shown(cut) == shown[rows]
    np.testing.assert_array_equal(column(cut, "timestamp"), (np.arange(cut.meta.length) / RATE_HZ).astype(np.float32))
    assert any(f"trimmed to {Trim(**trim)}" in note for note in result.notes)


def turning(kind: Kind, unit: Unit, frames: int = 60) -> np.ndarray:
    """One turn about a fixed axis and a half, in numbers that jump at frame 30 as drivers let them: to -q, or a turn back."""
    angles, axis = np.linspace(0.5, 3 * np.pi, frames)[:, None], np.array([0.6, 0.0, 0.8])
    if kind == "rotation_vector":
        return np.where(np.arange(frames)[:, None] < 30, angles, angles - 2 * np.pi) * axis
    if kind == "quaternion_xyzw":
        signs = np.where(np.arange(frames)[:, None] < 30, 1.0, -1.0)
        return signs * np.concatenate([np.sin(angles / 2) * axis, np.cos(angles / 2)], axis=1)
    return written(Rotation.from_rotvec(angles * axis), kind, unit)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("quaternion_xyzw", ["qx", "qy", "qz", "qw"]), ("rotation_vector", ["rx", "ry", "rz"]), ("rotation_rpy", ["roll", "pitch", "yaw"])],
)
@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("action", [{"from": "next_state"}, None], ids=["next_state", "recorded"])
def test_a_trimmed_rotation_has_the_very_numbers_of_the_untrimmed_one(
    workshop: Trimming, kind: Kind, names: list[str], method: str, action: dict[str, Any] | None
) -> None:
    workshop.aloha(frames=60)
    unit: Unit = "1" if kind.startswith("quaternion") else "rad"
    part = {"source": "/pose", "names": names, "kind": kind, "unit": unit}
    values = turning(kind, unit)
    with h5py.File(workshop.raw / "a.hdf5", "r+") as file:
        file["pose"] = values
    sections = {"state": [part], "action": action or [part], "timeline": {"rate_hz": RATE_HZ, "numbers": method}}
    workshop.convert(**sections)
    whole = {name: column(workshop.episode(), name) for name in ("observation.state", "action")}
    assert not np.allclose(whole["observation.state"][40], values[40], atol=1e-3), "what was recorded is in other numbers than before it"
    workshop.trim(Trims(whole=Trim(start_s=40 / RATE_HZ, end_s=50 / RATE_HZ)), **sections)
    for name, rows in whole.items():
        np.testing.assert_array_equal(column(workshop.episode(), name), rows[40:51])


def test_a_trim_of_one_episode_leaves_the_others_and_their_numbers(workshop: Trimming) -> None:
    # A hole of a second in the stamps makes two episodes of one recording.
    stamps = np.concatenate([np.arange(10), np.arange(30, 40)]) / RATE_HZ
    workshop.aloha(stamps_s=stamps)
    recordings, timeline = {"times": {"*": "/observations/timestamps/robot"}}, {"rate_hz": RATE_HZ, "on_gap": "split"}
    workshop.trim(Trims(episodes={1: Trim(start_s=0.2)}), recordings=recordings, timeline=timeline)
    assert [(e.meta.index, e.meta.length) for e in workshop.store.read_episodes("a.hdf5")] == [(0, 9), (1, 5)]


@pytest.mark.parametrize(
    ("trim", "said"),
    [
        ({"end_s": 1.1}, ["the trim is not inside the episode", "found 0 s to 1.1 s", "expected times within its 0.95 s (19 frames at 20"]),
        ({"start_s": 0.95}, ["the trim is not inside the episode", "found 0.95 s to the end"]),
        ({"start_s": 0.9}, ["the trim leaves too little of the", "found 1 frame(s) from 0.9 s to the end", "at least min_frames 2"]),
        ({"start_s": 0.11, "end_s": 0.12}, ["the trim leaves too little of the episode", "found 0 frame(s)"]),
    ],
)
def test_a_trim_that_cannot_be_made_is_refused_with_both_values(workshop: Trimming, trim: dict[str, float], said: list[str]) -> None:
    workshop.aloha()
    result = workshop.trim(Trims(whole=Trim(**trim)))
    reason = workshop.reason()
    assert all(words in reason for words in said), reason
    assert reason.endswith("Correct it in curation.yaml.")
    assert "file a.hdf5" in reason
    assert result.rejected[0].index == 0
    assert not workshop.store.recording_folder("a.hdf5").exists()


def test_the_whole_length_may_be_written_as_the_end(workshop: Trimming) -> None:
    workshop.aloha()
    assert workshop.trim(Trims(whole=Trim(start_s=0.05, end_s=0.95))).frames == 18


def test_only_a_trim_changes_what_a_recording_is_made_with(workshop: Trimming) -> None:
    spec = robot_at(workshop.raw, "*", "hdf5").spec
    assert made_with(spec, Trims()) == spec.conversion_fingerprint
    trims = [Trims(whole=Trim(end_s=1)), Trims(whole=Trim(end_s=2)), Trims(episodes={0: Trim(end_s=1)}), Trims(episodes={1: Trim(end_s=1)})]
    assert len({made_with(spec, trim) for trim in [Trims(), *trims]}) == 5
    workshop.aloha()
    workshop.trim(trims[0].model_copy(update={"whole": Trim(end_s=0.5)}))
    assert workshop.episode().meta.spec_fingerprint == made_with(spec_of(workshop), Trims(whole=Trim(end_s=0.5)))


def spec_of(workshop: Trimming) -> Any:
    return robot_at(workshop.raw, "*", "hdf5", state=TWO_JOINTS).spec


trims = st.builds(lambda start, width: Trim(start_s=start, end_s=start + width), st.floats(0, 1e6), st.floats(0.01, 1e6))


@given(st.builds(Trims, whole=st.none() | trims, episodes=st.dictionaries(st.integers(0, 99), trims, max_size=4)))
def test_trims_survive_the_way_to_a_worker(given_trims: Trims) -> None:
    assert Trims.model_validate(json.loads(json.dumps(given_trims.model_dump(mode="json")))) == given_trims
