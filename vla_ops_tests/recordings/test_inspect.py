from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from mcap.writer import Writer

from vla_ops.errors import RecordingError, RecordingFormatError, UnsafePathError
from vla_ops.recordings import FORMATS, open_recording
from vla_ops.recordings.base import Span
from vla_ops.recordings.inspect import Description, describe, render, sniff_format
from vla_ops.recordings.suggest import suggest_yaml
from vla_ops_tests.recordings.described import EPOCH, described, loaded, stream
from vla_ops_tests.recordings.hdf5_files import write_aloha, write_robomimic
from vla_ops_tests.recordings.zarr_files import write_replay_buffer


class TestSniffing:
    def test_the_content_decides_and_not_the_name(self, tmp_path):
        write_aloha(tmp_path / "recording.bin")
        write_replay_buffer(tmp_path / "buffer.bin.zip").path.rename(tmp_path / "buffer.bin")
        (tmp_path / "r.dat").write_bytes(b"\x89MCAP0\r\n")
        assert sniff_format(tmp_path / "recording.bin") == "hdf5"
        assert sniff_format(tmp_path / "buffer.bin") == "zarr"
        assert sniff_format(tmp_path / "r.dat") == "mcap"

    @pytest.mark.parametrize("version", [2, 3])
    def test_a_store_in_a_folder_is_zarr_whatever_its_name(self, tmp_path, version):
        write_replay_buffer(tmp_path / "buffer", version=version)
        assert sniff_format(tmp_path / "buffer") == "zarr"

    def test_a_damaged_file_goes_to_the_reader_its_name_says_which_tells_what_is_wrong(self, tmp_path):
        (tmp_path / "a.hdf5").write_bytes(b"")
        with pytest.raises(RecordingFormatError, match="empty"):
            describe(tmp_path / "a.hdf5")

    @pytest.mark.parametrize("name", ["a.mcap", "a.hdf5", "a.zarr.zip", "a"])
    def test_a_file_of_no_bytes_is_called_empty_whatever_its_name(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(RecordingFormatError, match="the file is empty"):
            describe(tmp_path / name)

    def test_a_folder_with_the_name_of_a_file_is_called_a_folder(self, tmp_path):
        for name in ("x.mcap", "x.hdf5"):
            (tmp_path / name).mkdir()
            with pytest.raises(RecordingFormatError, match="a folder"):
                describe(tmp_path / name)
            with pytest.raises(RecordingFormatError, match=r"a folder, and .*recordings\.pattern"):
                open_recording(str(tmp_path / name), name[2:])

    def test_what_is_nothing_known_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_text("hello")
        (tmp_path / "folder").mkdir()
        with pytest.raises(RecordingFormatError, match="5 bytes beginning with b'hello'"):
            describe(tmp_path / "a.txt")
        with pytest.raises(RecordingFormatError, match="folder that is no recording"):
            describe(tmp_path / "folder")
        with pytest.raises(RecordingError, match="No such file"):
            describe(tmp_path / "none.txt")

    def test_errors_name_the_file(self, tmp_path):
        write_aloha(tmp_path / "a.hdf5")
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["out"] = h5py.ExternalLink("b.hdf5", "/x")
        with pytest.raises(UnsafePathError, match=r"file .*a\.hdf5"):
            describe(tmp_path / "a.hdf5")


class TestRendering:
    def test_columns_are_aligned_and_lines_fit_a_terminal(self, tmp_path):
        write_robomimic(tmp_path / "r.hdf5")
        with h5py.File(tmp_path / "r.hdf5", "a") as file:
            file["data"].attrs["model"] = "<mujoco>" * 200
            file["data/demo_1/" + "a_very_long_group_name/" * 8 + "values"] = np.zeros((12, 3))
        text = render(describe(tmp_path / "r.hdf5"))
        lines = text.splitlines()
        header = next(line for line in lines if line.startswith("stream "))
        rows = lines[lines.index(header) + 1 :][:8]
        assert max(map(len, lines)) <= 140
        assert all(row[header.index("kind") :].startswith(("numbers", "images", "other")) for row in rows)
        assert "3 episodes of 12 to 14 steps, 39 in all: demo_1, demo_2, demo_10" in text
        assert "task: put the bowl on the plate" in text
        assert "source_rate_hz" in text
        assert "uv run dg check defs" in text
        assert "uv run vla-ops status ROBOT" in text

    def test_times_are_relative_to_the_first_stream_and_another_clock_is_named(self):
        late = replace(stream("/late"), first_ns=EPOCH + 500_000_000, last_ns=EPOCH + 4_000_000_000)
        text = render(described(stream("/a"), late, stream("/b"), stream("/cam", start=8_000 * 10**9)))
        assert "0.000 .. 3.960 s" in text
        assert "0.500 .. 4.000 s" in text
        assert "25.00 Hz" in text
        assert "another clock, 3.96 s" in text
        assert "clock_offsets: {/cam: start}" in text

    def test_the_table_of_many_episodes_says_that_it_is_of_the_first_and_one_of_one_episode_does_not(self, tmp_path):
        write_robomimic(tmp_path / "r.hdf5")
        write_aloha(tmp_path / "a.hdf5")
        assert "\nstreams of episode 0 of 3\nstream " in render(describe(tmp_path / "r.hdf5"))
        assert "streams of episode" not in render(describe(tmp_path / "a.hdf5"))

    def test_clock_jumps_beyond_five_are_counted_and_not_listed(self):
        spans = tuple(Span(f"run_{k}", k, clock_jump=f"back {k} s" if k else None) for k in range(9))
        text = render(replace(described(stream("/a")), spans=spans))
        assert text.count("jumped back") == 5
        assert "run_5 begins" in text
        assert "run_6 begins" not in text
        assert "and 3 more" in text
        assert "more" not in render(replace(described(stream("/a")), spans=spans[:6]))

    def test_a_rate_from_stamps_that_are_all_alike_is_not_shown_and_sets_no_timeline(self):
        burst = replace(stream("/joints"), last_ns=EPOCH + 407)
        assert " Hz" not in render(described(burst))
        assert loaded(suggest_yaml(described(burst), "arm")).timeline.rate_hz == 30
        assert "1000.00 Hz" in render(described(replace(burst, last_ns=EPOCH + 99 * 10**6)))

    def test_an_empty_recording_says_that_there_is_nothing_to_convert(self):
        assert "nothing in it to convert" in render(Description("/a.mcap", "mcap", 0, (), ()))

    def test_a_recording_of_texts_alone_says_that_there_is_nothing_to_convert_and_no_yaml_is_made_of_it(self):
        texts = described(stream("/log", kind="other"))
        assert "nothing in it to convert" in render(texts)
        with pytest.raises(RecordingFormatError, match="no numeric stream and no camera"):
            suggest_yaml(texts, "arm")


def test_a_zip_that_is_no_store_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(RecordingFormatError, match="no Zarr array"):
        describe(tmp_path / "a.zip")


def write_mcap(path: Path) -> None:
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("Value", "jsonschema", b'{"type": "object", "properties": {"v": {"type": "number"}}}')
        channel = writer.register_channel("/a", "json", schema)
        for k in range(50):
            writer.add_message(channel, EPOCH + k * 10**8, b'{"v": %d}' % k, EPOCH + k * 10**8)
        writer.finish()


@pytest.mark.parametrize("said", FORMATS)
@pytest.mark.parametrize("real", [*FORMATS, "zarr folder"])
def test_a_reader_that_gets_a_file_of_another_format_says_to_check_the_format(tmp_path, said, real):
    path = tmp_path / "recording"
    if real == "mcap":
        write_mcap(path)
    elif real == "hdf5":
        write_aloha(path)
    elif real == "lerobot":
        (path / "meta").mkdir(parents=True)
        (path / "meta/info.json").write_text('{"codebase_version": "v2.1", "fps": 30, "features": {}}')
    else:
        write_replay_buffer(tmp_path / ("recording" if real == "zarr folder" else "recording.zip")).path.rename(path)
    if said == real.partition(" ")[0]:
        open_recording(str(path), said).close()
        return
    with pytest.raises(RecordingFormatError, match=rf"check `recordings\.format`, which says {said}") as refused:
        open_recording(str(path), said)
    assert "again from the robot" not in str(refused.value)


def test_a_cut_mcap_is_told_to_keep_the_whole_part_only_where_there_is_one(tmp_path):
    write_mcap(tmp_path / "whole.mcap")
    data = (tmp_path / "whole.mcap").read_bytes()
    (tmp_path / "late.mcap").write_bytes(data[:-20])
    (tmp_path / "early.mcap").write_bytes(data[:60])
    with pytest.raises(RecordingFormatError, match=r"50 messages.*keep_whole"):
        describe(tmp_path / "late.mcap")
    with pytest.raises(RecordingFormatError, match=r"0 messages.*no message in it is whole") as refused:
        describe(tmp_path / "early.mcap")
    assert "keep_whole" not in str(refused.value)
