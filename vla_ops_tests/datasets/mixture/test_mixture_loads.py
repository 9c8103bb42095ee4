"""What LeRobot itself reads from a mixture: every frame by name, black cameras, masks; and what its policies take for inputs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vla_ops.datasets.mixture import RefreshedMixture, frame_weights
from vla_ops_tests.datasets.episode_folders import barcode, vectors
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, Arm, Lab

NAMES = ["j1", "j2", "gripper", "j3"]
CAMERAS = ["cam_high", "cam_left", "cam_right"]
# Own name of each camera, and its place among the robot's, which its barcode counts by.
SHOWN = {"left": {"cam_high": 0, "cam_left": 1}, "right": {"cam_high": 0, "cam_right": 1}}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("huggingface"))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RefreshedMixture:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.add("left", LEFT)
    lab.add("right", RIGHT)
    sources = [{"robot": "left", "weight": 2.0}, {"robot": "right", "weight": 1.0, "cameras": {"cam_top": "cam_high"}}]
    return lab.make(lab.mix("both", *sources))


def load(made: RefreshedMixture):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/both", root=made.made.folder, video_backend="pyav")


def by_name(arm: Arm, first: int, k: int, vector: int) -> dict[str, float]:
    """What the robot recorded at frame `k` of an episode that counts from `first`: 0 the state, 1 the action."""
    return dict(zip(arm.names, vectors(first, k + 1, len(arm.names))[vector][k], strict=True))


def test_every_frame_has_its_numbers_by_name_its_images_and_its_masks(made: RefreshedMixture) -> None:
    dataset, index = load(made), 0
    for name, arm in (("left", LEFT), ("right", RIGHT)):
        first = arm.first
        for length, task in arm.episodes:
            for k in range(length):
                item = dataset[index]
                for key, vector in (("observation.state", 0), ("action", 1)):
                    wanted = by_name(arm, first, k, vector)
                    assert item[key].tolist() == [wanted.get(dim, 0.0) for dim in NAMES]
                    assert item[f"mask.{key}"].tolist() == [dim in wanted for dim in NAMES]
                for camera in CAMERAS:
                    image, number = item[f"observation.images.{camera}"], SHOWN[name].get(camera)
                    assert bool(item[f"mask.observation.images.{camera}"]) is (number is not None)
                    if number is None:
                        assert float(image.max()) == 0.0
                    else:
                        assert barcode(image) == first + k + 1000 * number
                assert (item["task"], int(item["index"]), int(item["frame_index"])) == (task, index, k)
                index += 1
            first += length
    assert index == dataset.num_frames == 26
    assert dataset.num_episodes == 4


def test_masks_are_no_inputs_or_outputs_of_a_policy(made: RefreshedMixture) -> None:
    from lerobot.utils.feature_utils import dataset_to_policy_features

    features = dataset_to_policy_features(load(made).meta.features)
    assert set(features) == {"observation.state", "action", *(f"observation.images.{camera}" for camera in CAMERAS)}


def test_a_chunk_of_actions_and_its_mask_load_together(made: RefreshedMixture) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    steps = {"action": [0.0, 1 / 30], "mask.action": [0.0, 1 / 30]}
    item = LeRobotDataset("local/both", root=made.made.folder, video_backend="pyav", delta_timestamps=steps)[14]
    assert item["action"].shape == item["mask.action"].shape == (2, 4)
    assert not item["mask.action"][:, 0].any()


def test_a_sampler_draws_each_source_as_often_as_its_weight_says(made: RefreshedMixture) -> None:
    import torch

    weights = frame_weights(made.made.folder)
    drawn = np.array(list(torch.utils.data.WeightedRandomSampler(weights.tolist(), 20_000, generator=torch.Generator().manual_seed(0))))
    assert np.mean(drawn < 14) == pytest.approx(2 / 3, abs=0.02)
    assert not ((drawn >= 8) & (drawn < 14)).any(), "a held-out frame was drawn"


def test_statistics_are_of_each_dimension_and_camera_over_the_training_episodes_that_have_it(made: RefreshedMixture) -> None:
    stats = json.loads((made.made.folder / "meta/stats.json").read_text())
    left = vectors(0, 8, 3)[0]
    right = np.concatenate([vectors(200, 5, 3)[0], vectors(205, 7, 3)[0]])
    state = stats["observation.state"]
    for k, values in enumerate([left[:, 0], np.concatenate([left[:, 1], right[:, 0]]), None, right[:, 1]]):
        if values is not None:
            exact = values.astype(np.float64)
            assert [state[name][k] for name in ("mean", "std", "min", "max")] == pytest.approx(
                [exact.mean(), exact.std(), exact.min(), exact.max()]
            )
    assert state["count"] == [20]
    seen = [episode.meta.stats["observation.images.cam_right"] for episode in made.sources[1].episodes]
    assert np.allclose(stats["observation.images.cam_right"]["mean"], np.mean([each["mean"] for each in seen], axis=0))
    assert stats["mask.observation.state"]["mean"] == pytest.approx([8 / 20, 1.0, 1.0, 12 / 20])


def test_lerobot_reads_its_statistics(made: RefreshedMixture) -> None:
    assert set(load(made).meta.stats) >= {"observation.state", "action", "observation.images.cam_left"}


def test_held_out_episodes_stay_held_out(made: RefreshedMixture) -> None:
    about = json.loads((made.made.folder / "meta/vla_ops.json").read_text())
    assert about["held_out"] == [1]
    assert (made.made.held_out_episodes, made.made.held_out_frames, made.made.training_frames) == (1, 6, 20)


def test_the_card_says_what_each_source_is_and_lacks(made: RefreshedMixture) -> None:
    card = (made.made.folder / "README.md").read_text()
    assert "in the mixture `both`" in card
    assert "| right | right |" in card
    assert "| j1 | cam_left |" in card
    assert "`meta/stats.json` holds of each dimension and camera the statistics over the training episodes that have it" in card
