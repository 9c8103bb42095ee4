"""Streams whose names hold dots have clocks of their own, and no offset or array of times in a spec is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mcap.writer import Writer

from vla_ops.episodes.align import Alignment, align
from vla_ops.episodes.read import SpanStreams, read_span
from vla_ops.errors import SpecError
from vla_ops.recordings import open_recording
from vla_ops.robot import RobotSpec

START_S = 100


def spec_of(
    kind: str, sources: dict[str, str], *, timeline: dict[str, Any] | None = None, recordings: dict[str, Any] | None = None, **sections: Any
) -> RobotSpec:
    stamps = recordings or ({} if kind == "mcap" else {"source_rate_hz": 10})
    state = [{"source": source, "names": [name], "unit": "rad", "kind": "other"} for name, source in sources.items()]
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "x", "pattern": "*", "format": kind} | stamps,
            "timeline": {"rate_hz": 20, **(timeline or {})},
            "state": state,
            "action": {"from": "next_state"},
            "task": {"text": "stir"},
            "dataset": {"repo_id": "a/b"},
            **sections,
        }
    )


def read(path: Path, spec: RobotSpec) -> SpanStreams:
    with open_recording(str(path), spec.recordings.format, spec.open_options) as recording:
        return read_span(recording, recording.spans()[0], spec)


def aligned(streams: SpanStreams, spec: RobotSpec) -> Alignment:
    return align(list(streams.clocks.values()), spec.timeline)


@pytest.fixture
def dotted(tmp_path: Path) -> Path:
    """`/arm.left` at 50 Hz, `/arm.right` at 100 Hz and `/arm` at 25 Hz: every value is its own time."""
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("q", "jsonschema", b"{}")
        for topic, rate_hz in (("/arm.left", 50), ("/arm.right", 100), ("/arm", 25)):
            channel = writer.register_channel(topic, "json", schema)
            for k in range(10 * rate_hz):
                time_s = START_S + k / rate_hz
                data = json.dumps({"position": [time_s], "velocity": [1.0]}).encode()
                writer.add_message(channel, round(time_s * 1e9), data, round(time_s * 1e9))
        writer.finish()
    return tmp_path / "a.mcap"


BOTH = {"l": "/arm.left.position", "r": "/arm.right.position"}


def test_two_topics_that_differ_after_a_dot_each_have_their_clock(dotted: Path) -> None:
    spec = spec_of("mcap", BOTH)
    streams = read(dotted, spec)
    assert {name: len(clock.stamps_ns) for name, clock in streams.clocks.items()} == {"/arm.left": 500, "/arm.right": 1000}
    (timeline,) = aligned(streams, spec).timelines
    values = streams.vector(spec.state, timeline.placements)
    np.testing.assert_allclose(values, np.stack([timeline.stamps_ns / 1e9] * 2, axis=1))


def test_a_topic_that_is_the_beginning_of_another_has_its_own_clock(dotted: Path) -> None:
    streams = read(dotted, spec_of("mcap", {"p": "/arm.position", "v": "/arm.velocity", "l": "/arm.left.position"}))
    assert {name: len(clock.stamps_ns) for name, clock in streams.clocks.items()} == {"/arm": 250, "/arm.left": 500}


@pytest.mark.parametrize("key", ["/arm.left", "/arm.left.position"])
def test_a_clock_offset_moves_the_dotted_topic_it_names_and_no_other(dotted: Path, key: str) -> None:
    spec = spec_of("mcap", BOTH, timeline={"clock_offsets": {key: 40}})
    streams = read(dotted, spec)
    (timeline,) = aligned(streams, spec).timelines
    values = streams.vector(spec.state, timeline.placements)
    np.testing.assert_allclose(values[:, 1] - values[:, 0], 0.04)


def test_a_clock_offset_of_a_topic_that_is_not_mapped_is_refused(dotted: Path) -> None:
    with pytest.raises(SpecError, match=r"not mapped; found /arm; expected one of: /arm\.left, /arm\.right"):
        read(dotted, spec_of("mcap", BOTH, timeline={"clock_offsets": {"/arm": 40}}))


def test_a_clock_offset_of_a_stream_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, dotted: Path) -> None:
    spec = spec_of("mcap", {"l": "/arm.left.position"}, timeline={"clock_offsets": {"/arm": 40}})
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["arm.left.position"] = np.zeros((10, 1))
    arrays = spec.model_copy(update={"recordings": spec.recordings.model_copy(update={"format": "hdf5", "source_rate_hz": 10})})
    with pytest.raises(SpecError, match=r"names no stream of the recording; found /arm; expected one of: /arm\.left\.position"):
        read(tmp_path / "a.hdf5", arrays)


def test_one_stream_with_two_clock_offsets_is_refused(dotted: Path) -> None:
    offsets = {"/arm.left": 40, "/arm.left.position": 50}
    with pytest.raises(SpecError, match=r"names one stream twice \[stream /arm\.left\]"):
        read(dotted, spec_of("mcap", BOTH, timeline={"clock_offsets": offsets}))


def write_arrays(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["action"] = np.zeros((10, 1))
        file["observation.state"] = np.arange(10.0)[:, None]
        file["observation.time"] = START_S + np.arange(10) / 10
        images = np.zeros((10, 32, 32, 3), np.uint8)
        images[..., 0] = 255
        file["observation.images.front"] = images
    return path


def test_two_spellings_of_one_array_have_one_clock_and_its_offset(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a.hdf5")
    spec = spec_of("hdf5", {"a": "observation.state", "b": "/observation.state", "c": "action"}, timeline={"clock_offsets": {"action": 5}})
    assert sorted(read(path, spec).clocks) == ["/observation.state", "action"]


def test_raw_images_of_an_array_with_dots_in_its_name_are_swapped_from_bgr(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a.hdf5")
    spec = spec_of("hdf5", {"a": "action"}, cameras={"front": {"source": "observation.images.front", "channels": "bgr"}})
    with open_recording(str(path), "hdf5", spec.open_options) as recording:
        _, stream = read_span(recording, recording.spans()[0], spec).cameras["front"]
        image = next(iter(stream.packets([0])))
    assert np.asarray(image.data)[0, 0].tolist() == [0, 0, 255]


def test_times_of_a_stream_that_is_not_there_are_refused(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a.hdf5")
    with pytest.raises(SpecError, match=r"recordings\.times names no stream of the recording; found observation\.stat;.*Did you mean"):
        read(path, spec_of("hdf5", {"a": "action"}, recordings={"times": {"observation.stat": "observation.time"}}))
    for key in ("observation.state", "*"):
        streams = read(path, spec_of("hdf5", {"a": "observation.state"}, recordings={"times": {key: "observation.time"}}))
        assert streams.clocks["/observation.state"].stamps_ns[0] == START_S * 10**9
