from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
