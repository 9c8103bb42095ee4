from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr

from vla_ops.errors import (
    RecordingError,
    RecordingFormatError,
    SchemaMismatchError,
    StreamNotFoundError,
    UnknownEncodingError,
    UnsafePathError,
)
from vla_ops.recordings.base import EncodedImage, OpenOptions, Source, Span
from vla_ops.recordings.zarr import ZarrRecording
from vla_ops_tests.recordings.contract import Contents, RecordingContract
from vla_ops_tests.recordings.hdf5_files import Written
from vla_ops_tests.recordings.pictures import as_jpeg, frame_number, frame_picture
from vla_ops_tests.recordings.zarr_files import put, write_replay_buffer

CAMERA = Source.parse("camera0_rgb")


def open_at(path: Path, **options: object) -> ZarrRecording:
    return ZarrRecording(str(path), OpenOptions(**{"rate_hz": 60, **options}))  # pyright: ignore[reportArgumentType]


def pixels(image: EncodedImage) -> np.ndarray:
    assert isinstance(image.data, np.ndarray)
    return image.data


@pytest.fixture(params=[(2, "b.zarr"), (2, "b.zarr.zip"), (3, "b.zarr"), (3, "b.zarr.zip")], ids=["v2", "v2-zip", "v3", "v3-zip"])
def buffer(request, tmp_path):
    """A replay buffer of two episodes, 10 and 15 rows."""
    version, name = request.param
    return write_replay_buffer(tmp_path / name, version=version, attributes={"task": "stir the pot"})


@pytest.mark.parametrize(("version", "name"), [(2, "b.zarr"), (2, "b.zarr.zip"), (3, "b.zarr"), (3, "b.zarr.zip")])
class TestReplayBuffersKeepTheContract(RecordingContract):
    @pytest.fixture
    def written(self, tmp_path, version, name) -> Written:
        return write_replay_buffer(tmp_path / name, version=version, cameras=("camera0_rgb", "camera1_rgb"))

    @pytest.fixture
    def recording(self, written) -> Iterator[ZarrRecording]:
        with open_at(written.path) as recording:
            yield recording

    @pytest.fixture
    def contents(self, written) -> Contents:
        numbers = {name: np.asarray(values[:10], np.float64) for name, values in written.numbers.items()}
        return Contents(numbers, dict.fromkeys(written.pictures, 10), episodes=2)


class TestReplayBuffers:
    def test_each_episode_end_makes_a_span_with_the_stores_task(self, buffer):
        with open_at(buffer.path) as recording:
            assert recording.spans() == [Span("0", 0, 0, 10, "stir the pot"), Span("1", 1, 10, 25, "stir the pot")]

    def test_streams_are_those_of_the_first_episode_without_meta(self, buffer):
        with open_at(buffer.path) as recording:
            listed = {s.name: s for s in recording.streams()}
        assert set(listed) == {"data/camera0_rgb", "data/robot0_eef_pos", "data/robot0_eef_rot_axis_angle", "data/robot0_gripper_width"}
        camera, position = listed["data/camera0_rgb"], listed["data/robot0_eef_pos"]
        assert (camera.kind, camera.dtype, camera.shape, camera.count) == ("images", "uint8", (48, 80, 3), 10)
        assert camera.encoding.startswith("raw")
        assert (position.kind, position.shape, position.first_ns, position.last_ns) == ("numbers", (3,), 0, 150_000_000)

    @pytest.mark.parametrize("spelling", ["robot0_eef_pos", "data/robot0_eef_pos", "/data/robot0_eef_pos"])
    def test_a_span_reads_its_own_rows_with_stamps_from_zero(self, buffer, spelling):
        with open_at(buffer.path) as recording:
            read = recording.numbers(Source.parse(spelling), recording.spans()[1])
        np.testing.assert_array_equal(read.values, buffer.numbers["data/robot0_eef_pos"][10:25])
        assert read.stamps_ns.tolist() == [round(k * 1e9 / 60) for k in range(15)]

    def test_every_image_of_a_span_that_begins_inside_a_chunk_is_at_its_index(self, buffer):
        with open_at(buffer.path) as recording:
            stream = recording.images(CAMERA, recording.spans()[1])
            images = [pixels(i) for i in stream.packets([0, 0, 1, 2, 7, 7, 14])]
        for image, row in zip(images, [10, 10, 11, 12, 17, 17, 24], strict=True):
            np.testing.assert_array_equal(image, buffer.pictures["data/camera0_rgb"][row])

    def test_two_cameras_are_read_at_the_same_time_from_two_threads(self, tmp_path):
        write_replay_buffer(tmp_path / "b.zarr.zip", cameras=("camera0_rgb", "camera1_rgb"), episode_ends=(60,))
        with open_at(tmp_path / "b.zarr.zip") as recording, ThreadPoolExecutor(2) as pool:
            streams = [recording.images(Source.parse(f"camera{k}_rgb"), recording.spans()[0]) for k in (0, 1)]
            read = list(pool.map(lambda s: [frame_number(pixels(i)) for i in s.packets(range(60))], streams))
        assert read == [list(range(60))] * 2

    def test_without_episode_ends_the_store_is_one_span(self, tmp_path):
        write_replay_buffer(tmp_path / "b.zarr", episode_ends=None, rows=12)
        with open_at(tmp_path / "b.zarr") as recording:
            assert [(s.start, s.stop) for s in recording.spans()] == [(0, 12)]

    def test_a_zip_that_has_the_store_in_a_folder_is_read(self, tmp_path):
        write_replay_buffer(tmp_path / "b.zarr")
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for file in (tmp_path / "b.zarr").rglob("*"):
                archive.write(file, Path("b.zarr") / file.relative_to(tmp_path / "b.zarr"))
        with open_at(tmp_path / "b.zip") as recording:
            assert recording.numbers(Source.parse("robot0_eef_pos"), recording.spans()[0]).values.shape == (10, 3)

    def test_times_come_from_an_array_of_the_buffer(self, tmp_path):
        write_replay_buffer(tmp_path / "b.zarr", cameras=())
        group = zarr.open_group(tmp_path / "b.zarr")
        put(group, "data/timestamp", 1_700_000_000.5 + np.arange(25)[:, None] / 64, chunk_rows=100)
        with open_at(tmp_path / "b.zarr", time_sources={"*": "timestamp"}) as recording:
            stamps = recording.numbers(Source.parse("robot0_eef_pos"), recording.spans()[1]).stamps_ns
        assert stamps.tolist() == [1_700_000_000_500_000_000 + k * 15_625_000 for k in range(10, 25)]


class TestPixels:
    @pytest.mark.parametrize("scale", ["float 0..1", "float 0..255"])
    def test_float_images_become_the_uint8_pixels_they_were(self, tmp_path, scale):
        written = write_replay_buffer(tmp_path / "b.zarr", pixels=scale)
        with open_at(tmp_path / "b.zarr") as recording:
            listed = next(s for s in recording.streams() if s.kind == "images")
            image = pixels(next(iter(recording.images(CAMERA, recording.spans()[1]).packets([3]))))
        assert listed.encoding.startswith(f"raw float32 {scale.removeprefix('float ')}")
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, written.pictures["data/camera0_rgb"][13])

    def test_black_first_chunks_do_not_decide_the_range_of_float_images(self, tmp_path):
        images = np.zeros((12, 16, 16, 3), np.float32)
        images[9] = 200
        put(zarr.open_group(tmp_path / "b.zarr", mode="w"), "data/img", images, chunk_rows=2, config={"write_empty_chunks": True})
        with open_at(tmp_path / "b.zarr") as recording:
            assert pixels(next(iter(recording.images(Source.parse("img"), recording.spans()[0]).packets([9])))).max() == 200

    def test_float_images_that_leave_their_range_later_are_refused_by_frame(self, tmp_path):
        images = np.full((12, 16, 16, 3), 0.5, np.float32)
        images[9] = 77
        put(zarr.open_group(tmp_path / "b.zarr", mode="w"), "data/img", images, chunk_rows=2)
        with (
            open_at(tmp_path / "b.zarr") as recording,
            pytest.raises(UnknownEncodingError, match=r"frame 9.*from 77 to 77"),
        ):
            list(recording.images(Source.parse("img"), recording.spans()[0]).packets(range(12)))

    def test_float_arrays_below_zero_are_numbers_not_images(self, tmp_path):
        put(zarr.open_group(tmp_path / "b.zarr", mode="w"), "data/tactile", np.full((5, 16, 16, 3), -1.0, np.float32), chunk_rows=5)
        with open_at(tmp_path / "b.zarr") as recording:
            assert recording.numbers(Source.parse("tactile"), recording.spans()[0]).values.shape == (5, 768)

    def test_gray_and_channel_first_images_become_rgb(self, tmp_path):
        pictures = np.stack([frame_picture(k) for k in range(4)])
        group = zarr.open_group(tmp_path / "b.zarr", mode="w")
        put(group, "data/chw", np.moveaxis(pictures, -1, 1), chunk_rows=2)
        put(group, "data/gray", pictures[..., :1], chunk_rows=2)
        with open_at(tmp_path / "b.zarr") as recording:
            span = recording.spans()[0]
            chw = pixels(next(iter(recording.images(Source.parse("chw"), span).packets([3]))))
            gray = pixels(next(iter(recording.images(Source.parse("gray"), span).packets([3]))))
        np.testing.assert_array_equal(chw, pictures[3])
        np.testing.assert_array_equal(gray, np.repeat(pictures[3][..., :1], 3, axis=-1))

    def test_jpeg_rows_of_any_length_are_passed_on_as_they_are(self, tmp_path):
        from zarr.dtype import VariableLengthBytes

        rows = [as_jpeg(frame_picture(k)) for k in range(5)]
        group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
        group.create_array("data/cam", shape=(5,), chunks=(2,), dtype=VariableLengthBytes())[:] = np.array(rows, dtype=object)
        with open_at(tmp_path / "b.zarr") as recording:
            assert recording.streams()[0].encoding == "jpeg"
            assert [i.data for i in recording.images(Source.parse("cam"), recording.spans()[0]).packets(range(5))] == rows

    @pytest.mark.parametrize(
        "codec", ["zlib", "lz4", "zstd", "gzip", "bz2", "lzma", "blosc", "imagecodecs_png", "imagecodecs_jpegxl", "imagecodecs_webp"]
    )
    def test_any_compressor_of_numcodecs_and_imagecodecs_is_read(self, tmp_path, codec):
        from imagecodecs.numcodecs import register_codecs

        register_codecs(verbose=False)
        config = {"id": codec, **({"lossless": True} if codec in ("imagecodecs_jpegxl", "imagecodecs_webp") else {})}
        images = np.stack([frame_picture(k) for k in range(3)])
        group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
        put(group, "data/img", images, chunk_rows=1, compressors=numcodecs.get_codec(config))
        with open_at(tmp_path / "b.zarr") as recording:
            image = pixels(next(iter(recording.images(Source.parse("img"), recording.spans()[0]).packets([2]))))
            assert codec in recording.streams()[0].encoding
        np.testing.assert_array_equal(image, images[2])

    def test_shards_and_image_codecs_of_version_3_are_read(self, tmp_path):
        from imagecodecs.zarr import Jpegxl

        images = np.stack([frame_picture(k) for k in range(6)])
        group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=3)
        put(group, "data/img", images, chunk_rows=1, shards=(4, *images.shape[1:]))
        put(group, "data/jxl", images, chunk_rows=1, serializer=Jpegxl(lossless=True), compressors=None)
        with open_at(tmp_path / "b.zarr") as recording:
            for name in ("img", "jxl"):
                read = [pixels(i) for i in recording.images(Source.parse(name), recording.spans()[0]).packets(range(6))]
                np.testing.assert_array_equal(np.stack(read), images)


class TestRealBuffers:
    def test_umi_jpeg_xl_frames_carry_their_number(self, recordings_dir):
        with open_at(recordings_dir / "zarr" / "umi_bimanual.zarr.zip") as recording:
            assert [(s.start, s.stop) for s in recording.spans()] == [(0, 35), (35, 85), (85, 113)]
            stream = recording.images(Source.parse("camera1_rgb"), recording.spans()[1])
            top = [pixels(i)[0].astype(int) for i in stream.packets([0, 1, 49])]
        assert [np.unique(row).tolist() for row in top] == [[0, 255]] * 3
        assert not np.array_equal(top[0], top[1])

    def test_pusht_float_images_become_uint8(self, recordings_dir):
        with open_at(recordings_dir / "zarr" / "pusht_cchi_v7_replay.zarr.zip", rate_hz=10) as recording:
            spans = recording.spans()
            listed = {s.name: s for s in recording.streams()}
            assert (len(spans), spans[-1].stop) == (206, 25650)
            assert listed["data/img"].encoding == "raw float32 0..255 blosc"
            assert recording.numbers(Source.parse("keypoint"), spans[1]).values.shape == (118, 18)
            image = pixels(next(iter(recording.images(Source.parse("img"), spans[205]).packets([0]))))
        assert (image.dtype, image.shape) == (np.uint8, (96, 96, 3))
        assert image.max() == 255


class TestBadInput:
    @pytest.mark.parametrize(
        ("ends", "rows", "said"),
        [((10, 25), 30, "25.*30"), ((10, 8), 8, "episode 1 ends at 8"), ((0, 8), 8, "episode 0"), ((10, 40), 25, "40.*25")],
    )
    def test_episode_ends_that_do_not_fit_are_refused_with_both_numbers(self, tmp_path, ends, rows, said):
        write_replay_buffer(tmp_path / "b.zarr", episode_ends=ends, rows=rows, cameras=())
        with open_at(tmp_path / "b.zarr") as recording, pytest.raises(SchemaMismatchError, match=said):
            recording.spans()

    @pytest.mark.parametrize("entry", ["../outside", "/etc/outside", "data/../../outside", "C:\\outside", "..\\outside"])
    def test_a_zip_entry_that_escapes_is_refused_by_name(self, tmp_path, entry):
        path = write_replay_buffer(tmp_path / "b.zarr.zip").path
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry, b"")
        with pytest.raises(UnsafePathError, match="outside"):
            open_at(path)

    @pytest.mark.parametrize("target", ["a chunk", "an array", "metadata"])
    def test_a_symbolic_link_out_of_a_folder_is_refused(self, tmp_path, target):
        outside = write_replay_buffer(tmp_path / "outside.zarr").path / "data/robot0_eef_pos"
        path = write_replay_buffer(tmp_path / "b.zarr").path
        entry = {"a chunk": "0.0", "an array": "", "metadata": ".zarray"}[target]
        (path / "data/robot0_eef_pos" / entry).rename(tmp_path / "moved")
        (path / "data/robot0_eef_pos" / entry).symlink_to(outside / entry)

        def read():
            with open_at(path) as recording:
                recording.numbers(Source.parse("robot0_eef_pos"), Span("0", 0, 0, 10))

        with pytest.raises(UnsafePathError, match=r"outside\.zarr"):
            read()

    @pytest.mark.parametrize(("cut", "said"), [(0, "empty"), (20, "truncated.*20 bytes"), (-30, "truncated")])
    def test_a_zip_that_is_cut_off_is_refused_with_its_size(self, tmp_path, cut, said):
        path = write_replay_buffer(tmp_path / "b.zarr.zip").path
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(RecordingFormatError, match=said):
            open_at(path)

    def test_what_is_no_zip_and_no_store_is_refused(self, tmp_path):
        (tmp_path / "text.zip").write_text("no zip")
        (tmp_path / "folder.zarr").mkdir()
        with pytest.raises(RecordingFormatError, match=r"neither .* \(6 bytes\)"):
            open_at(tmp_path / "text.zip")
        with pytest.raises(RecordingFormatError, match="no Zarr array"):
            open_at(tmp_path / "folder.zarr")
        with pytest.raises(RecordingError, match="No such file"):
            open_at(tmp_path / "none.zarr")

    def test_a_compressor_that_is_not_installed_is_named_and_the_rest_is_still_read(self, tmp_path):
        path = write_replay_buffer(tmp_path / "b.zarr").path
        metadata = json.loads((path / "data/camera0_rgb/.zarray").read_text())
        metadata["compressor"] = {"id": "secret_codec"}
        (path / "data/camera0_rgb/.zarray").write_text(json.dumps(metadata))
        with open_at(path) as recording:
            listed = next(s for s in recording.streams() if s.name == "data/camera0_rgb")
            assert (listed.kind, listed.encoding) == ("other", "compressor secret_codec")
            with pytest.raises(UnknownEncodingError, match="secret_codec"):
                recording.images(CAMERA, recording.spans()[0])
            assert recording.numbers(Source.parse("robot0_eef_pos"), recording.spans()[0]).values.shape == (10, 3)

    @pytest.mark.parametrize("version", [2, 3])
    def test_a_damaged_chunk_is_a_format_error_that_names_the_stream(self, tmp_path, version):
        path = write_replay_buffer(tmp_path / "b.zarr", version=version).path
        chunk = path / "data/robot0_eef_pos" / ("0.0" if version == 2 else "c/0/0")
        chunk.write_bytes(b"\0" * 9)
        with open_at(path) as recording, pytest.raises(RecordingFormatError, match="stream data/robot0_eef_pos"):
            recording.numbers(Source.parse("robot0_eef_pos"), recording.spans()[0])

    def test_images_whose_chunk_is_missing_are_not_black_but_refused(self, tmp_path):
        path = write_replay_buffer(tmp_path / "b.zarr").path
        (path / "data/camera0_rgb/2.0.0.0").unlink()
        with open_at(path) as recording:
            stream = recording.images(CAMERA, recording.spans()[0])
            with pytest.raises(RecordingFormatError, match="rows 8 to 12 are not in the store"):
                list(stream.packets(range(10)))

    def test_a_name_that_is_not_there_is_refused_with_the_nearest(self, tmp_path):
        write_replay_buffer(tmp_path / "b.zarr")
        with open_at(tmp_path / "b.zarr") as recording, pytest.raises(StreamNotFoundError, match="data/robot0_eef_pos"):
            recording.numbers(Source.parse("data/robot0_eef_poss"), recording.spans()[0])

    @pytest.mark.parametrize("version", [2, 3])
    def test_numbers_whose_chunk_is_missing_are_read_as_zarr_defines_and_noted_if_they_are_mapped(self, tmp_path, version):
        group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=version)
        for name in ("data/state", "data/action"):
            put(group, name, np.full((100, 2), 1.5), chunk_rows=25)
        for chunk in (1, 3):
            (tmp_path / "b.zarr/data/state" / (f"{chunk}.0" if version == 2 else f"c/{chunk}/0")).unlink()
        said = "data/state: rows 25 to 50, 75 to 100 are not in the store and were read as its fill value 0.0"
        with open_at(tmp_path / "b.zarr", streams=frozenset({"state[0:1]", "action"})) as recording:
            values = recording.numbers(Source.parse("state"), recording.spans()[0]).values
            assert [note[: len(said)] for note in recording.notes()] == [said]
        assert values[[0, 24, 25, 49, 50, 75], 0].tolist() == [1.5, 1.5, 0, 0, 1.5, 0]
        with open_at(tmp_path / "b.zarr", streams=frozenset({"action"})) as recording:
            assert recording.notes() == []

    def test_a_chunk_beside_others_of_the_same_rows_is_missed_too(self, tmp_path):
        group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
        group.create_array("data/state", shape=(10, 4), chunks=(5, 2), dtype="f8")[:] = 1
        (tmp_path / "b.zarr/data/state/1.1").unlink()
        with open_at(tmp_path / "b.zarr") as recording:
            assert [note.partition(" are not")[0] for note in recording.notes()] == ["data/state: rows 5 to 10"]

    def test_missing_numbers_of_an_array_without_a_fill_value_are_refused(self, tmp_path):
        put(zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2), "data/state", np.ones((100, 2)), chunk_rows=25)
        metadata = json.loads((tmp_path / "b.zarr/data/state/.zarray").read_text())
        (tmp_path / "b.zarr/data/state/.zarray").write_text(json.dumps(metadata | {"fill_value": None}))
        (tmp_path / "b.zarr/data/state/1.0").unlink()
        with (
            open_at(tmp_path / "b.zarr") as recording,
            pytest.raises(RecordingFormatError, match=r"numbers of rows 25 to 50 are not in the store \[stream data/state\]"),
        ):
            recording.numbers(Source.parse("state"), recording.spans()[0])


class TestPickles:
    """Files whose reading runs what is in them: here it would make a file."""

    @pytest.fixture
    def made(self, tmp_path) -> Path:
        return tmp_path / "made"

    @pytest.fixture
    def evil(self, tmp_path, made) -> bytes:
        class Evil:
            def __reduce__(self):
                return (Path.touch, (made,))

        return pickle.dumps(Evil())

    def assert_refused(self, path: Path, made: Path) -> None:
        with open_at(path) as recording:
            assert {s.name: s.kind for s in recording.streams()} == {"data/action": "numbers", "data/cam": "other"}
            for read in (recording.numbers, recording.images):
                with pytest.raises(UnknownEncodingError, match=r"codec pickle, which runs code"):
                    read(Source.parse("cam"), recording.spans()[0])
        assert not made.exists()

    @pytest.mark.parametrize("place", ["filters", "compressor"])
    @pytest.mark.parametrize("dtype", ["|O", "|u1"])
    def test_a_codec_that_unpickles_is_refused_by_name_before_anything_is_read(self, tmp_path, evil, made, place, dtype):
        group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
        for name in ("data/action", "data/cam"):
            put(group, name, np.ones((5, 2), np.uint8), chunk_rows=5)
        path = tmp_path / "b.zarr/data/cam"
        codec = {"id": "pickle", "protocol": 5}
        changed = {"dtype": dtype, "fill_value": None, "filters": None, "compressor": None}
        changed |= {place: [codec] if place == "filters" else codec}
        (path / ".zarray").write_text(json.dumps(json.loads((path / ".zarray").read_text()) | changed))
        (path / "0.0").write_bytes(evil)
        self.assert_refused(tmp_path / "b.zarr", made)

    def test_a_codec_that_unpickles_inside_shards_is_refused_too(self, tmp_path, evil, made):
        group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=3)
        put(group, "data/action", np.ones((5, 2), np.uint8), chunk_rows=5)
        put(group, "data/cam", np.ones((4, 2), np.uint8), chunk_rows=2, shards=(4, 2))
        path = tmp_path / "b.zarr/data/cam/zarr.json"
        metadata = json.loads(path.read_text())
        metadata["codecs"][0]["configuration"]["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]
        path.write_text(json.dumps(metadata))
        self.assert_refused(tmp_path / "b.zarr", made)
