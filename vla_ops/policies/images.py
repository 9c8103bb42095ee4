"""Camera images as the model takes them: its slots in order, each uint8 of its size, and zeros with mask False where there is no camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.embodiment import Embodiment
from vla_ops.errors import SchemaMismatchError

type UInt8 = npt.NDArray[np.uint8]
type Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CameraSlots:
    """Which camera each of the model's slots shows, in the model's order."""

    # (slot, camera's name or None)
    shown: tuple[tuple[str, str | None], ...]
    # Width and height, in pixels.
    size: int = 224

    @classmethod
    def of(cls, spec: Embodiment, *, slots: Sequence[str], size: int, robot: str) -> CameraSlots:
        """The slots of this robot's cameras, by their `role`. Raise SchemaMismatchError where none has a slot."""
        cameras = spec.camera_slots
        shown = tuple((slot, cameras.get(slot)) for slot in slots)
        if not any(camera for _, camera in shown):
            raise SchemaMismatchError(
                "no camera of the robot has a slot in the model: it would be blind",
                robot=robot,
                found=f"cameras {', '.join(spec.cameras) or 'none'}; with a role {', '.join(cameras.values()) or 'none'}",
                expected=f"one for {' or '.join(slots)}",
                todo="Give a camera a `role` in the robot's YAML: base, left_wrist or right_wrist.",
            )
        return cls(shown, size)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras the model sees: no other is to be decoded."""
        return tuple(camera for _, camera in self.shown if camera)

    def images(self, images: Mapping[str, npt.NDArray[Any]], batch: tuple[int, ...]) -> tuple[dict[str, UInt8], dict[str, Bools]]:
        """Slot -> image [*batch, size, size, 3] and slot -> whether it shows anything [*batch], of images by their camera's name."""
        shape = (*batch, self.size, self.size, 3)
        placed = {slot: self._image(images, camera, batch) if camera else np.zeros(shape, np.uint8) for slot, camera in self.shown}
        return placed, {slot: np.full(batch, camera is not None) for slot, camera in self.shown}

    def _image(self, images: Mapping[str, npt.NDArray[Any]], camera: str, batch: tuple[int, ...]) -> UInt8:
        if camera not in images:
            # A model that was trained with a camera is another one without it: never a black image in its place.
            raise SchemaMismatchError(
                "an image is missing",
                stream=camera,
                found=f"images {', '.join(images) or 'none'}",
                expected=f"images {', '.join(self.cameras)}",
                todo="Send it under its name in the robot's YAML; or take its `role` away there and train a model without it.",
            )
        pixels = as_pixels(images[camera], camera=camera)
        if pixels.shape[:-3] != batch:
            raise SchemaMismatchError(
                "as many images as states are needed", stream=camera, found=f"images {pixels.shape}", expected=f"{(*batch, 'H', 'W', 3)}"
            )
        return resize_with_pad(pixels, height=self.size, width=self.size)


def as_pixels(image: npt.NDArray[Any], *, camera: str) -> UInt8:
    """RGB images [..., H, W, 3] or [..., 3, H, W], uint8 or floats from 0 to 1, as uint8 [..., H, W, 3].

    Raise SchemaMismatchError, naming the camera, for other shapes and for floats outside 0 .. 1, which openpi lets overflow.
    """
    image = np.asarray(image)
    channels_last = image.ndim >= 3 and image.shape[-1] == 3
    channels_first = image.ndim >= 3 and image.shape[-3] == 3
    if channels_last == channels_first:
        raise SchemaMismatchError("not an RGB image", stream=camera, found=f"shape {image.shape}", expected="(H, W, 3) or (3, H, W)")
    if channels_first:
        image = np.moveaxis(image, -3, -1)
    return image if image.dtype == np.uint8 else _quantised(image, camera)


def _quantised(image: npt.NDArray[Any], camera: str) -> UInt8:
    if not np.issubdtype(image.dtype, np.floating):
        raise SchemaMismatchError("not an RGB image", stream=camera, found=f"numbers of {image.dtype}", expected="uint8, or floats 0 .. 1")
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise SchemaMismatchError(
            "an image of floats is out of its range",
            stream=camera,
            found=f"{low:.4g} .. {high:.4g}",
            expected="0 .. 1",
            todo="Send the camera's own uint8, or divide by 255.",
        )
    # Cut, not rounded: as openpi does, whose checkpoints saw such images.
    return (255 * image).astype(np.uint8)


def resize_with_pad(images: UInt8, *, height: int, width: int) -> UInt8:
    """Images [..., H, W, 3] shrunk or grown to fit in their own aspect, black bars on two sides: PIL's bilinear, as openpi does it."""
    if images.shape[-3:-1] == (height, width):
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    resized = np.zeros((len(flat), height, width, 3), np.uint8)
    for image, place in zip(flat, resized, strict=True):
        _place(image, place)
    return resized.reshape(*images.shape[:-3], height, width, 3)


def _place(image: UInt8, into: UInt8) -> None:
    from PIL import Image

    (height, width, _), (full_height, full_width, _) = image.shape, into.shape
    ratio = max(width / full_width, height / full_height)
    # An image of one line is still an image.
    new_height, new_width = max(int(height / ratio), 1), max(int(width / ratio), 1)
    top, left = (full_height - new_height) // 2, (full_width - new_width) // 2
    small = Image.fromarray(np.ascontiguousarray(image)).resize((new_width, new_height), resample=Image.Resampling.BILINEAR)
    into[top : top + new_height, left : left + new_width] = np.asarray(small)
