"""Each check of the quality report: what it measures of a vector, when it speaks, and what its level does to the episode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.episodes.quality import Judged, QualityReport, judge_vector
from vla_ops.episodes.store import Finding
from vla_ops.errors import QualityError
from vla_ops.robot import Dimension
from vla_ops.spec import QualitySpec, Threshold
from vla_ops_tests.episodes.judging import (
    DEFAULTS,
    DIMS,
    FRAMES,
    GRIPPER,
    J1,
    J2,
    MS,
    RATE_HZ,
    UNLIMITED,
    camera,
    changed,
    findings_of,
    held,
    measured_of,
    moving,
    regular,
    stepping,
    stream,
)

# Every check at every level

type Crossing = Callable[[QualitySpec], list[Finding]]

# Input that crosses the default threshold of each check.
CROSSINGS: dict[str, Crossing] = {
    "nonfinite_values": lambda spec: findings_of(changed(1, 7, np.nan), spec=spec),
    "outside_limits_values": lambda spec: findings_of(moving() * [1.5, 1, 1], spec=spec),
    "jump_sigma": lambda spec: findings_of(stepping(3.0), dims=UNLIMITED, spec=spec),
    "frozen_joint_s": lambda spec: findings_of(held(300), spec=spec),
    "gripper_span_min_ratio": lambda spec: findings_of(changed(2, slice(None), 0.3), spec=spec),
    "skew_p99_ms": lambda spec: stream(skew_ms=26.0, spec=spec).findings,
    "dropped_fraction": lambda spec: stream(np.delete(regular(), slice(50, 100)), spec=spec).findings,
    "duplicated_fraction": lambda spec: camera(np.arange(100) // 3, spec).findings,
    "frozen_camera_s": lambda spec: camera(spec=spec, frozen_frames=21).findings,
    "black_camera_fraction": lambda spec: camera(spec=spec, black_fraction=0.51).findings,
}


def test_every_check_of_the_spec_is_crossed_here() -> None:
    assert set(CROSSINGS) == set(QualitySpec.model_fields)


@pytest.mark.parametrize("check", CROSSINGS)
def test_a_crossed_threshold_is_one_finding_at_its_default_level_with_value_and_limit(check: str) -> None:
    (finding,) = CROSSINGS[check](DEFAULTS)
    threshold: Threshold = getattr(DEFAULTS, check)
    assert (finding.check, finding.level, finding.limit) == (check, threshold.level, threshold.limit)
    assert finding.value < finding.limit if "_min_" in check else finding.value > finding.limit
    assert finding.message.startswith(f"{finding.where}: ")


@pytest.mark.parametrize("level", ["ignore", "note", "warn", "quarantine"])
@pytest.mark.parametrize("check", CROSSINGS)
def test_the_level_decides_whether_it_is_said_and_whether_the_episode_is_refused(check: str, level: str) -> None:
    limit = getattr(DEFAULTS, check).limit
    spec = QualitySpec.model_validate({check: {"level": level, "limit": limit}})
    findings = CROSSINGS[check](spec)
    assert [f.level for f in findings if f.check == check] == ([] if level == "ignore" else [level])
    report = QualityReport()
    report.add("x", Judged({}, findings))
    if level != "quarantine":
        report.refuse()
        return
    with pytest.raises(QualityError) as caught:
        report.refuse()
    assert findings[0].message in str(caught.value)
    assert (
        "Repair" in str(caught.value) if check == "nonfinite_values" else f"{check}: {{level: warn, limit: {limit:g}}}" in str(caught.value)
    )


@pytest.mark.parametrize("check", CROSSINGS)
def test_a_limit_that_is_just_reached_is_not_crossed(check: str) -> None:
    (finding,) = CROSSINGS[check](DEFAULTS)
    exact = QualitySpec.model_validate({check: {"level": "quarantine", "limit": finding.value}})
    assert CROSSINGS[check](exact) == []


def test_the_defaults_quarantine_only_what_makes_training_fail() -> None:
    levels = {name: getattr(DEFAULTS, name).level for name in QualitySpec.model_fields}
    assert {name for name, level in levels.items() if level == "quarantine"} == {"nonfinite_values", "black_camera_fraction"}


# Clean streams


def test_a_clean_episode_gives_no_finding() -> None:
    assert findings_of(moving()) == findings_of(moving(), vector="action") == []
    assert stream(skew_ms=np.linspace(-16, 16, 500)).findings == []
    assert camera().findings == []


@given(st.integers(0, 2**32 - 1), st.sampled_from([15, 60, 400]))
def test_smooth_random_motion_gives_no_finding(seed: int, frames: int) -> None:
    random = np.random.default_rng(seed)
    t = np.arange(frames) / RATE_HZ
    waves = np.sin(np.outer(t, random.uniform(0.2, 2, 3)) + random.uniform(0, 6, 3)) * np.array([1.9, 3, 0.49])
    values = waves + np.array([0, 0, 0.5])
    assert [f for f in findings_of(values) if f.check != "gripper_span_min_ratio"] == []


@pytest.mark.parametrize("rate_hz", [1.0, 30.0, 250.0, 1000.0])
def test_a_regular_stream_of_any_rate_drops_nothing(rate_hz: float) -> None:
    assert stream(regular(500, 1000 / rate_hz)).measured["dropped_fraction"] == 0
    assert stream(regular(500, 1000 / rate_hz)).measured["rate_hz"] == pytest.approx(rate_hz)


@given(st.integers(0, 2**32 - 1))
def test_jitter_of_a_third_of_the_step_is_no_dropping(seed: int) -> None:
    jitter = np.random.default_rng(seed).uniform(-11, 11, 300) * MS
    assert stream(regular() + jitter.astype(np.int64)).findings == []


# NaN and Inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_names_its_dimension_and_frame(bad: float) -> None:
    (finding,) = findings_of(changed(1, slice(123, 126), bad))
    assert (finding.check, finding.where, finding.value) == ("nonfinite_values", "state j2", 3.0)
    assert "3 of 400 values are NaN or Inf, the first at frame 123" in finding.message


def test_nan_in_the_action_names_the_action() -> None:
    (finding,) = findings_of(changed(2, 0, np.nan), vector="action")
    assert finding.where == "action gripper"


def test_two_bad_dimensions_are_both_named_in_the_refusal() -> None:
    values = changed(0, 3, np.nan)
    values[5, 2] = np.inf
    report = QualityReport()
    for where, judged in judge_vector("state", values, DIMS, rate_hz=RATE_HZ, spec=DEFAULTS).items():
        report.add(where, judged)
    with pytest.raises(QualityError, match=r"state j1: .*frame 3.*state gripper: .*frame 5"):
        report.refuse()


def test_where_nan_is_allowed_the_rest_of_the_dimension_is_still_judged() -> None:
    spec = QualitySpec(nonfinite_values=Threshold(level="ignore", limit=0))
    values = changed(0, 3, np.nan)
    values[50, 0] = 7.0
    assert {f.check for f in findings_of(values, spec=spec)} == {"outside_limits_values", "jump_sigma"}
    assert findings_of(changed(0, slice(None), np.nan), spec=spec) == []


# Limits and jumps


def test_values_outside_the_limits_are_counted_and_their_range_is_said() -> None:
    (finding,) = [f for f in findings_of(changed(2, slice(10, 14), 1.25)) if f.check == "outside_limits_values"]
    assert (finding.level, finding.where, finding.value) == ("warn", "state gripper", 4.0)
    assert "[0, 1] ratio" in finding.message
    assert "1.25" in finding.message


def test_a_value_on_its_limit_is_inside() -> None:
    assert findings_of(np.stack([np.linspace(-2, 2, FRAMES), *moving()[:, 1:].T], axis=1)) == []


def test_a_jump_says_from_where_to_where_and_at_which_frame() -> None:
    values = moving()
    values[200:, 1] += 4.0
    (finding,) = findings_of(values)
    assert (finding.check, finding.level, finding.where) == ("jump_sigma", "warn", "state j2")
    assert f"at frame 199 ({values[199, 1]:.4g} to {values[200, 1]:.4g} rad)" in finding.message


def test_a_single_spike_in_a_held_joint_is_a_jump() -> None:
    assert "jump_sigma" in {f.check for f in findings_of(changed(1, slice(None), 0.5) + np.eye(FRAMES)[:, [50]] * [0, 1, 0])}


def test_a_joint_at_rest_that_then_moves_does_not_jump() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, FRAMES)
    resting = np.concatenate([np.zeros(200), np.linspace(0, 1, 200)]) + noise
    assert findings_of(np.stack([resting, *moving()[:, 1:].T], axis=1)) == []


@pytest.mark.parametrize("kind", ["gripper", "velocity", "other", "quaternion_xyzw"])
def test_what_may_step_is_not_called_a_jump(kind: str) -> None:
    dims = [J1, Dimension("x", "1", kind), GRIPPER]  # pyright: ignore[reportArgumentType]
    values = moving()
    values[200:, 1] += 50
    assert "jump_sigma" not in {f.check for f in findings_of(values, dims=dims)}


@given(st.floats(0.01, 100), st.floats(-1000, 1000))
def test_the_unit_and_the_offset_of_a_joint_do_not_change_its_jump(scale: float, offset: float) -> None:
    plain = measured_of(stepping(2.0), "state j1", UNLIMITED)["jump_sigma"]
    other = measured_of(stepping(2.0) * scale + offset, "state j1", UNLIMITED)["jump_sigma"]
    assert plain > 20
    assert other == pytest.approx(plain, rel=1e-3, abs=0.02)


# Frozen joints


@given(st.integers(0, 100), st.integers(2, 290))
def test_a_joint_that_holds_is_still_for_as_long_as_the_others_move(start: int, held: int) -> None:
    values = changed(1, slice(start, start + held), 7.0)
    assert measured_of(values, "state j2")["still_s"] == pytest.approx((held - 1) / RATE_HZ)


def test_a_robot_that_waits_as_a_whole_has_no_frozen_joint() -> None:
    values = moving()
    assert findings_of(np.concatenate([values[:50], np.repeat(values[50:51], 300, axis=0), values[50:]])) == []


def test_a_wait_within_a_hold_is_not_counted() -> None:
    values = changed(1, slice(0, 200), 0.25)
    values[100:150] = values[100]
    assert measured_of(values, "state j2")["still_s"] == pytest.approx((199 - 49) / RATE_HZ)


def test_a_held_gripper_and_a_held_command_are_not_frozen_joints() -> None:
    assert "frozen_joint_s" not in {f.check for f in findings_of(changed(2, slice(0, 380), 0.9))}
    assert findings_of(held(300), vector="action") == []


# Grippers


def test_a_gripper_without_limits_is_measured_against_one() -> None:
    dims = [J1, J2, Dimension("gripper", "m", "gripper")]
    narrow = np.stack([*moving()[:, :2].T, np.linspace(0.3, 0.31, FRAMES)], axis=1)
    (finding,) = findings_of(narrow, dims=dims)
    assert (finding.check, finding.where) == ("gripper_span_min_ratio", "state gripper")
    assert finding.value == pytest.approx(0.01)


def test_a_gripper_in_millimetres_that_opens_within_its_limits_is_fine() -> None:
    dims = [J1, J2, Dimension("gripper", "mm", "gripper", (0.0, 85.0))]
    values = moving() * [1, 1, 85]
    assert findings_of(values, dims=dims) == []
    (finding,) = findings_of(values * [1, 1, 0.01], dims=dims)
    assert finding.value == pytest.approx(np.ptp(values[:, 2]) * 0.01 / 85)
