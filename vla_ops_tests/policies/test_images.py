from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vla_ops.errors import SchemaMismatchError
from vla_ops.policies.images import CameraSlots, as_pixels, resize_with_pad

quick = settings(max_examples=30, deadline=None)


@quick
@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 64), st.integers(1, 64))
def test_an_image_keeps_its_aspect_between_two_black_bars(height: int, width: int, tall: int, wide: int) -> None:
    image = np.full((height, width, 3), 255, np.uint8)
    resized = resize_with_pad(image, height=tall, width=wide)
    assert resized.shape == (tall, wide, 3)
    rows, columns = (np.flatnonzero((resized == 255).all(axis=2).any(axis=axis)) for axis in (1, 0))
    # All white is one block; its middle is the middle, one of its sides is whole, its aspect the image's.
    assert len(rows) == rows[-1] - rows[0] + 1
    assert 0 <= (tall - len(rows)) - 2 * rows[0] <= 1
    assert 0 <= (wide - len(columns)) - 2 * columns[0] <= 1
    assert len(rows) >= tall - 1 or len(columns) >= wide - 1
    ratio = max(height / tall, width / wide)
    assert abs(len(rows) - max(height / ratio, 1)) <= 1
    assert abs(len(columns) - max(width / ratio, 1)) <= 1


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert resize_with_pad(image, height=224, width=224) is image


def test_a_batch_is_resized_image_by_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 60, 3), dtype=np.uint8)
    resized = resize_with_pad(images, height=32, width=32)
    assert resized.shape == (2, 3, 32, 32, 3)
    np.testing.assert_array_equal(resized[1, 2], resize_with_pad(images[1, 2], height=32, width=32))
    alone = np.asarray(Image.fromarray(images[1, 2]).resize((32, 21), resample=Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resized[1, 2][5:26], alone)


def test_channels_may_come_first() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_pixels(np.moveaxis(image, -1, 0), camera="top"), image)
    np.testing.assert_array_equal(as_pixels(np.moveaxis(image[None], -1, 1), camera="top"), image[None])


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 4), (4, 5, 1), (3, 5, 3), (3,)])
def test_what_is_no_rgb_image_is_refused_by_its_camera(shape: tuple[int, ...]) -> None:
    with pytest.raises(SchemaMismatchError, match=r"not an RGB image \[stream top\]; found shape"):
        as_pixels(np.zeros(shape, np.uint8), camera="top")


@pytest.mark.parametrize("bad", [-0.1, 1.01, 255.0, np.nan])
def test_floats_out_of_range_do_not_overflow_as_openpi_lets_them(bad: float) -> None:
    image = np.full((4, 5, 3), 0.5, np.float32)
    image[1, 2, 0] = bad
    with pytest.raises(SchemaMismatchError, match=r"out of its range \[stream top\].*expected 0 \.\. 1"):
        as_pixels(image, camera="top")


def test_integers_other_than_bytes_are_refused() -> None:
    with pytest.raises(SchemaMismatchError, match="numbers of int64"):
        as_pixels(np.zeros((4, 5, 3), np.int64), camera="top")


def test_each_row_has_its_image() -> None:
    slots = CameraSlots((("base_0_rgb", "top"), ("left_wrist_0_rgb", None)), size=8)
    images, masks = slots.images({"top": np.zeros((2, 4, 5, 3), np.uint8)}, (2,))
    assert images["left_wrist_0_rgb"].shape == (2, 8, 8, 3)
    assert (masks["base_0_rgb"].tolist(), masks["left_wrist_0_rgb"].tolist()) == ([True, True], [False, False])
    with pytest.raises(SchemaMismatchError, match=r"as many images as states.*top.*\(2, 4, 5, 3\).*\(3, 'H', 'W', 3\)"):
        slots.images({"top": np.zeros((2, 4, 5, 3), np.uint8)}, (3,))
