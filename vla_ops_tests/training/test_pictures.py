from __future__ import annotations

import io

import numpy as np
from PIL import Image

from vla_ops.training.pictures import action_plots, camera_views, curves
from vla_ops.training.validation import ActionPlot


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def has(png: bytes, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels(png).astype(int) - colour).max(axis=-1) < 3).sum())


def test_cameras_are_drawn_as_the_model_sees_them() -> None:
    image = np.zeros((2, 32, 32, 3), np.uint8)
    image[:, :, :] = (200, 30, 60)
    floats = np.full((2, 32, 32, 3), 1.0, np.float32) * (-1, 1, -1)
    inputs = {
        "image": {"base_0_rgb": image, "left_wrist_0_rgb": floats},
        "image_mask": {"base_0_rgb": [True, True], "left_wrist_0_rgb": [True, True]},
    }
    png = camera_views(inputs, prompts=["pick_up $x"], places=["episode_000001 frame 3"])
    assert has(png, (200, 30, 60)) > 1000
    assert has(png, (0, 255, 0)) > 1000


def test_a_masked_slot_says_so() -> None:
    black = np.zeros((1, 32, 32, 3), np.uint8)

    def drawn(*, there: bool) -> bytes:
        return camera_views({"image": {"base_0_rgb": black}, "image_mask": {"base_0_rgb": np.array([there])}})

    assert (pixels(drawn(there=False)) > 128).sum() > (pixels(drawn(there=True)) > 128).sum()


def test_at_most_a_few_samples_are_drawn() -> None:
    def height(count: int) -> int:
        image = np.zeros((count, 8, 8, 3), np.uint8)
        return pixels(camera_views({"image": {"a": image}, "image_mask": {"a": np.ones(count, bool)}})).shape[0]

    assert height(1) < height(4) == height(64)


def test_predicted_actions_are_drawn_beside_recorded_ones() -> None:
    time_s = np.arange(8) / 10
    recorded = np.stack([np.sin(time_s), time_s], axis=1)
    plot = ActionPlot("episode_000001 frame 0", (("j_1", "rad"), ("$grip", "m")), recorded + 0.3, recorded, time_s, np.arange(8) > 5)
    png = action_plots([plot, plot], title="step 100")
    assert has(png, (214, 39, 40)) > 10
    assert pixels(png).shape[1] > pixels(action_plots([plot])).shape[1]


def test_a_chunk_past_its_episode_from_the_first_step_can_be_drawn() -> None:
    flat = np.zeros((3, 1))
    assert action_plots([ActionPlot("e", (("j", "rad"),), flat, flat, np.arange(3.0), np.ones(3, bool))]).startswith(b"\x89PNG")


def test_curves_leave_out_lines_without_the_metric() -> None:
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None}, {"step": 3, "other": 2.0}]
    assert curves(lines, ["loss", "other"]).startswith(b"\x89PNG")
