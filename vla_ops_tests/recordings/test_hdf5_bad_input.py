"""HDF5 files that lead out of themselves, are not whole or are damaged."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_ops.errors import (
    RecordingError,
    RecordingFormatError,
    UnknownEncodingError,
    UnsafePathError,
    VlaOpsError,
)
from vla_ops.recordings.base import Source, Span
from vla_ops.recordings.hdf5 import Hdf5Recording
from vla_ops_tests.recordings.hdf5_files import AT_50_HZ, open_at, write_aloha, write_images, write_robomimic
from vla_ops_tests.recordings.pictures import frame_picture


def break_link(file: h5py.File, kind: str, outside: Path) -> str:
    """Put something that leaves the file into it; return its name."""
    match kind:
        case "external link":
            file["observations/bad"] = h5py.ExternalLink(outside.name, "/observations/qpos")
        case "link to a group":
            file["bad"] = h5py.ExternalLink(outside.name, "/observations")
            return "bad/qpos"
        case "soft link over an external one":
            file["elsewhere"] = h5py.ExternalLink(outside.name, "/")
            file["observations/bad"] = h5py.SoftLink("/elsewhere/observations/qpos")
        case "external storage":
            file.create_dataset("observations/bad", (30, 2), "u1", external=[(str(outside), 0, 60)])
        case _:
            layout = h5py.VirtualLayout((30, 14), "f4")
            layout[...] = h5py.VirtualSource(str(outside), "/observations/qpos", (30, 14))
            file.create_virtual_dataset("observations/bad", layout)
    return "observations/bad"


class TestBadInput:
    @pytest.mark.parametrize("kind", ["external link", "link to a group", "soft link over an external one", "external storage", "virtual"])
    def test_what_leads_out_of_the_file_is_refused_when_listed_and_when_read(self, tmp_path, kind):
        outside = write_aloha(tmp_path / "outside.hdf5", cameras=()).path
        write_aloha(tmp_path / "a.hdf5", cameras=())
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            name = break_link(file, kind, outside)
        with open_at(tmp_path / "a.hdf5") as recording:
            with pytest.raises(UnsafePathError, match=r"outside\.hdf5") as caught:
                recording.numbers(Source.parse(name), Span("0"))
            assert "bad" in str(caught.value)
            with pytest.raises(UnsafePathError, match=r"outside\.hdf5"):
                recording.streams()
            assert recording.numbers(Source.parse("action"), Span("0")).values.shape == (30, 14)

    def test_a_demo_that_is_an_external_link_is_refused(self, tmp_path):
        write_robomimic(tmp_path / "outside.hdf5")
        write_robomimic(tmp_path / "r.hdf5", demos=(0,))
        with h5py.File(tmp_path / "r.hdf5", "a") as file:
            file["data/demo_5"] = h5py.ExternalLink("outside.hdf5", "/data/demo_1")
        with open_at(tmp_path / "r.hdf5") as recording, pytest.raises(UnsafePathError, match="demo_5"):
            recording.spans()

    def test_soft_links_inside_the_file_are_followed_and_circles_end(self, tmp_path):
        written = write_aloha(tmp_path / "a.hdf5", cameras=())
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["state"] = h5py.SoftLink("/observations/qpos")
            file["observations/up"] = h5py.SoftLink("/")
            file["round"] = h5py.SoftLink("/about")
            file["about"] = h5py.SoftLink("/round")
        with open_at(tmp_path / "a.hdf5") as recording:
            np.testing.assert_array_equal(recording.numbers(Source.parse("state"), Span("0")).values, written.numbers["/observations/qpos"])
            with pytest.raises(UnsafePathError, match="lead to each other"):
                recording.streams()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "empty.*0 bytes"),
            (b"not an hdf5 file at all", "23 bytes beginning with b'not an h"),
            (None, r"truncated or corrupt \(\d+ bytes\)"),
        ],
    )
    def test_a_file_that_is_not_whole_is_refused_with_its_size(self, tmp_path, content, said):
        path = tmp_path / "a.hdf5"
        if content is None:
            write_aloha(path)
            path.write_bytes(path.read_bytes()[:-5000])
        else:
            path.write_bytes(content)
        with pytest.raises(RecordingFormatError, match=said):
            Hdf5Recording(str(path), AT_50_HZ)

    def test_a_partial_file_is_refused_as_crashed(self, tmp_path):
        path = write_aloha(tmp_path / "a.hdf5.partial").path
        with pytest.raises(RecordingFormatError, match="crashed"):
            Hdf5Recording(str(path), AT_50_HZ)

    def test_a_file_that_is_not_there_is_a_recording_error(self, tmp_path):
        with pytest.raises(RecordingError, match="No such file"):
            Hdf5Recording(str(tmp_path / "none.hdf5"), AT_50_HZ)

    def test_a_filter_that_is_not_installed_is_named_and_the_rest_is_still_listed(self, tmp_path):
        path = tmp_path / "a.hdf5"
        with h5py.File(path, "w") as file:
            file["action"] = np.zeros((5, 2))
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((5, 2))
            # An optional filter that nobody has: HDF5 leaves it out on writing and demands it on reading.
            plist.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
            h5py.h5d.create(file.id, b"packed", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((5, 2)), plist)
        with open_at(path) as recording:
            packed = next(s for s in recording.streams() if s.name == "/packed")
            assert (packed.kind, packed.encoding) == ("other", "HDF5 filter 32999")
            with pytest.raises(UnknownEncodingError, match="32999"):
                recording.numbers(Source.parse("packed"), Span("0"))
            assert recording.numbers(Source.parse("action"), Span("0")).values.shape == (5, 2)

    def test_a_damaged_chunk_is_a_format_error_that_names_the_stream(self, tmp_path):
        path = tmp_path / "a.hdf5"
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("action", data=np.random.default_rng(0).random((50, 14)), chunks=(50, 14), compression="gzip")
            chunk = dataset.id.get_chunk_info(0)
        damaged = bytearray(path.read_bytes())
        damaged[chunk.byte_offset + 10 : chunk.byte_offset + 40] = bytes(30)
        path.write_bytes(damaged)
        with open_at(path) as recording, pytest.raises(RecordingFormatError, match="stream /action"):
            recording.numbers(Source.parse("action"), Span("0"))

    def test_a_row_that_is_no_jpeg_among_jpegs_is_named_by_its_frame(self, tmp_path):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            write_images(file, "cam", [frame_picture(k) for k in range(4)], "jpeg_rows")[2] = np.zeros(10, np.uint8)
        with open_at(tmp_path / "a.hdf5") as recording:
            stream = recording.images(Source.parse("cam"), Span("0"))
            with pytest.raises(RecordingFormatError, match=r"frame 2.*no bytes"):
                list(stream.packets(range(4)))

    def test_rows_of_unknown_bytes_are_refused_with_those_known(self, tmp_path):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file["action"] = np.zeros((2, 1))
            file.create_dataset("cam", (2,), dtype=h5py.vlen_dtype(np.uint8))[:] = [np.arange(9, dtype=np.uint8)] * 2
        with open_at(tmp_path / "a.hdf5") as recording, pytest.raises(UnknownEncodingError, match=r"9 bytes beginning with.*JPEG"):
            recording.images(Source.parse("cam"), Span("0"))

    @pytest.mark.parametrize("order", [[3, 2], [-1], [30]])
    def test_indices_that_fall_or_lie_outside_are_refused(self, tmp_path, order):
        write_aloha(tmp_path / "a.hdf5", frames=30)
        with open_at(tmp_path / "a.hdf5") as recording:
            stream = recording.images(Source.parse("observations/images/cam_high"), Span("0"))
            with pytest.raises(IndexError):
                list(stream.packets(order))

    def test_errors_are_all_of_one_tree(self):
        assert issubclass(UnsafePathError, VlaOpsError)
