"""Image augmentation of training: small crops and turns of the base camera, colour changes of all.

The distributions and the use of keys are those of openpi (which takes them from augmax 0.4.1), so that one key gives the
same augmented images. Two surprises are kept: the saturation that openpi asks for (0.5) is drawn but has never any
effect, and brightness, contrast and hue change together or, one time in two, not at all.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

CROP = 0.95
MAX_TURN = math.radians(5)
BRIGHTNESS, CONTRAST, HUE = 0.3, 0.4, 0.1
COLOUR_PROBABILITY = 0.5


def augment(key: Array, images: dict[str, Array]) -> dict[str, Array]:
    """Return augmented images {camera: [B, H, W, 3] in [-1, 1]}: sample i of every camera uses the same key."""

    def of_camera(camera: str, batch: Array) -> Array:
        one = _colours_only if "wrist" in camera else _all
        return jax.vmap(one)(jax.random.split(key, len(batch)), batch / 2.0 + 0.5) * 2.0 - 1.0

    return {camera: of_camera(camera, batch) for camera, batch in images.items()}


def _all(key: Array, image: Array) -> Array:
    geometry, colour = jax.random.split(key)
    return jitter(jax.random.split(colour, 1)[0], crop_and_turn(geometry, image))


def _colours_only(key: Array, image: Array) -> Array:
    (colour,) = jax.random.split(key, 1)
    return jitter(jax.random.split(colour, 1)[0], image)


def crop_and_turn(key: Array, image: Array) -> Array:
    """Return a crop of 95 % of the image [H, W, 3], resized back and turned by up to 5 degrees, sampled once, bilinearly.

    What lies outside the image is black.
    """
    crop_key, _, turn_key = jax.random.split(key, 3)
    size = jnp.array(image.shape[:2])
    crop = jnp.array([int(side * CROP) for side in image.shape[:2]])
    limit = (size - crop) / 2
    shift = jax.random.uniform(crop_key, (2,), minval=-limit, maxval=limit)
    angle = jax.random.uniform(turn_key, minval=-MAX_TURN, maxval=MAX_TURN)
    # Coordinates (row, column) are relative to the image's centre: output pixel -> turned -> scaled to the crop -> moved to it.
    rows, columns = (jnp.arange(side) - (side - 1) / 2 for side in image.shape[:2])
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    scale = crop / size
    row = (cos * rows[:, None] + sin * columns[None, :]) * scale[0] + shift[0] + (size[0] - 1) / 2
    column = (cos * columns[None, :] - sin * rows[:, None]) * scale[1] + shift[1] + (size[1] - 1) / 2
    return bilinear(image, row, column)


def bilinear(image: Array, row: Array, column: Array) -> Array:
    """Return image [H, W, C] at the fractional places row, column [h, w], black outside."""
    height, width = image.shape[:2]
    top, left = jnp.floor(row), jnp.floor(column)

    def corner(down: int, right: int) -> Array:
        r, c = (top + down).astype(jnp.int32), (left + right).astype(jnp.int32)
        weight = (1 - jnp.abs(row - top - down)) * (1 - jnp.abs(column - left - right))
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        return jnp.where(inside, weight, 0.0)[..., None] * image[jnp.clip(r, 0, height - 1), jnp.clip(c, 0, width - 1)]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)


def jitter(key: Array, image: Array) -> Array:
    """Return the image [H, W, 3] in [0, 1] with another brightness, contrast and hue, with probability one half."""
    keys = jax.random.split(key, 5)

    def draw(index: int, strength: float) -> Array:
        return jax.random.uniform(keys[index], minval=-strength, maxval=strength)

    hue, saturation, value = _to_hsv(image)
    value = _contrast(_brightness(value, draw(0, BRIGHTNESS)), draw(1, CONTRAST))
    # keys[3] would be the saturation's.
    changed = _to_rgb(hue + draw(2, HUE), saturation, value)
    return jnp.where(jax.random.bernoulli(key, COLOUR_PROBABILITY), changed, image)


def _brightness(value: Array, amount: Array) -> Array:
    """Fade towards black below zero, towards white above."""
    return jnp.where(amount < 0, value * (1 + amount), value * (1 - amount) + amount)


def _contrast(value: Array, amount: Array) -> Array:
    """Turn the tone curve around grey to slope s = tan(pi/4 (1 + amount)), with slope 1/s near black and white to keep [0, 1]."""
    slope = jnp.tan((1 + amount) * (math.pi / 4))
    low = slope / (2 * (1 + slope))
    middle = slope * (value - 0.5) + 0.5
    return jnp.where(value < low, value / slope, jnp.where(value > 1 - low, 1 - (1 - value) / slope, middle))


def _to_hsv(image: Array) -> tuple[Array, Array, Array]:
    """Return hue (a whole turn is 1), saturation and value, each [H, W]."""
    value = image.max(-1)
    chroma = value - image.min(-1)
    red, green, blue = (image[..., i] for i in range(3))
    from_red, from_green, from_blue = (ahead / _not_zero(chroma) for ahead in (green - blue, blue - red, red - green))
    sextants = jnp.where(red == value, from_red, jnp.where(green == value, 2 + from_green, 4 + from_blue))
    return sextants / 6, chroma / _not_zero(value), value


def _not_zero(x: Array) -> Array:
    return jnp.where(x == 0, 1.0, x)


def _to_rgb(hue: Array, saturation: Array, value: Array) -> Array:
    sextant = jnp.mod(jnp.array([5.0, 3.0, 1.0]) + hue[..., None] * 6, 6)
    lack = jnp.clip(jnp.minimum(sextant, 4 - sextant), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * lack)
