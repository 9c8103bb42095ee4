"""Image statistics are LeRobot's: compared with lerobot itself on the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.episodes.image_stats import ImageStats, pixel_step, sampled_frames, thinned_rgb
from vla_ops_tests.episodes.streams import jpeg, scene

QUANTILES = ("q01", "q10", "q50", "q90", "q99")


def stats_of(images: list[np.ndarray]) -> dict[str, np.ndarray]:
    stats = ImageStats()
    for image in images:
        step = pixel_step(*image.shape[:2])
        stats.add(image[::step, ::step])
    return {name: np.array(value) for name, value in stats.stats().items()}


@pytest.fixture(scope="module")
def lerobot_stats():
    return pytest.importorskip("lerobot.datasets.compute_stats")


@pytest.mark.parametrize(("length", "count"), [(1, 1), (99, 99), (100, 100), (101, 100), (1000, 177), (20_000, 1681), (500_000, 10_000)])
def test_an_episode_of_any_length_is_sampled_from_its_first_to_its_last_frame(length, count):
    frames = sampled_frames(length)
    assert (len(set(frames.tolist())), frames[0], frames[-1]) == (count, 0, length - 1)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 60_000))
def test_the_sampled_frames_are_lerobots(length):
    compute_stats = pytest.importorskip("lerobot.datasets.compute_stats")
    assert sampled_frames(length).tolist() == compute_stats.sample_indices(length)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(st.integers(2, 1400), st.integers(2, 1400))
def test_the_sampled_pixels_are_lerobots(height, width):
    compute_stats = pytest.importorskip("lerobot.datasets.compute_stats")
    step = pixel_step(height, width)
    image = np.zeros((3, height, width), np.uint8)
    assert compute_stats.auto_downsample_height_width(image).shape == image[:, ::step, ::step].shape


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smooth", "noise", "dark", "one value", "two values"])
def test_statistics_equal_lerobots_on_the_same_images(kind, lerobot_stats, tmp_path: Path):
    from PIL import Image

    rng = np.random.default_rng(0)
    shape = (310, 420, 3)
    images = {
        "smooth": [scene(k, *shape[:2]) for k in range(12)],
        "noise": list(rng.integers(0, 256, (6, *shape), dtype=np.uint8)),
        "dark": list(rng.integers(0, 4, (6, *shape), dtype=np.uint8)),
        "one value": [np.full(shape, 77, np.uint8)] * 3,
        "two values": [np.full(shape, 10, np.uint8), np.full(shape, 200, np.uint8)],
    }[kind]
    paths = []
    for k, image in enumerate(images):
        paths.append(str(tmp_path / f"{k}.png"))
        Image.fromarray(image).save(paths[-1])
    theirs = lerobot_stats.compute_episode_stats({"camera": paths}, {"camera": {"dtype": "video"}})["camera"]
    ours = stats_of(images)

    assert ours.keys() == theirs.keys()
    assert all(ours[name].shape == theirs[name].shape for name in ours)
    assert ours["count"] == theirs["count"]
    for name in ("min", "max"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    for name in ("mean", "std"):
        # LeRobot sums squares of bytes in float32: a camera that shows one value has a std of some 0.1/255 there.
        np.testing.assert_allclose(ours[name], theirs[name], atol=0.2 / 255)
    for name in QUANTILES:
        np.testing.assert_allclose(ours[name], theirs[name], atol=0.5 / 255, err_msg=name)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(96, 128), (97, 131), (480, 640)])
def test_thinned_pixels_are_those_of_a_plain_jpeg_decode(subsampling, size):
    import io

    from PIL import Image

    from vla_ops.episodes.decode import StillDecoder
    from vla_ops.recordings.base import EncodedImage

    data = jpeg(scene(3, *size), subsampling=subsampling)
    step = pixel_step(*size)
    plain = np.asarray(Image.open(io.BytesIO(data)))[::step, ::step].astype(int)
    thinned = thinned_rgb(StillDecoder().decode(EncodedImage("jpeg", data)), step)
    assert thinned.shape == plain.shape
    assert np.abs(thinned - plain).mean() < 0.6
    assert np.abs(np.median(thinned, axis=(0, 1)) - np.median(plain, axis=(0, 1))).max() <= 1


def test_black_images_are_counted_and_luma_is_a_share_of_white():
    stats = ImageStats()
    stats.add(np.full((4, 4, 3), 3, np.uint8), times=3)
    stats.add(np.full((4, 4, 3), 255, np.uint8))
    assert stats.measured() == {"black_fraction": 0.75, "luma_mean": pytest.approx((3 * 3 / 255 + 1) / 4)}
