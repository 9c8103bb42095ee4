from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vla_ops.errors import RecordingError
from vla_ops.recordings.arrays import RowImages, Rows, image_layout
from vla_ops.recordings.stamps import stamps_from_rate, stamps_from_times


class CountedRows:
    """An array that remembers which rows were read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> np.ndarray:
        self.reads.append((start, stop))
        return self.values[start:stop].copy()


def images_of(count: int, *, chunk_rows: int | None, start: int, stop: int) -> tuple[RowImages, CountedRows]:
    values = np.zeros((count, 16, 16, 3), np.uint8)
    values[:, 0, 0, 0] = np.arange(count)
    counted = CountedRows(values)
    rows = Rows("cam", values.dtype, values.shape, chunk_rows, counted.read)
    return RowImages("cam", "raw", stamps_from_rate(0, stop - start, 30), rows, image_layout(rows), start), counted


class TestBlocks:
    def test_each_chunk_is_read_once_on_its_own_borders_and_clipped_to_the_span(self):
        images, counted = images_of(100, chunk_rows=10, start=25, stop=58)
        seen = [int(i.data[0, 0, 0]) for i in images.packets(range(33))]  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert seen == list(range(25, 58))
        assert counted.reads == [(25, 30), (30, 40), (40, 50), (50, 58)]

    def test_chunks_that_no_index_asks_for_are_not_read(self):
        images, counted = images_of(100, chunk_rows=10, start=0, stop=100)
        list(images.packets([3, 3, 95]))
        assert counted.reads == [(0, 10), (90, 100)]

    @given(st.integers(1, 40), st.data())
    def test_any_non_decreasing_indices_give_their_images_in_any_chunking(self, chunk_rows, data):
        start = data.draw(st.integers(0, 99))
        stop = data.draw(st.integers(start + 1, 100))
        indices = sorted(data.draw(st.lists(st.integers(0, stop - start - 1))))
        images, counted = images_of(100, chunk_rows=chunk_rows, start=start, stop=stop)
        seen = [int(i.data[0, 0, 0]) for i in images.packets(np.array(indices, np.int64))]  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert seen == [start + k for k in indices]
        assert all(b - a <= chunk_rows for a, b in counted.reads)

    @pytest.mark.parametrize(("chunk_rows", "most"), [(None, 8), (10_000, 64), (1, 1)])
    def test_a_block_of_full_size_images_is_bounded_whatever_the_chunks(self, chunk_rows, most):
        rows = Rows("cam", np.dtype(np.uint8), (18_000, 480, 640, 3), chunk_rows, lambda a, b: np.zeros(0))
        assert rows.block_rows * rows.row_bytes <= max(most * 2**20, rows.row_bytes)

    def test_an_image_that_is_kept_does_not_keep_its_block(self):
        images, _ = images_of(100, chunk_rows=50, start=0, stop=100)
        image = next(iter(images.packets([7])))
        assert isinstance(image.data, np.ndarray)
        assert image.data.base is None


def stamps_or_refusal(times: np.ndarray) -> np.ndarray | RecordingError:
    try:
        return stamps_from_times(times, "/t")
    except RecordingError as error:
        return error


class TestStamps:
    @given(st.integers(0, 10**6), st.sampled_from([10, 24, 30, 50, 59.94, 60, 250, 1000]))
    def test_stamp_k_is_the_rounded_k_over_rate(self, k, rate):
        assert stamps_from_rate(k, k + 1, rate).tolist() == [round(k * 1e9 / rate)]

    @given(st.integers(0, 4 * 10**18))
    def test_float64_seconds_lose_less_than_half_a_microsecond(self, ns):
        whole, rest = divmod(ns, 10**9)
        assert abs(int(stamps_from_times(np.array([whole + rest / 1e9]), "t")[0]) - ns) <= 500

    def test_float32_seconds_since_the_start_are_taken(self):
        times = np.arange(0, 60, 0.25, dtype=np.float32)
        assert stamps_from_times(times, "t").tolist() == [k * 250_000_000 for k in range(240)]

    @given(
        unit=st.sampled_from([1, 10**3, 10**6, 10**9]),
        start_s=st.integers(10**9, 4 * 10**9),
        rate=st.floats(0.6, 1500),
        count=st.integers(2, 60),
        seed=st.integers(0, 99),
    )
    def test_integers_since_1970_are_read_in_whatever_unit_they_are(self, unit, start_s, rate, count, seed):
        ns = start_s * 10**9 + np.cumsum(np.random.default_rng(seed).uniform(0.9, 1.1, count) * 1e9 / rate).astype(np.int64)
        assume(unit < 10**9 or rate < 1.1)
        stored = ns // unit
        assume(len(np.unique(stored)) == count and (unit == 1 or 1e9 / rate >= unit))
        assert stamps_from_times(stored, "t").tolist() == (stored * unit).tolist()

    @given(
        unit=st.sampled_from([1, 10**3, 10**6, 10**9]),
        start_s=st.floats(0, 10**5),
        rate=st.floats(0.5, 2000),
        count=st.integers(2, 60),
        as_float=st.booleans(),
    )
    def test_times_since_any_start_are_read_right_or_refused_by_name(self, unit, start_s, rate, count, as_float):
        ns = np.round((start_s + np.arange(count) / rate) * 1e9)
        stored = ns / 1e9 if as_float else (ns // unit).astype(np.int64)
        assume(as_float or 1e9 / rate >= 2 * unit)
        read = stamps_or_refusal(stored)
        if isinstance(read, RecordingError):
            assert "unit of the times cannot be told [stream /t]" in str(read)
            # Only rates at which two units would do are refused, and numbers that are also a day or less since 1970 in another unit.
            seconds = [stored * (ns_each / 1e9) for ns_each in (1, 10**3, 10**6, 10**9)]
            assert not 2.5 <= rate <= 400 or any(s[0] >= 10**9 and np.ptp(s) <= 86_400 for s in seconds)
        else:
            assert np.abs(read - ns).max() <= (1 if as_float else unit)

    @pytest.mark.parametrize("unit", [1, 10**3, 10**6])
    def test_integers_since_any_start_at_30_hz_are_read_in_the_only_unit_that_gives_a_likely_rate(self, unit):
        ns = np.arange(60) * 33_333_333
        assert np.abs(stamps_from_times(ns // unit, "t") - ns).max() <= unit

    @pytest.mark.parametrize("unit", [1e3, 1e6, 1e9])
    def test_floats_since_1970_are_seconds_milliseconds_or_microseconds(self, unit):
        ns = 1_760_000_000_000_000_000 + np.arange(60) * 33_000_000
        assert np.abs(stamps_from_times(ns / unit, "t") - ns).max() <= 500

    def test_a_pause_of_an_hour_does_not_change_the_unit(self):
        us = 1_760_000_000_000_000 + np.concatenate([np.arange(30), 108_000 + np.arange(30)]) * 33_333
        assert stamps_from_times(us, "t").tolist() == (us * 1000).tolist()

    def test_nanoseconds_of_a_machine_that_runs_for_weeks_are_not_taken_for_microseconds_since_1970(self):
        ns = 20 * 86400 * 10**9 + np.arange(60) * 33_333_333
        with pytest.raises(RecordingError, match=r"unit of the times cannot be told \[stream /time\]"):
            stamps_from_times(ns, "/time")
        assert stamps_from_times(ns, "/time_ns").tolist() == ns.tolist()
        minutes = 20 * 86400 * 10**9 + np.arange(3000) * 33_333_333
        assert stamps_from_times(minutes, "/time").tolist() == minutes.tolist()

    def test_a_name_that_says_another_unit_than_the_numbers_is_refused(self):
        with pytest.raises(RecordingError, match="not in ms, as their name says"):
            stamps_from_times(1_760_000_000_000_000 + np.arange(60) * 33_333, "/time_ms")

    def test_frame_numbers_are_not_taken_for_times(self):
        with pytest.raises(RecordingError, match="unit of the times cannot be told"):
            stamps_from_times(np.arange(60), "/frame_index")

    def test_floats_that_would_be_too_slow_as_seconds_are_refused(self):
        with pytest.raises(RecordingError, match="unit of the times cannot be told"):
            stamps_from_times(np.arange(60) * 33.3, "/t")
