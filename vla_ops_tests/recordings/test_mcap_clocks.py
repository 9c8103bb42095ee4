"""The clocks of an MCAP recording: which one is read, and what becomes of one that jumps back."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ops.errors import (
    RecordingError,
    StreamNotFoundError,
)
from vla_ops.recordings.base import Source
from vla_ops_tests.recordings.mcap_files import (
    HEADER_LEAD_NS,
    PUBLISH_LEAD_NS,
    Extras,
    Joints,
    mp4_bytes,
    write_mcap,
    write_samples,
)
from vla_ops_tests.recordings.mcap_reading import ARM, CAMERAS, ENCODINGS, open_mcap, read, samples_of, standard


class TestClocks:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    @pytest.mark.parametrize(("clock", "lead"), [("log", 0), ("publish", PUBLISH_LEAD_NS), ("header", HEADER_LEAD_NS)])
    def test_the_clock_asked_for_is_read(self, tmp_path, encoding, clock, lead):
        path = standard(tmp_path / "0.mcap", encoding)
        with open_mcap(path, clock=clock) as recording:
            stream = recording.images(Source("/cam/wrist"), recording.spans()[0])
        np.testing.assert_array_equal(stream.stamps_ns, CAMERAS["/cam/wrist"].stamps_ns - lead)
        if (encoding, clock) != ("airbot", "header"):
            np.testing.assert_array_equal(read(path, "/joint_states", clock=clock).stamps_ns, ARM.stamps_ns - lead)

    def test_messages_without_a_stamp_of_their_own_are_named(self, tmp_path):
        path = standard(tmp_path / "0.mcap", "airbot")
        with pytest.raises(RecordingError, match=r"no stamp of their own.*/joint_states.*clock: log"):
            read(path, "/joint_states", clock="header")


class TestClockJumps:
    def test_each_run_of_the_clock_is_an_episode_with_its_own_messages(self, tmp_path):
        runs = [Joints(ARM.stamps_ns[: 10 + k], ARM.values[: 10 + k] + k) for k in range(3)]
        samples = [s for arm in runs for s in samples_of(arm)]
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", samples)) as recording:
            spans = recording.spans()
            assert [span.clock_jump for span in spans] == [
                None,
                "the clock of /joint_states jumps back 0.090 s at message 10",
                "the clock of /joint_states jumps back 0.100 s at message 21",
            ]
            for span, arm in zip(spans, runs, strict=True):
                np.testing.assert_array_equal(recording.numbers(Source("/joint_states"), span).values, arm.values)

    def test_a_topic_without_messages_in_a_run_is_named_with_the_run(self, tmp_path):
        samples = [*samples_of(ARM), *samples_of(ARM), *samples_of(ARM, "/late")]
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", samples)) as recording:
            first, second = recording.spans()
            assert len(recording.numbers(Source("/late"), second).values) == len(ARM.values)
            with pytest.raises(StreamNotFoundError, match=r"no messages in this episode \[episode run_0, stream /late\]"):
                recording.numbers(Source("/late"), first)

    def test_only_the_streams_that_will_be_read_divide_a_file(self, tmp_path):
        other = Joints(np.concatenate([ARM.stamps_ns[:10], ARM.stamps_ns[:10]]), ARM.values[:20])
        path = write_mcap(tmp_path / "0.mcap", "ros2", joints={"/arm": ARM, "/other": other}, topic_after_topic=True)
        with open_mcap(path, streams=frozenset({"/arm.position[0:3]"})) as recording:
            assert [span.clock_jump for span in recording.spans()] == [None]
        for streams in (None, frozenset({"/arm", "/other"})):
            with open_mcap(path, streams=streams) as recording:
                assert len(recording.spans()) == 2

    def test_a_stream_that_a_divided_file_was_not_opened_for_is_refused(self, tmp_path):
        other = Joints(np.concatenate([ARM.stamps_ns[:10], ARM.stamps_ns[:10]]), ARM.values[:20])
        path = write_mcap(tmp_path / "0.mcap", "ros2", joints={"/arm": ARM, "/other": other}, topic_after_topic=True)
        with open_mcap(path, streams=frozenset({"/other"})) as recording:
            assert [s.name for s in recording.streams()] == ["/arm", "/other"]
            with pytest.raises(RecordingError, match=r"was not among those it was opened for \[episode run_0, stream /arm\]"):
                recording.numbers(Source.parse("/arm"), recording.spans()[0])

    def test_a_video_cannot_be_divided_among_runs(self, tmp_path):
        video = mp4_bytes(CAMERAS["/cam/high"].pictures, CAMERAS["/cam/high"].stamps_ns)
        extras = Extras(attachments=[("/video", "video/mp4", video)])
        path = write_samples(tmp_path / "0.mcap", "ros2", samples_of(ARM) * 2, extras=extras)
        with open_mcap(path) as recording, pytest.raises(RecordingError, match="divided among the runs"):
            recording.images(Source("/video"), recording.spans()[0])
