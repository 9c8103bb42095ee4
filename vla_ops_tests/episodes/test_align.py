from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from vla_ops.episodes.align import Clocked, align, place, resample
from vla_ops.errors import AlignmentError
from vla_ops.spec import TimelineSpec

MS = 1_000_000


def stamps(rate_hz: float, seconds: float, start_ns: int = 0) -> np.ndarray:
    return start_ns + (np.arange(round(rate_hz * seconds) + 1) * 1e9 / rate_hz).round().astype(np.int64)


def timeline(**changes: object) -> TimelineSpec:
    return TimelineSpec.model_validate({"rate_hz": 20, **changes})


def test_frames_are_at_exactly_k_over_the_rate_however_long_the_recording() -> None:
    hour = stamps(250, 3600)
    found = align([Clocked("/joints", hour, "nearest")], timeline(rate_hz=30))
    frames = found.timelines[0].stamps_ns
    exact = [round(k * 1e9 / 30) for k in range(len(frames))]
    assert frames.tolist() == exact
    assert len(frames) == 3600 * 30 + 1


def test_the_timeline_is_the_common_span_of_all_streams() -> None:
    early, late = stamps(50, 4), stamps(30, 4, start_ns=500 * MS)
    found = align([Clocked("/a", early, "linear"), Clocked("/b", late, "nearest")], timeline())
    frames = found.timelines[0].stamps_ns
    assert frames[0] == 500 * MS
    assert frames[-1] <= early[-1] < frames[-1] + 50 * MS


@given(st.lists(st.integers(1, 60), min_size=3, max_size=60), st.sampled_from(["nearest", "hold"]))
def test_nearest_takes_the_closest_sample_and_hold_the_last_one_before(steps_ms: list[int], method: str) -> None:
    times = np.cumsum([0, *steps_ms]).astype(np.int64) * MS
    frames = np.arange(0, int(times[-1]) + 1, 50 * MS)
    placed = place(times, frames, method)  # pyright: ignore[reportArgumentType]
    for frame, index, skew in zip(frames, placed.index, placed.skew_ns, strict=True):
        assert skew == times[index] - frame
        if method == "hold":
            assert times[index] <= frame
            assert not ((times > times[index]) & (times <= frame)).any()
        else:
            assert abs(skew) == np.abs(times - frame).min()


@given(st.lists(st.integers(1, 60), min_size=3, max_size=60), st.floats(-3, 3), st.floats(-10, 10))
def test_linear_interpolation_reproduces_a_straight_line(steps_ms: list[int], slope: float, offset: float) -> None:
    times = np.cumsum([0, *steps_ms]).astype(np.int64) * MS
    frames = np.arange(0, int(times[-1]) + 1, 7 * MS)
    values = (times / 1e9 * slope + offset)[:, None]
    got = resample(values, place(times, frames, "linear"))
    assert np.allclose(got[:, 0], frames / 1e9 * slope + offset, atol=1e-9)


@given(st.permutations([0, 1, 2]))
def test_the_order_of_streams_does_not_matter(order: list[int]) -> None:
    rates = {"/a": (250, 0, "linear"), "/b": (30, 11 * MS, "nearest"), "/c": (48.3, 3 * MS, "hold")}
    streams = [Clocked(name, stamps(rate, 3, start), method) for name, (rate, start, method) in rates.items()]
    first = align(streams, timeline()).timelines[0]
    second = align([streams[i] for i in order], timeline()).timelines[0]
    assert (first.stamps_ns == second.stamps_ns).all()
    assert all((first.placements[s.name].index == second.placements[s.name].index).all() for s in streams)


def test_angles_go_the_short_way_round_and_no_value_between_the_branches_is_invented() -> None:
    times, frames = np.array([0, 100 * MS]), np.array([0, 25, 50, 75, 100]) * MS
    got = resample(np.array([[3.1], [-3.1]]), place(times, frames, "linear"), kind="joint", unit="rad")[:, 0]
    gap = 2 * np.pi - 6.2
    assert np.allclose(got, [3.1, 3.1 + gap / 4, 3.1 + gap / 2, -3.1 - gap / 4, -3.1])
    degrees = resample(np.array([[179.0], [-179.0]]), place(times, frames, "linear"), kind="joint", unit="deg")[:, 0]
    assert np.allclose(degrees, [179, 179.5, 180, -179.5, -179])


def test_metres_are_not_unwrapped() -> None:
    times, frames = np.array([0, 100 * MS]), np.array([50 * MS])
    assert resample(np.array([[0.0], [8.0]]), place(times, frames, "linear"), kind="position", unit="m")[0, 0] == 4.0


@given(st.integers(0, 2**32 - 1))
def test_quaternions_are_slerped_like_scipy_does_and_their_sign_is_continuous(seed: int) -> None:
    rotations = Rotation.random(6, random_state=seed)
    times = np.arange(6) * 100 * MS
    frames = np.arange(0, 500 * MS + 1, 13 * MS)
    recorded = rotations.as_quat() * np.where(np.arange(6) % 2, -1.0, 1.0)[:, None]
    got = resample(recorded, place(times, frames, "linear"), kind="quaternion_xyzw")
    expected = Slerp(times, rotations)(frames).as_quat()
    assert np.allclose(np.abs(np.sum(got * expected, axis=1)), 1.0, atol=1e-7)
    assert (np.sum(got[1:] * got[:-1], axis=1) >= 0).all()


def test_a_gap_quarantines_and_says_where_and_how_long() -> None:
    times = np.concatenate([stamps(50, 1), stamps(50, 1, start_ns=1_800 * MS)])
    with pytest.raises(AlignmentError) as error:
        align([Clocked("/left/arm", times, "linear")], timeline())
    assert "/left/arm" in str(error.value)
    assert "800 ms" in str(error.value)
    assert "max_gap_ms 200" in str(error.value)
    assert "on_gap: split" in str(error.value)


def test_a_gap_splits_the_recording_if_the_spec_says_so() -> None:
    times = np.concatenate([stamps(50, 1), stamps(50, 1, start_ns=1_800 * MS)])
    found = align([Clocked("/left/arm", times, "linear"), Clocked("/cam", stamps(30, 2.8), "nearest")], timeline(on_gap="split"))
    assert len(found.timelines) == 2
    first, second = found.timelines
    assert first.stamps_ns[-1] <= 1_000 * MS
    assert second.stamps_ns[0] >= 1_800 * MS
    assert "split at a gap of 800 ms in /left/arm" in found.notes[0]


def test_stretches_shorter_than_min_frames_are_dropped_and_said() -> None:
    times = np.concatenate([stamps(50, 2), stamps(50, 0.04, start_ns=2_500 * MS)])
    found = align([Clocked("/a", times, "linear")], timeline(on_gap="split", min_frames=5))
    assert len(found.timelines) == 1
    assert any("fewer than min_frames 5" in note for note in found.notes)


def test_a_sample_too_far_away_is_refused_with_stream_time_and_both_values() -> None:
    slow = stamps(8, 3)
    with pytest.raises(AlignmentError, match=r"/cam.*frame \d+.*found 62\.\d ms.*max_skew_ms 40") as error:
        align([Clocked("/a", stamps(50, 3), "linear"), Clocked("/cam", slow, "nearest")], timeline(rate_hz=16, max_skew_ms=40))
    assert "vla-ops inspect" in str(error.value)


def test_a_clock_that_jumps_back_is_named() -> None:
    times = np.concatenate([stamps(50, 1), stamps(50, 1)])
    with pytest.raises(AlignmentError, match=r"jumps back.*/arm.*1.000 s back at sample 51 of 102"):
        align([Clocked("/arm", times, "linear")], timeline())


def test_streams_on_two_clocks_are_named_with_the_line_to_write() -> None:
    epoch = Clocked("/arm", stamps(50, 4, start_ns=1_769_692_472_000_000_000), "linear")
    monotonic = Clocked("/env_camera/color/image_raw", stamps(25, 4, start_ns=8_225_235_875_000), "nearest")
    with pytest.raises(AlignmentError) as error:
        align([epoch, monotonic], timeline())
    assert "clock_offsets: {/env_camera/color/image_raw: start}" in str(error.value)
    found = align([epoch, monotonic], timeline(clock_offsets={"/env_camera/color/image_raw": "start"}))
    assert found.timelines[0].frames == 81


def test_a_constant_offset_between_clocks_is_noticed() -> None:
    arms = [Clocked(name, stamps(50, 10), "linear") for name in ("/a", "/b")]
    streams = [*arms, Clocked("/cam", stamps(30, 10, 2_000 * MS), "nearest")]
    notes = align(streams, timeline()).notes
    assert any("/cam may be off by 2000 ms" in note and "clock_offsets: {/cam: -2000}" in note for note in notes)


def test_a_fixed_offset_moves_the_stream() -> None:
    streams = [Clocked("/a", stamps(50, 2), "linear"), Clocked("/cam", stamps(50, 2, 100 * MS), "nearest")]
    found = align(streams, timeline(clock_offsets={"/cam": -100}))
    assert found.timelines[0].frames == 41
    assert np.abs(found.timelines[0].placements["/cam"].skew_ns).max() <= 10 * MS
    assert found.timelines[0].placements["/cam"].skew_ns[0] == 0


def test_start_is_when_the_others_have_begun_after_their_own_offsets() -> None:
    times = stamps(50, 5)
    joints, camera = Clocked("/joints", times + 100_000 * MS, "linear"), Clocked("/cam", times + 7_000 * MS, "nearest")
    for offset in (500.0, -500.0):
        found = align([joints, camera], timeline(clock_offsets={"/joints": offset, "/cam": "start"})).timelines[0]
        assert found.stamps_ns[0] == 100_000 * MS + offset * MS
        assert found.placements["/cam"].index[0] == 0
        assert found.placements["/joints"].index[0] == 0


@pytest.mark.parametrize(("latency_ms", "first"), [(0, 0), (-100, 5), (-200, 10)])
def test_start_does_not_undo_the_latency_of_a_camera(latency_ms: int, first: int) -> None:
    """A camera whose images arrive 100 ms late shows at the beginning what arrives 100 ms after it."""
    times = stamps(50, 5)
    camera = Clocked("/cam", times + 7_000 * MS, "nearest", latency_ms * MS)
    found = align([Clocked("/joints", times + 100_000 * MS, "linear"), camera], timeline(clock_offsets={"/cam": "start"})).timelines[0]
    assert found.placements["/cam"].index[0] == first
    assert found.placements["/joints"].index[0] == 0


def test_a_latency_without_any_offset_moves_the_stream() -> None:
    times = stamps(50, 2)
    found = align([Clocked("/a", times, "linear"), Clocked("/cam", times + 100 * MS, "nearest", -100 * MS)], timeline()).timelines[0]
    assert found.stamps_ns[0] == 0
    assert (found.placements["/cam"].skew_ns[0], found.frames) == (0, 41)


def test_one_sample_is_too_short() -> None:
    with pytest.raises(AlignmentError, match="too short"):
        align([Clocked("/a", np.array([5]), "nearest")], timeline())


def test_an_empty_stream_is_named() -> None:
    with pytest.raises(AlignmentError, match=r"no samples.*/a"):
        align([Clocked("/a", np.array([], np.int64), "nearest")], timeline())
