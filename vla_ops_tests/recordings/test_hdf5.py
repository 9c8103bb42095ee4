from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.errors import (
    RecordingError,
    SchemaMismatchError,
    StreamNotFoundError,
    UnknownEncodingError,
)
from vla_ops.recordings.arrays import trimmed
from vla_ops.recordings.base import EncodedImage, Source, Span
from vla_ops.recordings.hdf5 import Hdf5Recording
from vla_ops_tests.recordings.contract import Contents, RecordingContract
from vla_ops_tests.recordings.hdf5_files import Written, open_at, write_aloha, write_robomimic
from vla_ops_tests.recordings.pictures import as_jpeg, frame_number, from_bytes


def frame_numbers(images: list[EncodedImage]) -> list[int]:
    return [frame_number(i.data if isinstance(i.data, np.ndarray) else from_bytes(i.data)) for i in images]


class AsContract(RecordingContract):
    """Numbers and two cameras of the first episode of what a writer wrote."""

    written: Written

    @pytest.fixture
    def recording(self, tmp_path) -> Iterator[Hdf5Recording]:
        self.written = self.write(tmp_path / "recording.hdf5")
        with open_at(tmp_path / "recording.hdf5") as recording:
            yield recording

    @pytest.fixture
    def contents(self, recording) -> Contents:
        numbers = {name: np.asarray(values, np.float64) for name, values in self.written.numbers.items()}
        return Contents(numbers, {name: len(p) for name, p in self.written.pictures.items()}, episodes=self.episodes)

    episodes = 1

    def write(self, path: Path) -> Written:
        raise NotImplementedError


class TestAlohaKeepsTheContract(AsContract):
    def write(self, path: Path) -> Written:
        return write_aloha(path, frames=12, compression="gzip", chunk_rows=5)


class TestAlohaWithPaddedJpegsKeepsTheContract(AsContract):
    def write(self, path: Path) -> Written:
        return write_aloha(path, frames=12, images="jpeg_padded")


class TestRobomimicKeepsTheContract(AsContract):
    episodes = 3

    def write(self, path: Path) -> Written:
        return write_robomimic(path, images="jpeg_rows")["demo_1"]


class TestAloha:
    def test_streams_are_listed_with_kind_sample_shape_count_and_stamps(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", frames=30)
        with open_at(tmp_path / "a.hdf5") as recording:
            listed = {s.name: s for s in recording.streams()}
        assert set(listed) == {"/action", "/observations/qpos", "/observations/qvel"} | {
            f"/observations/images/{c}" for c in ("cam_high", "cam_left_wrist", "cam_right_wrist")
        }
        qpos, high = listed["/observations/qpos"], listed["/observations/images/cam_high"]
        assert (qpos.kind, qpos.dtype, qpos.shape, qpos.count) == ("numbers", "float32", (14,), 30)
        assert (high.kind, high.dtype, high.shape, high.encoding) == ("images", "uint8", (48, 80, 3), "raw")
        assert (qpos.first_ns, qpos.last_ns) == (0, 580_000_000)
        assert qpos.rate_hz == pytest.approx(50)

    @pytest.mark.parametrize("spelling", ["/observations/qpos", "observations/qpos"])
    def test_a_source_may_be_written_with_or_without_the_leading_slash(self, tmp_path, spelling):
        written = write_aloha(tmp_path / "a.hdf5")
        with open_at(tmp_path / "a.hdf5") as recording:
            read = recording.numbers(Source.parse(spelling), recording.spans()[0])
        assert read.values.dtype == np.float64
        np.testing.assert_array_equal(read.values, written.numbers["/observations/qpos"])

    def test_without_times_sample_k_is_at_exactly_k_over_the_rate(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", frames=7)
        with open_at(tmp_path / "a.hdf5", rate_hz=30) as recording:
            stamps = recording.numbers(Source.parse("action"), recording.spans()[0]).stamps_ns
        assert stamps.tolist() == [round(k * 1e9 / 30) for k in range(7)]

    def test_without_times_and_rate_reading_is_refused_and_says_what_to_set(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5")
        with open_at(tmp_path / "a.hdf5", rate_hz=None) as recording:
            assert recording.streams()[0].first_ns is None
            with pytest.raises(RecordingError, match="source_rate_hz"):
                recording.numbers(Source.parse("action"), recording.spans()[0])

    @pytest.mark.parametrize("images", ["raw", "jpeg_padded", "jpeg_rows"])
    @pytest.mark.parametrize("compression", [None, "gzip"])
    def test_every_frame_is_read_at_its_index(self, tmp_path, images, compression):
        write_aloha(tmp_path / "a.hdf5", frames=23, images=images, compression=compression, chunk_rows=5)
        with open_at(tmp_path / "a.hdf5") as recording:
            stream = recording.images(Source.parse("/observations/images/cam_high"), recording.spans()[0])
            assert stream.codec == ("raw" if images == "raw" else "jpeg")
            assert len(stream.stamps_ns) == 23
            assert frame_numbers(list(stream.packets(range(23)))) == list(range(23))
            assert frame_numbers(list(stream.packets([0, 0, 4, 5, 5, 22]))) == [0, 0, 4, 5, 5, 22]

    def test_raw_pixels_are_the_pixels_written_in_rgb(self, tmp_path):
        written = write_aloha(tmp_path / "a.hdf5", frames=3)
        name = "/observations/images/cam_high"
        with open_at(tmp_path / "a.hdf5") as recording:
            image = next(iter(recording.images(Source.parse(name), recording.spans()[0]).packets([2])))
        np.testing.assert_array_equal(image.data, written.pictures[name][2])

    def test_raw_pixels_of_a_bgr_stream_are_swapped_whatever_the_spelling(self, tmp_path):
        written = write_aloha(tmp_path / "a.hdf5", frames=3)
        name = "/observations/images/cam_high"
        with open_at(tmp_path / "a.hdf5", bgr_sources=frozenset({"observations/images/cam_high"})) as recording:
            span = recording.spans()[0]
            swapped = next(iter(recording.images(Source.parse(name), span).packets([1])))
            other = next(iter(recording.images(Source.parse("observations/images/cam_left_wrist"), span).packets([1])))
        np.testing.assert_array_equal(swapped.data, written.pictures[name][1][..., ::-1])
        np.testing.assert_array_equal(other.data, written.pictures["/observations/images/cam_left_wrist"][1])

    @pytest.mark.parametrize("compress_len", [False, True])
    def test_padded_jpeg_rows_come_out_as_the_bytes_of_the_jpeg(self, tmp_path, compress_len):
        name = "/observations/images/cam_left_wrist"
        written = write_aloha(tmp_path / "a.hdf5", frames=5, images="jpeg_padded", compress_len=compress_len)
        with open_at(tmp_path / "a.hdf5") as recording:
            images = list(recording.images(Source.parse(name), recording.spans()[0]).packets(range(5)))
        assert [i.data for i in images] == [as_jpeg(p) for p in written.pictures[name]]

    def test_the_task_is_the_text_stored_for_the_steps(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", task="fold the towel")
        with open_at(tmp_path / "a.hdf5") as recording:
            assert recording.spans() == [Span("0", 0, 0, 30, "fold the towel")]

    def test_metadata_are_the_attributes_as_text_cut_at_200_characters(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5")
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file.attrs["metadata_json"] = "x" * 5000
        with open_at(tmp_path / "a.hdf5") as recording:
            metadata = recording.metadata()
        assert metadata["attrs.sim"] == "False"
        assert len(metadata["attrs.metadata_json"]) == 200

    def test_two_cameras_are_read_at_the_same_time_from_two_threads(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", frames=60, compression="gzip", chunk_rows=7)
        with open_at(tmp_path / "a.hdf5") as recording, ThreadPoolExecutor(3) as pool:
            span = recording.spans()[0]
            streams = [recording.images(Source.parse(f"/observations/images/{c}"), span) for c in ("cam_high", "cam_left_wrist")]
            read = list(pool.map(lambda s: frame_numbers(list(s.packets(range(60)))), streams))
        assert read == [list(range(60))] * 2


class TestDemosOfOneNumber:
    def test_none_is_lost_and_all_are_in_natural_order(self, tmp_path):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            for k, name in enumerate(("demo_10", "demo_1", "demo_01", "episode_1", "demo_2")):
                file[f"data/{name}/actions"] = np.full((5, 2), k)
        with open_at(tmp_path / "a.hdf5") as recording:
            spans = recording.spans()
            first = [recording.numbers(Source.parse("actions"), span).values[0, 0] for span in spans]
        assert [(span.name, span.index) for span in spans] == [
            ("demo_01", 0), ("demo_1", 1), ("demo_2", 2), ("demo_10", 3), ("episode_1", 4),
        ]  # fmt: skip
        assert first == [2, 1, 4, 0, 3]


class TestTimes:
    def test_float_seconds_since_the_epoch_are_exact_to_the_microsecond(self, tmp_path):
        times = 1_700_000_000.125 + np.arange(30) / 64
        write_aloha(tmp_path / "a.hdf5", stamps_s=times)
        with open_at(tmp_path / "a.hdf5", time_sources={"*": "observations/timestamps/robot"}) as recording:
            stamps = recording.numbers(Source.parse("action"), recording.spans()[0]).stamps_ns
        assert stamps.tolist() == [1_700_000_000_125_000_000 + k * 15_625_000 for k in range(30)]

    def test_integers_from_1e14_on_are_nanoseconds(self, tmp_path):
        times = 1_700_000_000_000_000_007 + np.arange(30) * 20_000_003
        write_aloha(tmp_path / "a.hdf5", stamps_s=times)
        with open_at(tmp_path / "a.hdf5", time_sources={"/action": "/observations/timestamps/robot"}) as recording:
            span = recording.spans()[0]
            assert recording.numbers(Source.parse("action"), span).stamps_ns.tolist() == times.tolist()
            assert recording.numbers(Source.parse("observations/qpos"), span).stamps_ns[1] == 20_000_000

    @pytest.mark.parametrize(
        ("times", "said"),
        [
            ((1_700_000_000 + np.arange(30) / 50).astype(np.float32), "float32 cannot hold these times"),
            (np.arange(30), "unit of the times cannot be told"),
            (np.where(np.arange(30) == 3, np.nan, np.arange(30)), "not finite"),
            (np.arange(30) * 2e7 + 1.7e18, "not exact"),
            (np.zeros((30, 2)), "not an array of times"),
        ],
    )
    def test_times_that_cannot_be_trusted_are_refused_by_name(self, tmp_path, times, said):
        write_aloha(tmp_path / "a.hdf5", stamps_s=times)
        with (
            open_at(tmp_path / "a.hdf5", time_sources={"*": "/observations/timestamps/robot"}) as recording,
            pytest.raises(RecordingError, match=said) as caught,
        ):
            recording.numbers(Source.parse("action"), recording.spans()[0])
        assert "/observations/timestamps/robot" in str(caught.value)

    def test_times_of_another_length_are_refused_with_both_lengths(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", stamps_s=np.arange(29) / 50)
        with (
            open_at(tmp_path / "a.hdf5", time_sources={"/action": "/observations/timestamps/robot"}) as recording,
            pytest.raises(SchemaMismatchError, match=r"29.*30"),
        ):
            recording.numbers(Source.parse("action"), recording.spans()[0])

    def test_a_stream_of_another_rate_is_read_with_its_own_times(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5", frames=30)
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["force"], file["force_time"] = np.zeros((100, 6)), np.arange(100) / 100
        with open_at(tmp_path / "a.hdf5", time_sources={"force": "force_time"}) as recording:
            read = recording.numbers(Source.parse("/force"), recording.spans()[0])
            listed = next(s for s in recording.streams() if s.name == "/force")
        assert read.values.shape == (100, 6)
        assert (listed.kind, listed.count, listed.last_ns) == ("numbers", 100, 990_000_000)


class TestRobomimic:
    def test_demos_are_spans_in_numeric_order_with_their_own_lengths_and_the_task(self, tmp_path):
        write_robomimic(tmp_path / "r.hdf5", demos=(1, 10, 2), frames=12)
        with open_at(tmp_path / "r.hdf5") as recording:
            spans = recording.spans()
        assert [(s.name, s.index, s.start, s.stop) for s in spans] == [("demo_1", 0, 0, 12), ("demo_2", 1, 0, 14), ("demo_10", 2, 0, 13)]
        assert {s.task for s in spans} == {"put the bowl on the plate"}

    def test_streams_are_named_and_read_relative_to_the_demo(self, tmp_path):
        written = write_robomimic(tmp_path / "r.hdf5")
        with open_at(tmp_path / "r.hdf5") as recording:
            assert {"actions", "obs/agentview_rgb", "obs/robot0_eef_pos"} <= {s.name for s in recording.streams()}
            for span in recording.spans():
                expected = written[span.name]
                np.testing.assert_array_equal(recording.numbers(Source.parse("actions"), span).values, expected.numbers["actions"])
                images = recording.images(Source.parse("/obs/agentview_rgb"), span)
                assert frame_numbers(list(images.packets(range(span.stop or 0)))) == list(range(span.stop or 0))

    @pytest.mark.parametrize(
        ("place", "name", "value"),
        [
            ("/data/demo_1", "ep_meta", '{"lang": "open the drawer"}'),
            ("/data", "language_instruction", '"open the drawer"'),
            ("/data", "problem_info", '{"language_instruction": ["open the drawer"]}'),
            ("/", "task", b"open the drawer"),
        ],
    )
    def test_the_task_is_found_in_the_attributes_where_benchmarks_put_it(self, tmp_path, place, name, value):
        write_robomimic(tmp_path / "r.hdf5", demos=(1,), task=None)
        with h5py.File(tmp_path / "r.hdf5", "a") as file:
            file[place].attrs[name] = value
        with open_at(tmp_path / "r.hdf5") as recording:
            assert [s.task for s in recording.spans()] == ["open the drawer"]

    def test_a_span_that_is_not_there_is_refused_with_those_that_are(self, tmp_path):
        write_robomimic(tmp_path / "r.hdf5")
        with open_at(tmp_path / "r.hdf5") as recording, pytest.raises(RecordingError, match="demo_1, demo_2, demo_10"):
            recording.numbers(Source.parse("actions"), Span("demo_3"))

    def test_real_robosuite_demos_give_their_actions_and_refuse_arrays_of_other_lengths(self, recordings_dir):
        path = recordings_dir / "hdf5" / "robosuite_handover_panda_panda.hdf5"
        with open_at(path, rate_hz=20) as recording:
            spans = recording.spans()
            assert [s.stop for s in spans] == [641, 522, 376, 307, 253, 247, 429]
            assert [recording.numbers(Source.parse("actions"), s).values.shape for s in spans] == [(s.stop, 14) for s in spans]
            listed = {s.name: s for s in recording.streams()}
            counters = listed["controller_info/counters"]
            assert (counters.kind, counters.shape, counters.count) == ("other", (1380,), 1380)
            assert listed["policy_acting"].kind == "numbers"
            with pytest.raises(SchemaMismatchError, match=r"1380.*641"):
                recording.numbers(Source.parse("controller_info/counters"), spans[0])
            assert recording.metadata()["attrs.env"] == "TwoArmHandover"

    def test_a_real_file_whose_only_demo_is_number_one_has_one_span(self, recordings_dir):
        with open_at(recordings_dir / "hdf5" / "robosuite_wipe_panda.hdf5") as recording:
            assert [(s.name, s.index, s.stop) for s in recording.spans()] == [("demo_1", 0, 174)]
            assert {s.name for s in recording.streams()} == {"actions", "joint_torques", "states"}


class TestValues:
    def test_samples_of_rank_0_and_2_become_columns(self, tmp_path):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file["action"], file["flag"], file["keypoints"] = np.zeros((5, 2)), np.arange(5) > 2, np.arange(90).reshape(5, 9, 2)
        with open_at(tmp_path / "a.hdf5") as recording:
            span = recording.spans()[0]
            assert recording.numbers(Source.parse("flag"), span).values.tolist() == [[0], [0], [0], [1], [1]]
            np.testing.assert_array_equal(recording.numbers(Source.parse("keypoints"), span).values, np.arange(90).reshape(5, 18))
            assert recording.numbers(Source.parse("keypoints[0:2]"), span).values[1].tolist() == [18, 19]
            with pytest.raises(SchemaMismatchError, match="18 values a sample"):
                recording.numbers(Source.parse("keypoints[0,18]"), span)

    def test_nan_passes_through(self, tmp_path):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file["action"] = np.array([[0.0], [np.nan]])
        with open_at(tmp_path / "a.hdf5") as recording:
            assert np.isnan(recording.numbers(Source.parse("action"), recording.spans()[0]).values[1, 0])

    def test_names_with_dots_are_datasets(self, tmp_path):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file["action"], file["observation.state"] = np.zeros((5, 2)), np.ones((5, 3))
        with open_at(tmp_path / "a.hdf5") as recording:
            assert recording.numbers(Source.parse("observation.state[0:2]"), recording.spans()[0]).values.shape == (5, 2)

    def test_a_name_that_is_not_there_is_refused_with_the_nearest(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5")
        with open_at(tmp_path / "a.hdf5") as recording, pytest.raises(StreamNotFoundError, match=r"Did you mean '?/observations/qpos"):
            recording.numbers(Source.parse("/observation/qpos"), recording.spans()[0])

    def test_images_are_not_numbers_and_numbers_are_not_images(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5")
        with open_at(tmp_path / "a.hdf5") as recording:
            span = recording.spans()[0]
            with pytest.raises(SchemaMismatchError, match="Map images under `cameras`"):
                recording.numbers(Source.parse("/observations/images/cam_high"), span)
            with pytest.raises(UnknownEncodingError, match="not images"):
                recording.images(Source.parse("/action"), span)

    def test_a_file_without_arrays_has_no_spans_and_no_streams(self, tmp_path):
        h5py.File(tmp_path / "a.hdf5", "w").close()
        with open_at(tmp_path / "a.hdf5") as recording:
            assert recording.spans() == []
            assert recording.streams() == []

    @given(st.binary(min_size=1, max_size=40), st.integers(0, 50), st.binary(max_size=20).filter(lambda b: b"\xff\xd9" not in b))
    def test_trimming_finds_the_end_of_a_jpeg_whatever_follows(self, body, zeros, rest):
        jpeg = b"\xff\xd8\xff" + body.replace(b"\xff", b"\xfe") + b"\xff\xd9"
        assert trimmed(jpeg + b"\0" * zeros) == jpeg
        assert trimmed(jpeg + rest) == jpeg
        assert trimmed(jpeg + rest + b"\xff\xd9", np.array([3, len(jpeg)])) == jpeg
