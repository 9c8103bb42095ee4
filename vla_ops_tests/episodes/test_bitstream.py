"""What is read from the headers of images, without decoding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.episodes.bitstream import is_keyframe, read_jpeg_header, refuse_uncommon_jpeg, whole_jpeg
from vla_ops.errors import RecordingFormatError, UnknownEncodingError
from vla_ops_tests.episodes.streams import encode_packets, jpeg, scene

IMAGE = scene(5, 96, 130)
GOOD = jpeg(IMAGE)


def test_a_header_tells_size_sampling_and_process():
    header = read_jpeg_header(GOOD)
    assert (header.width, header.height, header.process) == (130, 96, 0)
    assert header.sampling == (0x22, 0x11, 0x11)
    assert read_jpeg_header(jpeg(IMAGE, subsampling=1)).sampling == (0x21, 0x11, 0x11)
    assert len(read_jpeg_header(jpeg(IMAGE, mode="L")).sampling) == 1


def test_padding_after_the_end_is_cut_off():
    assert whole_jpeg(GOOD + bytes(100), read_jpeg_header(GOOD)) == GOOD


@given(st.integers(0, len(GOOD) - 3))
def test_a_jpeg_cut_anywhere_is_refused(length):
    data = GOOD[:length]
    with pytest.raises(RecordingFormatError):
        whole_jpeg(data, read_jpeg_header(data))


def test_the_end_marker_of_a_thumbnail_is_not_the_image_s_own():
    thumbnail = jpeg(IMAGE[:16, :16])
    app1 = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = GOOD[:2] + app1 + GOOD[2:]
    header = read_jpeg_header(data)
    assert (header.width, whole_jpeg(data, header)) == (130, data)
    with pytest.raises(RecordingFormatError, match="end-of-image"):
        whole_jpeg(data[:-20], header)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_crashes(data):
    with pytest.raises(RecordingFormatError):
        whole_jpeg(data, read_jpeg_header(data))


def test_a_progressive_or_cmyk_jpeg_is_named():
    with pytest.raises(UnknownEncodingError, match="progressive"):
        refuse_uncommon_jpeg(read_jpeg_header(jpeg(IMAGE, progressive=True)))
    with pytest.raises(UnknownEncodingError, match="4 components"):
        refuse_uncommon_jpeg(read_jpeg_header(jpeg(IMAGE, mode="CMYK")))


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_keyframes_are_where_the_encoder_was_told_to_put_them(codec):
    packets = encode_packets([scene(k, 96, 128) for k in range(9)], codec, gop=4)
    assert [is_keyframe(codec, packet) for packet in packets] == [k % 4 == 0 for k in range(9)]
