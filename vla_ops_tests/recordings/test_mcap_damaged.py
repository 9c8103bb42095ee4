"""MCAP files that are cut off or damaged: what is refused, and what of them can be kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType

from vla_ops.errors import (
    RecordingError,
    RecordingFormatError,
    SchemaMismatchError,
)
from vla_ops.recordings.base import Source
from vla_ops_tests.recordings.mcap_files import (
    rewritten,
)
from vla_ops_tests.recordings.mcap_reading import ARM, open_mcap, read, standard


@pytest.fixture
def plain(tmp_path) -> Path:
    return standard(tmp_path / "plain.mcap")


class TestDamagedFiles:
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
    def test_a_file_cut_off_is_refused_and_says_how_much_is_whole(self, plain, tmp_path, share):
        cut = self.cut(plain, tmp_path, share)
        with pytest.raises(
            RecordingFormatError,
            match=r"cut off.*byte \d+.*(0 messages in 0 chunks.*no message|messages in \d+ chunks.*truncated: keep_whole)",
        ):
            open_mcap(cut)

    @pytest.mark.parametrize("chunked", [True, False])
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    def test_what_is_whole_can_be_kept(self, plain, tmp_path, share, chunked):
        source = rewritten(plain, tmp_path / "w.mcap", chunked=chunked, chunk_size=4_000)
        numbers = read(self.cut(source, tmp_path, share), "/joint_states", allow_truncated=True)
        count = len(numbers.values)
        assert 0.15 * len(ARM.values) < count < len(ARM.values) or share > 0.9
        np.testing.assert_array_equal(numbers.values, ARM.values[:count])
        np.testing.assert_array_equal(numbers.stamps_ns, ARM.stamps_ns[:count])

    def test_zeros_in_place_of_the_end_are_a_cut(self, plain, tmp_path):
        data = plain.read_bytes()
        (tmp_path / "z.mcap").write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
        with pytest.raises(RecordingFormatError, match="cut off"):
            open_mcap(tmp_path / "z.mcap")
        assert 0 < len(read(tmp_path / "z.mcap", "/joint_states", allow_truncated=True).values) < len(ARM.values)

    @pytest.mark.parametrize("step", [997])
    def test_every_cut_is_either_read_or_refused_as_a_recording_error(self, plain, tmp_path, step):
        size = plain.stat().st_size
        for end in [*range(8, size, step), size - 1]:
            (tmp_path / "c.mcap").write_bytes(plain.read_bytes()[:end])
            with open_mcap(tmp_path / "c.mcap", allow_truncated=True) as recording:
                listed = {s.name: s.count for s in recording.streams()}
                if listed.get("/joint_states"):
                    numbers = recording.numbers(Source("/joint_states"), recording.spans()[0])
                    np.testing.assert_array_equal(numbers.values, ARM.values[: listed["/joint_states"]])

    def test_flipped_bytes_never_raise_anything_but_recording_errors(self, plain, tmp_path):
        random, refused = np.random.default_rng(0), 0
        for _ in range(60):
            data = bytearray(plain.read_bytes())
            for at in random.integers(8, len(data), 5):
                data[at] ^= int(random.integers(1, 256))
            (tmp_path / "f.mcap").write_bytes(data)
            try:
                with open_mcap(tmp_path / "f.mcap", allow_truncated=True) as recording:
                    for info in recording.streams():
                        if info.kind == "numbers":
                            recording.numbers(Source(info.name), recording.spans()[0])
            except (RecordingError, SchemaMismatchError):
                refused += 1
        # Some bytes matter and some do not; anything else that is raised fails the test.
        assert 0 < refused <= 60

    def test_an_empty_file_is_named(self, tmp_path):
        (tmp_path / "0.mcap").touch()
        with pytest.raises(RecordingFormatError, match="the file is empty"):
            open_mcap(tmp_path / "0.mcap")

    def test_a_file_that_is_not_there_and_a_folder_are_recording_errors(self, tmp_path):
        with pytest.raises(RecordingError, match="No such file"):
            open_mcap(tmp_path / "none.mcap")
        with pytest.raises(RecordingError):
            open_mcap(tmp_path)

    def test_a_damaged_chunk_is_found_by_its_crc(self, plain, tmp_path):
        path = rewritten(plain, tmp_path / "n.mcap", compression=CompressionType.NONE)
        data = bytearray(path.read_bytes())
        with open_mcap(path) as recording:
            chunk = recording._index.contents.chunks[0]
        data[chunk.start + chunk.size - 5] ^= 1
        path.write_bytes(data)
        with pytest.raises(RecordingFormatError, match=r"chunk is damaged.*CRC"):
            read(path, "/joint_states")

    def test_reading_after_closing_says_so(self, plain):
        recording = open_mcap(plain)
        span = recording.spans()[0]
        recording.close()
        with pytest.raises(RecordingError, match="closed"):
            recording.numbers(Source("/joint_states"), span)

    def test_no_file_stays_open(self, plain, tmp_path):
        (tmp_path / "bad.mcap").write_bytes(b"PACM" * 20)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with open_mcap(plain) as recording:
                recording.streams()
            with pytest.raises(RecordingFormatError):
                open_mcap(tmp_path / "bad.mcap")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    @staticmethod
    def cut(source: Path, folder: Path, share: float) -> Path:
        data = source.read_bytes()
        (folder / "cut.mcap").write_bytes(data[: int(len(data) * share)])
        return folder / "cut.mcap"
