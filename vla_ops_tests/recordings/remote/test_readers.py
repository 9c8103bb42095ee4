"""Every reader keeps its contract through a URI, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Recording
from vla_ops.recordings.inspect import describe
from vla_ops.recordings.remote import ranges
from vla_ops_tests.datasets.episode_folders import Kind, spec, write_episodes
from vla_ops_tests.recordings.contract import Contents, RecordingContract
from vla_ops_tests.recordings.hdf5_files import write_aloha
from vla_ops_tests.recordings.mcap_files import Extras, mp4_bytes, write_mcap
from vla_ops_tests.recordings.mcap_reading import ARM, CAMERAS, standard
from vla_ops_tests.recordings.remote.shelves import Shelf, everywhere, in_memory
from vla_ops_tests.recordings.zarr_files import write_replay_buffer
from vla_ops_tests.services.http import HttpServer


@pytest.fixture(autouse=True)
def _small_files_by_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_SMALL_BYTES", 0)


KIND = Kind(cameras=("cam_high", "cam_wrist"))


class ThroughAUri(RecordingContract):
    """The contract for a recording that `write` puts on this machine and the test into a store."""

    format: ClassVar[str]
    options = OpenOptions()

    def write(self, folder: Path) -> tuple[Path, Contents]:
        raise NotImplementedError

    @pytest.fixture
    def shelf(self, request: pytest.FixtureRequest, transport: str) -> Shelf:
        return Shelf(request, transport)

    @pytest.fixture
    def written(self, tmp_path: Path) -> tuple[Path, Contents]:
        (tmp_path / "made").mkdir()
        return self.write(tmp_path / "made")

    @pytest.fixture
    def contents(self, written: tuple[Path, Contents]) -> Contents:
        return written[1]

    @pytest.fixture
    def recording(self, written: tuple[Path, Contents], shelf: Shelf) -> Iterator[Recording]:
        with open_recording(shelf.put(written[0]), self.format, self.options) as recording:
            yield recording

    def test_it_says_the_same_of_itself_as_the_file_here(self, written: tuple[Path, Contents], shelf: Shelf) -> None:
        here, there = describe(written[0], self.options), describe(shelf.put(written[0]), self.options)
        assert there.streams == here.streams
        assert there.spans == here.spans
        assert (there.format, there.metadata, there.notes) == (here.format, here.metadata, here.notes)

    def test_closing_removes_what_was_fetched(self, recording: Recording) -> None:
        recording.spans()
        opened = {os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()}
        folders = {part for path in opened for part in Path(path).parents if part.name.startswith("vla-ops-")}
        recording.close()
        assert not any(folder.exists() for folder in folders)


@everywhere
class TestMcap(ThroughAUri):
    format = "mcap"

    def write(self, folder: Path) -> tuple[Path, Contents]:
        contents = Contents({"/joint_states": ARM.values}, {name: len(c.pictures) for name, c in CAMERAS.items()})
        return standard(folder / "0.mcap"), contents


@everywhere
class TestMcapWithVideoAttachments(ThroughAUri):
    format = "mcap"

    def write(self, folder: Path) -> tuple[Path, Contents]:
        videos = [(name, "video/mp4", mp4_bytes(c.pictures, c.stamps_ns)) for name, c in CAMERAS.items()]
        path = write_mcap(folder / "0.mcap", "airbot", joints={"/joint_states": ARM}, extras=Extras(attachments=videos))
        return path, Contents({"/joint_states": ARM.values}, {name: len(c.pictures) for name, c in CAMERAS.items()})


class Hdf5(ThroughAUri):
    format = "hdf5"
    options = OpenOptions(rate_hz=50)
    settings: ClassVar[dict[str, object]] = {"compression": "gzip", "chunk_rows": 5}

    def write(self, folder: Path) -> tuple[Path, Contents]:
        written = write_aloha(folder / "a.hdf5", frames=12, **self.settings)  # pyright: ignore[reportArgumentType]
        numbers = {name: np.asarray(values, np.float64) for name, values in written.numbers.items()}
        return written.path, Contents(numbers, dict.fromkeys(written.pictures, 12))


@everywhere
class TestHdf5(Hdf5):
    pass


@in_memory
class TestHdf5WithRowsOfAnyLength(Hdf5):
    settings: ClassVar[dict[str, object]] = {"images": "jpeg_rows"}


@in_memory
class TestHdf5ThatIsNotChunked(Hdf5):
    settings: ClassVar[dict[str, object]] = {}


class Zarr(ThroughAUri):
    format = "zarr"
    options = OpenOptions(rate_hz=60)
    name, version = "b.zarr", 2

    def write(self, folder: Path) -> tuple[Path, Contents]:
        written = write_replay_buffer(folder / self.name, version=self.version, cameras=("camera0_rgb", "camera1_rgb"))
        numbers = {name: np.asarray(values[:10], np.float64) for name, values in written.numbers.items()}
        return written.path, Contents(numbers, dict.fromkeys(written.pictures, 10), episodes=2)


@everywhere
class TestZarr2Folder(Zarr):
    pass


@in_memory
class TestZarr3Folder(Zarr):
    version = 3


@in_memory
class TestZarr2Zip(Zarr):
    name = "b.zarr.zip"


@everywhere
class TestZarr3Zip(Zarr):
    name, version = "b.zarr.zip", 3


class LeRobot(ThroughAUri):
    format = "lerobot"
    version = "v3.0"

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contents]:
        from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
        from vla_ops.datasets.lerobot_v21 import write_lerobot_v21

        root = tmp_path_factory.mktemp("made")
        episodes = write_episodes(root / "e", [20, 31], kind=KIND, tasks=["pick", "place"])
        view = write_lerobot_v3(root / "v3", episodes, spec=spec(KIND), robot="arm")
        if cls.version == "v2.1":
            view = write_lerobot_v21(root / "v21", view.folder, episodes, spec=spec(KIND), robot="arm")
        values = pq.read_table(episodes[0].frames)
        numbers = {name: np.array(values[name].to_pylist()) for name in ("observation.state", "action")}
        return view.folder, Contents(numbers, {f"observation.images.{camera}": 20 for camera in KIND.cameras}, episodes=2)

    @pytest.fixture
    def written(self, made: tuple[Path, Contents]) -> tuple[Path, Contents]:
        return made


@everywhere
class TestLeRobot30(LeRobot):
    pass


@in_memory
class TestLeRobot21(LeRobot):
    version = "v2.1"


READ = """
import sys
from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Source
from vla_ops.recordings.place import as_place, saying_failure
from vla_ops.recordings.remote import fetch, ranges

fetch._FIRST_WAIT_S, ranges._SMALL_BYTES = 0.001, 0
place = as_place(sys.argv[1])
try:
    with saying_failure(place), open_recording(place, "hdf5", OpenOptions(rate_hz=50)) as recording:
        images = recording.images(Source.parse("/observations/images/cam_right_wrist"), recording.spans()[0])
        assert sum(1 for _ in images.packets(range(200))) == 200
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("last", [1, 2])
def test_a_process_in_which_an_hdf5_file_could_not_be_read_ends_well(http: HttpServer, last: int) -> None:
    write_aloha(http.folder / "a.hdf5", frames=200)
    http.trouble = lambda _request, number: 403 if number > last else "none"
    ended = subprocess.run([sys.executable, "-c", READ, f"{http.uri}/a.hdf5"], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("OutOfReachError\n", 0), ended.stderr
