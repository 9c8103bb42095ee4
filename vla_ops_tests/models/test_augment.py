"""Image augmentation of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_ops.models import preprocess
from vla_ops.models.augment import augment, bilinear, jitter
from vla_ops_tests.models.golden import QUICK, Golden, largest_difference

run = jax.jit(augment, compiler_options=QUICK)


def picture(side: int = 40) -> Any:
    rows, columns = np.mgrid[0:side, 0:side] / (side - 1)
    return jnp.asarray(np.stack([rows, columns, (rows + columns) / 2], axis=-1)[None] * 2 - 1, jnp.float32)


def test_one_key_augments_as_openpi_does(golden_dir: Path) -> None:
    golden = Golden(golden_dir, "pi0")
    with np.load(golden.folder / "augment_key11.npz") as theirs:
        ours = jax.jit(lambda seen: preprocess(jax.random.key(11), seen, golden.config, train=True).images)(golden.observation)
        assert list(ours) == list(golden.config.cameras)
        for camera in theirs.files:
            assert largest_difference(ours[camera][:1], theirs[camera]) < 5e-5, camera
            assert largest_difference(golden.observation.images[camera][:1], theirs[camera]) > 0.05, camera


def test_wrist_cameras_change_colour_but_do_not_move() -> None:
    images = {"left_wrist_0_rgb": picture(), "base_0_rgb": picture()}
    # A colour change is monotone in the value, so the brightest pixel stays the brightest, unless the camera moves.
    out = [run(jax.random.key(seed), images) for seed in range(6)]
    assert all(int(o["left_wrist_0_rgb"][0].max(-1).argmax()) == int(images["left_wrist_0_rgb"][0].max(-1).argmax()) for o in out)
    assert all(float(jnp.abs(o["base_0_rgb"] - images["base_0_rgb"]).max()) > 0.01 for o in out)
    untouched = [bool(jnp.allclose(o["left_wrist_0_rgb"], images["left_wrist_0_rgb"], atol=1e-6)) for o in out]
    assert True in untouched
    assert False in untouched


def test_samples_of_a_batch_are_augmented_differently_and_cameras_alike() -> None:
    twice = jnp.concatenate([picture(), picture()])
    out = run(jax.random.key(0), {"base_0_rgb": twice, "exterior_rgb": twice})
    assert float(jnp.abs(out["base_0_rgb"][0] - out["base_0_rgb"][1]).max()) > 0.01
    assert bool((out["base_0_rgb"] == out["exterior_rgb"]).all())


def test_values_stay_in_range() -> None:
    noise = jax.random.uniform(jax.random.key(5), (1, 40, 40, 3), minval=-1.0, maxval=1.0)
    for seed in range(4):
        out = run(jax.random.key(seed), {"base_0_rgb": noise})["base_0_rgb"]
        assert float(jnp.abs(out).max()) <= 1 + 1e-5


def test_grey_and_black_stay_finite() -> None:
    flat = jnp.broadcast_to(jnp.array([0.0, 0.5, 1.0])[:, None, None], (3, 4, 3))
    for seed in range(8):
        assert bool(jnp.isfinite(jitter(jax.random.key(seed), flat)).all())


def test_bilinear_reads_between_pixels_and_black_outside() -> None:
    image = jnp.arange(6.0).reshape(2, 3, 1) + 1
    rows, columns = jnp.array([[0.0, 0.5, 1.0, -0.5, 5.0]]), jnp.array([[0.0, 0.5, 2.0, 0.0, 1.0]])
    # Halfway out of the image is half of the border pixel.
    assert bilinear(image, rows, columns)[0, :, 0].tolist() == pytest.approx([1.0, 3.0, 6.0, 0.5, 0.0])
