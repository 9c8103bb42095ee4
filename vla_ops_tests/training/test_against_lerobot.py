"""What LeRobot itself gives for the same frames of the same datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vla_ops.training.data import Loader, Shuffled, read_frames
from vla_ops_tests.training.datasets import CAMERAS, write_stills, write_v3

LENGTHS = [9, 4, 12, 6]
# Images are 64 x 96: with this size they are not resized, but stand between two bars.
SIZE, BARS = 96, 16


@pytest.fixture(scope="module", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("huggingface"))
        patch.setenv("VLA_OPS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("datasets")
    made = {codec: write_v3(root / codec, LENGTHS, codec=codec) for codec in ("h264", "av1", "mjpeg")}
    return made | {"stills": write_stills(root, LENGTHS)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h264", "av1", "mjpeg", "stills"])
@pytest.mark.parametrize("horizon", [1, 5])
def test_every_frame_camera_and_chunk_is_what_lerobot_gives(folders: dict[str, Path], kind: str, horizon: int) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    frames = read_frames(folders[kind], cameras=CAMERAS)
    ahead = {"action": [h / frames.fps for h in range(horizon)]}
    theirs = LeRobotDataset("local/arm", root=folders[kind], delta_timestamps=ahead, video_backend="pyav", return_uint8=True)
    order = Shuffled(frames.training_rows(), seed=1)
    with Loader(frames, order, batch_size=len(frames), horizon=horizon, size=SIZE, workers=0) as loader:
        batch = next(loader).batch
    assert sorted(batch.index.tolist()) == list(range(len(theirs)))
    for k, index in enumerate(batch.index.tolist()):
        item = theirs[index]
        np.testing.assert_array_equal(batch.state[k], item["observation.state"].numpy())
        np.testing.assert_array_equal(batch.actions[k], item["action"].numpy())
        np.testing.assert_array_equal(batch.action_is_pad[k], item["action_is_pad"].numpy())
        assert (batch.prompts[k], batch.episode[k], batch.frame[k]) == (item["task"], item["episode_index"], item["frame_index"])
        for camera in CAMERAS:
            picture = item[f"observation.images.{camera}"].numpy()
            picture = picture if picture.dtype == np.uint8 else (picture * 255).round().astype(np.uint8)
            np.testing.assert_array_equal(batch.images[camera][k, BARS:-BARS], picture.transpose(1, 2, 0))
            assert not batch.images[camera][k, :BARS].any()
            assert batch.image_masks[camera][k]
