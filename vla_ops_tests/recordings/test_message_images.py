"""Images in messages: what they are told by, and which cannot be read."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vla_ops.errors import RecordingFormatError, UnknownEncodingError
from vla_ops.recordings.message_images import describe_image, holds_images, image_of
from vla_ops_tests.recordings.encoded_messages import (
    json_kind,
)
from vla_ops_tests.recordings.pictures import as_jpeg, frame_picture


@dataclass(frozen=True)
class Picture:
    """What an image message of JSON holds."""

    schema: str
    content: dict[str, Any] = field(default_factory=dict)

    def read(self, *, bgr: bool = False) -> Any:
        return image_of(json_kind(self.schema), self.content, bgr=bgr)


JPEG = as_jpeg(frame_picture(3))


H264 = b"\0\0\0\1\x67"


@pytest.mark.parametrize(
    ("schema", "said", "data", "codec"),
    [
        ("CompressedImage", "png", JPEG, "jpeg"),
        ("CompressedImage", "jpeg", b"\x89PNG\r\n\x1a\n....", "png"),
        ("CompressedImage", "h264", H264, "h264"),
        ("CompressedImage", "H265", b"\0\0\1\x40", "hevc"),
        ("CompressedImage", "av1", b"\x12\0", "av1"),
        ("foxglove.CompressedVideo", "h264", H264, "h264"),
        ("foxglove.CompressedVideo", "H265", H264, "hevc"),
        ("foxglove.CompressedVideo", "av1", b"\x12\0", "av1"),
    ],
)
def test_compressed_images_are_what_their_bytes_say_and_videos_what_their_format_says(
    schema: str, said: str, data: bytes, codec: str
) -> None:
    for given_as in (data, base64.b64encode(data).decode(), list(data)):
        image = Picture(schema, {"format": said, "data": given_as}).read()
        assert (image.codec, image.data) == (codec, data)
    assert describe_image(json_kind(schema), {"format": said, "data": data}) == (codec, ())


@pytest.mark.parametrize(
    ("schema", "content", "said"),
    [
        ("CompressedImage", {"format": "h264", "data": b"no start code"}, "13 bytes beginning with b'no start', format 'h264'"),
        ("CompressedImage", {"data": b""}, "no bytes, format ''"),
        ("foxglove.CompressedVideo", {"format": "vp9", "data": H264}, "found vp9; expected h264"),
        ("foxglove.CompressedVideo", {"data": H264}, "found no format"),
        ("Image", {"encoding": "16UC1", "height": 1, "width": 1, "step": 2, "data": b"ab"}, "found 16UC1; expected rgb8"),
        ("PointCloud2", {"data": b""}, "not image messages; found PointCloud2"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_with_what_can(schema: str, content: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownEncodingError) as caught:
        Picture(schema, content).read()
    assert said in str(caught.value)


@pytest.mark.parametrize("data", ["not base64!", [1, 300], None, 5.0, [1, "a"]])
def test_data_that_is_no_bytes_is_refused(data: object) -> None:
    with pytest.raises(RecordingFormatError, match="neither bytes nor base64"):
        Picture("CompressedImage", {"format": "jpeg", "data": data}).read()


@given(
    st.sampled_from([("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("bgra8", 4), ("mono8", 1), ("8UC1", 1), ("8UC3", 3), ("8UC4", 4)]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_raw_pixels_become_rgb_whatever_their_rows_are_padded_to(encoding: tuple[str, int], height: int, width: int, padding: int) -> None:
    name, channels = encoding
    pixels = np.random.default_rng(height * 7 + width).integers(0, 256, (height, width, channels), np.uint8)
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)), constant_values=9)
    # The last row's padding is often left out.
    data = rows.tobytes()[: rows.size - padding]
    picture = Picture("Image", {"encoding": name, "height": height, "width": width, "step": rows.shape[1], "data": data})
    for is_bgr in (False, True):
        order = [2, 1, 0] if is_bgr or name.startswith("bgr") else [0, 1, 2]
        expected = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., order]
        image = picture.read(bgr=is_bgr)
        assert image.codec == "raw"
        np.testing.assert_array_equal(image.data, expected)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_a_raw_image_whose_size_is_more_than_its_bytes_is_refused_without_making_it(height: int, width: int, step: int, size: int) -> None:
    assume(not (height and width and width * 3 <= step and size >= step * (height - 1) + width * 3))
    with pytest.raises(RecordingFormatError, match=r"fewer bytes than its size says.*found \d+ bytes; expected \d+ x \d+ rgb8"):
        Picture("Image", {"encoding": "rgb8", "height": height, "width": width, "step": step, "data": bytes(size)}).read()


def test_a_raw_image_without_pixels_is_refused() -> None:
    for height, width in ((0, 5), (5, 0)):
        with pytest.raises(RecordingFormatError, match="fewer bytes"):
            Picture("Image", {"encoding": "rgb8", "height": height, "width": width, "step": 15, "data": bytes(75)}).read()


def test_images_are_told_by_their_schema_and_described_without_decoding() -> None:
    found = {
        name for name in ("sensor_msgs/msg/Image", "foxglove.RawImage", "CompressedVideo", "JointState") if holds_images(json_kind(name))
    }
    assert found == {"sensor_msgs/msg/Image", "foxglove.RawImage", "CompressedVideo"}
    content = {"encoding": "bgra8", "height": 4, "width": 6}
    assert describe_image(json_kind("RawImage"), content) == ("raw bgra8", (4, 6, 3))
