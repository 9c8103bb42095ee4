from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.errors import DatasetError, LoaderError, PromptError
from vla_ops.training.data import Batch, Cache, Frames, InOrder, Loaded, Loader, Shuffled, read_frames
from vla_ops.training.data.crew import Processes
from vla_ops_tests.training.datasets import CAMERAS, write_v3, write_v21

LENGTHS = [9, 4, 12, 6]
# Images are 64 x 96: with this size they are not resized, but stand between two bars.
SIZE, BARS = 96, 16


@pytest.fixture(scope="module", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLA_OPS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("datasets")
    return {"h264": write_v3(root / "h264", LENGTHS), "v21": write_v21(root / "v21", LENGTHS)}


@pytest.fixture(scope="module")
def frames(folders: dict[str, Path]) -> Frames:
    return read_frames(folders["h264"], cameras=CAMERAS)


def load(frames: Frames, count: int, **options: object) -> list[Loaded]:
    order = Shuffled(frames.training_rows(), seed=3)
    with Loader(frames, order, **{"batch_size": 4, "horizon": 5, "size": SIZE, "workers": 0, **options}) as loader:  # pyright: ignore[reportArgumentType]
        return list(islice(loader, count))


def assert_same(found: list[Loaded], expected: list[Loaded]) -> None:
    assert [loaded.state for loaded in found] == [loaded.state for loaded in expected]
    for one, other in zip(found, expected, strict=True):
        assert_same_batch(one.batch, other.batch)


def assert_same_batch(one: Batch, other: Batch) -> None:
    for name in ("state", "actions", "action_is_pad", "episode", "frame", "index", "valid"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.prompts == other.prompts
    for camera in one.images:
        np.testing.assert_array_equal(one.images[camera], other.images[camera], err_msg=camera)


def test_a_v21_dataset_gives_the_batches_of_its_v30_twin(folders: dict[str, Path], frames: Frames) -> None:
    assert_same(load(read_frames(folders["v21"], cameras=CAMERAS), 8), load(frames, 8))


def test_images_are_resized_as_policies_do(frames: Frames) -> None:
    from vla_ops.policies.images import resize_with_pad

    for small, whole in zip(load(frames, 4, size=40), load(frames, 4), strict=True):
        for camera in CAMERAS:
            expected = resize_with_pad(whole.batch.images[camera][:, BARS:-BARS], height=40, width=40)
            np.testing.assert_array_equal(small.batch.images[camera], expected)


def test_a_fast_resize_places_images_alike_and_is_near(tmp_path: Path) -> None:
    for height, width in ((64, 96), (96, 96), (120, 96), (70, 200)):
        frames = read_frames(write_v3(tmp_path / f"{height}x{width}", [4], height=height, width=width), cameras=CAMERAS)
        for fast, exact in zip(load(frames, 1, size=40, resize="fast"), load(frames, 1, size=40), strict=True):
            for camera in CAMERAS:
                one, other = fast.batch.images[camera].astype(int), exact.batch.images[camera].astype(int)
                for across in (1, 2):
                    assert (one.any(axis=(0, across, 3)) == other.any(axis=(0, across, 3))).all()
                # Outside the barcode, whose edges are as sharp as they can be, the picture is of one color.
                assert np.median(np.abs(one - other)) <= 2


def test_batches_do_not_depend_on_workers_or_prefetch(frames: Frames) -> None:
    expected = load(frames, 12)
    assert_same(load(frames, 12, workers=1, prefetch=1), expected)
    assert_same(load(frames, 12, workers=3, prefetch=4), expected)


@settings(max_examples=12, deadline=None)
@given(batch_size=st.sampled_from([1, 2, 4, 6]), stop=st.integers(1, 15), seed=st.integers(0, 9))
def test_a_run_that_is_resumed_reads_what_the_one_that_was_not_killed_reads(
    folders: dict[str, Path], batch_size: int, stop: int, seed: int
) -> None:
    frames = read_frames(folders["h264"], cameras=())
    order = Shuffled(frames.training_rows(), seed=seed)

    def batches(state: dict[str, int] | None, count: int) -> list[Loaded]:
        with Loader(frames, order, batch_size=batch_size, horizon=2, workers=0, state=state) as loader:
            return list(islice(loader, count))

    whole = batches(None, stop + 5)
    state = json.loads(json.dumps(whole[stop - 1].state))
    assert_same(batches(state, 5), whole[stop:])


def test_the_loaders_state_is_that_of_the_last_batch_given_out(frames: Frames) -> None:
    with Loader(frames, Shuffled(frames.training_rows(), seed=3), batch_size=4, horizon=5, size=SIZE, workers=2, prefetch=3) as loader:
        assert loader.state == {"seed": 3, "epoch": 0, "position": 0, "frames": 31}
        given_out = [next(loader) for _ in range(9)]
        assert loader.state == given_out[-1].state == {"seed": 3, "epoch": 1, "position": 5, "frames": 31}
        state, following = loader.state, list(islice(loader, 3))
        assert loader.batches == 12
        assert loader.waited_s > 0
    assert_same(load(frames, 3, state=state), following)


@settings(max_examples=15, deadline=None)
@given(hosts=st.sampled_from([1, 2, 3, 6]), a_host=st.integers(1, 3), ends=st.booleans())
def test_hosts_share_a_batch_without_overlap(folders: dict[str, Path], hosts: int, a_host: int, ends: object) -> None:
    frames = read_frames(folders["h264"], cameras=())
    rows = frames.training_rows()
    order = InOrder(rows) if ends else Shuffled(rows, seed=0)

    def batches(index: int, count: int) -> list[Loaded]:
        options = {"process_index": index, "process_count": count}
        with Loader(frames, order, batch_size=hosts * a_host, horizon=2, workers=0, **options) as loader:
            return list(islice(loader, 6))

    whole, parts = batches(0, 1), [batches(k, hosts) for k in range(hosts)]
    for number, loaded in enumerate(whole):
        for name in ("index", "valid", "state"):
            together = np.concatenate([getattr(part[number].batch, name) for part in parts])
            np.testing.assert_array_equal(together, getattr(loaded.batch, name))
        assert {tuple(part[number].state.items()) for part in parts} == {tuple(loaded.state.items())}


def test_a_validation_set_ends_and_its_last_batch_is_filled_up(tmp_path: Path) -> None:
    frames = read_frames(write_v3(tmp_path, LENGTHS, held_out=(1, 3)), cameras=CAMERAS)
    training = np.concatenate([loaded.batch.episode for loaded in load(frames, 30)])
    assert set(training.tolist()) == {0, 2}
    with Loader(frames, InOrder(frames.validation_rows()), batch_size=4, horizon=2, size=SIZE, workers=2) as loader:
        batches = [loaded.batch for loaded in loader]
    assert [batch.valid.tolist() for batch in batches] == [[True] * 4, [True] * 4, [True, True, False, False]]
    index = np.concatenate([batch.index[batch.valid] for batch in batches])
    assert index.tolist() == [9, 10, 11, 12, 25, 26, 27, 28, 29, 30]
    assert batches[-1].index.tolist() == [29, 30, 30, 30]


def test_masked_cameras_are_black_and_not_decoded(folders: dict[str, Path]) -> None:
    from dataclasses import replace

    frames = read_frames(folders["h264"], cameras=CAMERAS)
    there = np.arange(len(frames)) % 3 > 0
    masked = replace(frames, camera_masks={"cam_wrist": there})
    for found, whole in zip(load(masked, 8, workers=1), load(frames, 8), strict=True):
        mask = there[found.batch.index]
        np.testing.assert_array_equal(found.batch.image_masks["cam_wrist"], mask)
        np.testing.assert_array_equal(found.batch.images["cam_wrist"], whole.batch.images["cam_wrist"] * mask[:, None, None, None])
        np.testing.assert_array_equal(found.batch.images["cam_high"], whole.batch.images["cam_high"])


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_are_those_that_are_decoded(frames: Frames, tmp_path: Path, kind: str, workers: int) -> None:
    cache = Cache(kind, folder=tmp_path)  # pyright: ignore[reportArgumentType]
    assert_same(load(frames, 20, cache=cache, workers=workers), load(frames, 20))


def test_what_is_kept_on_disk_needs_no_video_the_next_time_and_damage_is_noticed(tmp_path: Path) -> None:
    folder = write_v3(tmp_path / "d", LENGTHS)
    frames, cache = read_frames(folder, cameras=CAMERAS), Cache("disk", folder=tmp_path / "cache")
    expected = load(frames, 9, cache=cache)
    videos = sorted(folder.rglob("*.mp4"))
    contents = [(path, path.read_bytes(), path.stat().st_mtime_ns) for path in videos]
    for path, data, stamp in contents:
        path.chmod(0o644)
        path.write_bytes(bytes(len(data)))
        os.utime(path, ns=(stamp, stamp))
    assert_same(load(frames, 9, cache=cache), expected)
    images = next((tmp_path / "cache").rglob("images.u8"))
    with open(images, "r+b") as file:
        file.seek(5 * SIZE * SIZE)
        file.write(b"torn by a power failure" * 99)
    with pytest.raises(DatasetError, match="an image cannot be decoded"):
        load(frames, 9, cache=cache)


def test_a_cache_that_is_too_small_keeps_the_first_frames_only(frames: Frames, tmp_path: Path) -> None:
    gb = 10 * len(CAMERAS) * (SIZE * SIZE * 3 + 4) / 1e9
    assert_same(load(frames, 16, cache=Cache("disk", max_gb=gb, folder=tmp_path)), load(frames, 16))
    images = next(tmp_path.rglob("images.u8"))
    assert images.stat().st_size == 10 * len(CAMERAS) * SIZE * SIZE * 3


def test_what_is_kept_of_other_datasets_makes_room(frames: Frames, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/images.u8").write_bytes(bytes(3_000_000))
    (tmp_path / "locks").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "else/images.bin").write_bytes(bytes(3_000_000))
    load(frames, 1, cache=Cache("disk", max_gb=2e-3, folder=tmp_path))
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "locks").exists()
    assert (tmp_path / "else").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_ends_before_its_episode_is_named_with_its_frame(tmp_path: Path, workers: int) -> None:
    from vla_ops.training.data import check_videos

    frames = read_frames(shortened(tmp_path), cameras=CAMERAS)
    said = r"ends before its episode.*cam_wrist.*episode episode_000001, stream cam_wrist, frame"
    with pytest.raises(DatasetError, match=said):
        load(frames, 10, workers=workers)
    with pytest.raises(DatasetError, match=r"(?s)1 video.*cam_wrist, episode_000001.*ends at"):
        check_videos(frames)


def shortened(root: Path) -> Path:
    """A v2.1 dataset in which episode 1 has the shorter video of episode 0 in one camera."""
    folder = write_v21(root, [6, 9])
    short, long = (folder / f"videos/chunk-000/observation.images.cam_wrist/episode_{k:06d}.mp4" for k in (0, 1))
    long.unlink()
    long.write_bytes(short.read_bytes())
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_video_is_named(tmp_path: Path, workers: int) -> None:
    from vla_ops.training.data import check_videos

    folder = write_v21(tmp_path, [6, 9])
    path = folder / "videos/chunk-000/observation.images.cam_high/episode_000001.mp4"
    path.unlink()
    path.write_bytes(b"not an mp4 at all")
    with pytest.raises(DatasetError, match=r"episode_000001\.mp4, episode episode_000001, stream cam_high, frame"):
        load(read_frames(folder, cameras=CAMERAS), 10, workers=workers)
    with pytest.raises(DatasetError, match=r"(?s)1 video.*cam_high, episode_000001: damaged"):
        check_videos(read_frames(folder, cameras=CAMERAS))


def test_an_error_is_raised_again_and_does_not_look_like_the_end(tmp_path: Path) -> None:
    frames = read_frames(shortened(tmp_path), cameras=CAMERAS)
    with Loader(frames, InOrder(frames.training_rows()), batch_size=4, horizon=2, size=SIZE, workers=0) as loader:
        with pytest.raises(DatasetError):
            list(loader)
        with pytest.raises(DatasetError):
            next(loader)


def test_a_transform_is_given_batches_and_what_it_refuses_is_named(frames: Frames) -> None:
    assert [loaded.inputs for loaded in load(frames, 2, transform=lambda batch: len(batch.prompts))] == [4, 4]

    def refuse(batch: Batch) -> None:
        if 11 in batch.index:
            raise PromptError("a prompt has too many tokens")

    with pytest.raises(PromptError, match="episode episode_000001, frame 2"):
        load(frames, 10, transform=refuse)


def test_a_batch_goes_through_the_transforms_of_policies_as_it_is(frames: Frames) -> None:
    row = load(frames, 1)[0].batch.training_row()
    assert row.actions.shape == (4, 5, 3)
    assert row.observation.state.shape == (4, 3)
    assert {camera: image.shape for camera, image in row.observation.images.items()} == dict.fromkeys(CAMERAS, (4, SIZE, SIZE, 3))


def pids(loader: Loader) -> list[int]:
    assert isinstance(loader._crew, Processes)
    return loader._crew.pids


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_worker_is_an_error_with_its_exit_code(frames: Frames) -> None:
    with Loader(frames, Shuffled(frames.training_rows(), seed=0), batch_size=4, horizon=2, size=SIZE, workers=2) as loader:
        next(loader)
        os.kill(pids(loader)[0], signal.SIGKILL)
        with pytest.raises(LoaderError, match=r"has died.*exit code -9"):
            list(islice(loader, 50))


def test_closing_ends_the_workers_also_with_batches_on_the_way(frames: Frames) -> None:
    loader = Loader(frames, Shuffled(frames.training_rows(), seed=0), batch_size=8, horizon=2, size=SIZE, workers=2, prefetch=3)
    workers = pids(loader)
    loader.close()
    assert not any(map(is_alive, workers))
    with pytest.raises(LoaderError, match="closed"):
        next(loader)
    loader.close()


ORPHANS = """
import sys, time
from pathlib import Path
from vla_ops.training.data import Loader, Shuffled, read_frames
frames = read_frames(Path(sys.argv[1]), cameras=["cam_high"])
loader = Loader(frames, Shuffled(frames.training_rows(), seed=0), batch_size=4, horizon=2, size=96, workers=2)
next(loader)
print(*loader._crew.pids, flush=True)
time.sleep(250)
"""


def test_workers_end_with_a_trainer_that_is_killed(folders: dict[str, Path]) -> None:
    trainer = subprocess.Popen([sys.executable, "-c", ORPHANS, str(folders["h264"])], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    workers = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(workers) == 2
    assert all(map(is_alive, workers))
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    deadline = time.monotonic() + 120
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def test_workers_load_neither_jax_nor_torch_nor_dagster() -> None:
    code = (
        "import sys, vla_ops.training.data.worker, vla_ops.policies.images\n"
        "print([m for m in ('jax', 'torch', 'dagster', 'lerobot', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "options", [{"process_count": 3}, {"process_index": 2, "process_count": 2}, {"horizon": 0}, {"prefetch": 0}, {"workers": -1}]
)
def test_settings_that_do_not_fit_are_refused(frames: Frames, options: dict[str, int]) -> None:
    with pytest.raises(LoaderError, match="a batch cannot be cut so"):
        load(frames, 1, **options)
