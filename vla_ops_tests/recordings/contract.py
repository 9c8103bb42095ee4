"""What every recording reader must do, whatever the format: a reader's tests subclass `RecordingContract` and say what is in the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from vla_ops.errors import StreamNotFoundError
from vla_ops.recordings.base import VIDEO_CODECS, EncodedImage, Float64, ImageStream, Recording, Source, Span


@dataclass(frozen=True)
class Contents:
    """What is in the first episode of the recording under test."""

    # Source text -> values [n, width] as they were written.
    numbers: Mapping[str, Float64]
    # Image stream -> number of images, at least four; at least two streams.
    images: Mapping[str, int] = field(default_factory=dict)
    episodes: int = 1
    # Absolute tolerance: formats that store float32 lose digits.
    tolerance: float = 1e-6


class RecordingContract:
    """Subclasses override both fixtures; every test here then runs on their recording."""

    @pytest.fixture
    def recording(self) -> Iterator[Recording]:
        raise NotImplementedError

    @pytest.fixture
    def contents(self) -> Contents:
        raise NotImplementedError

    @pytest.fixture
    def span(self, recording: Recording) -> Span:
        return recording.spans()[0]

    def test_it_is_a_recording(self, recording: Recording):
        assert isinstance(recording, Recording)
        with recording as entered:
            assert entered is recording

    def test_streams_are_listed_with_kind_and_count(self, recording: Recording, contents: Contents):
        listed = {s.name: s for s in recording.streams()}
        for text, values in contents.numbers.items():
            info = listed[recording.stream_name(Source.parse(text))]
            assert (info.kind, info.count) == ("numbers", len(values))
        for name, count in contents.images.items():
            assert (listed[name].kind, listed[name].count) == ("images", count)
        assert len(listed) == len(recording.streams()), "names are unique"

    def test_first_and_last_stamps_are_those_of_the_samples(self, recording: Recording, contents: Contents, span: Span):
        listed = {s.name: s for s in recording.streams()}
        for text in contents.numbers:
            source = Source.parse(text)
            stamps = recording.numbers(source, span).stamps_ns
            info = listed[recording.stream_name(source)]
            assert (info.first_ns, info.last_ns) == (stamps[0], stamps[-1])

    def test_episodes_are_numbered_in_order(self, recording: Recording, contents: Contents):
        spans = recording.spans()
        assert [span.index for span in spans] == list(range(contents.episodes))
        assert len({span.name for span in spans}) == contents.episodes

    def test_metadata_is_flat_text(self, recording: Recording):
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in recording.metadata().items())

    def test_numbers_are_what_was_written(self, recording: Recording, contents: Contents, span: Span):
        for text, expected in contents.numbers.items():
            numbers = recording.numbers(Source.parse(text), span)
            assert (numbers.stamps_ns.dtype, numbers.values.dtype) == (np.int64, np.float64)
            assert numbers.stamps_ns.shape == (len(expected),)
            assert numbers.values.shape == expected.shape
            np.testing.assert_allclose(numbers.values, expected, atol=contents.tolerance)
            assert numbers.names == () or len(numbers.names) == expected.shape[1]

    def test_columns_of_a_source_are_taken(self, recording: Recording, contents: Contents, span: Span):
        for text, expected in contents.numbers.items():
            source = Source.parse(text)
            last = recording.numbers(Source(source.stream, source.field, (expected.shape[1] - 1,)), span)
            np.testing.assert_allclose(last.values, expected[:, -1:], atol=contents.tolerance)

    def test_image_streams_have_a_stamp_for_every_image(self, recording: Recording, contents: Contents, span: Span):
        for name, count in contents.images.items():
            stream = recording.images(Source.parse(name), span)
            assert isinstance(stream, ImageStream)
            assert stream.name == name
            assert (stream.stamps_ns.dtype, stream.stamps_ns.shape) == (np.int64, (count,))
            assert (np.diff(stream.stamps_ns) > 0).all()

    def test_packets_come_in_order_repeats_and_subsets_allowed(self, recording: Recording, contents: Contents, span: Span):
        for name, count in contents.images.items():
            stream = recording.images(Source.parse(name), span)
            every = list(stream.packets(range(count)))
            assert len(every) == count
            assert {image.codec for image in every} == {stream.codec}
            chosen = [0, 1, 1, count - 1, count - 1]
            some = list(stream.packets(np.array(chosen)))
            assert [_bytes(image) for image in some] == [_bytes(every[k]) for k in chosen]
            assert list(stream.packets([])) == []

    def test_packets_that_are_not_there_or_go_back_are_refused(self, recording: Recording, contents: Contents, span: Span):
        for name, count in contents.images.items():
            stream = recording.images(Source.parse(name), span)
            for indices in ([count], [-1], [2, 1]):
                with pytest.raises(IndexError):
                    list(stream.packets(indices))

    def test_images_are_bytes_or_rgb_arrays(self, recording: Recording, contents: Contents, span: Span):
        for name in contents.images:
            image = next(iter(recording.images(Source.parse(name), span).packets([0])))
            if image.codec == "raw":
                assert isinstance(image.data, np.ndarray)
                assert (image.data.dtype, image.data.shape[2]) == (np.uint8, 3)
            else:
                assert isinstance(image.data, bytes)
                assert image.codec in VIDEO_CODECS | {"jpeg", "png"}

    def test_a_stream_that_is_not_there_is_named_with_the_nearest_one(self, recording: Recording, contents: Contents, span: Span):
        name = Source.parse(next(iter(contents.numbers))).stream
        with pytest.raises(StreamNotFoundError) as error:
            recording.numbers(Source(name + "x"), span)
        assert f"{name}x" in str(error.value)
        assert (error.value.todo or "").startswith("Did you mean")
        assert name in (error.value.todo or "")
        for camera in contents.images:
            with pytest.raises(StreamNotFoundError, match="Did you mean"):
                recording.images(Source.parse(camera + "x"), span)

    def test_a_source_names_the_stream_that_is_listed_by_that_name(self, recording: Recording, contents: Contents):
        for text in [*contents.numbers, *contents.images]:
            assert recording.stream_name(Source.parse(text)) == text
        with pytest.raises(StreamNotFoundError, match="Did you mean"):
            recording.stream_name(Source.parse(next(iter([*contents.images, *contents.numbers])) + "x"))

    def test_cameras_can_be_read_by_several_threads_at_once(self, recording: Recording, contents: Contents, span: Span):
        streams = [recording.images(Source.parse(name), span) for name in contents.images] * 2
        alone = [[_bytes(i) for i in stream.packets(range(len(stream.stamps_ns)))] for stream in streams]
        with ThreadPoolExecutor(max_workers=max(1, len(streams))) as pool:
            together = pool.map(lambda stream: [_bytes(i) for i in stream.packets(range(len(stream.stamps_ns)))], streams)
            assert list(together) == alone

    def test_closing_twice_is_fine_and_leaves_no_file_open(self, recording: Recording):
        recording.close()
        recording.close()
        opened = [os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()]
        assert os.path.realpath(recording.path) not in opened


def _bytes(image: EncodedImage) -> bytes:
    return image.data if isinstance(image.data, bytes) else image.data.tobytes()
