"""Each transform against the numbers that openpi's own gave, and what openpi does that is not done here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.errors import SchemaMismatchError, StatsMismatchError
from vla_ops.policies.images import CameraSlots, as_pixels, resize_with_pad
from vla_ops.policies.normalize import Normalisation, Normalize, Numbers
from vla_ops.policies.policy_stats import PolicyStats, check_stats
from vla_ops.policies.prompts import Prompts, discretise
from vla_ops.policies.steps import AdaptToPi, Chain, DeltaActions, Now, Pad
from vla_ops_tests.norm_stats.data import ALOHA, make_spec
from vla_ops_tests.policies.making import ROBOT, Shape, aloha_spec, transforms_of

type Arrays = dict[str, np.ndarray]

SLOTTED = (("base_0_rgb", "cam_high"), ("left_wrist_0_rgb", "cam_left_wrist"))


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Any:
    return lambda name: dict(np.load(golden_dir / "transforms" / f"{name}.npz"))


# delta and absolute


def test_deltas_and_absolutes_are_openpis(golden: Any) -> None:
    recorded: Arrays = golden("delta_absolute")
    step, now = DeltaActions(tuple(ALOHA), tuple(recorded["mask"])), Now(recorded["state"])
    delta = step.encode(recorded["actions"], now)
    np.testing.assert_array_equal(delta.astype(np.float32), recorded["delta"])
    np.testing.assert_array_equal(step.decode(recorded["delta"], now).astype(np.float32), recorded["absolute_of_delta"])


def test_a_mask_shorter_than_the_padded_vectors_leaves_the_rest_absolute(golden: Any) -> None:
    recorded: Arrays = golden("delta_absolute")
    mask = (*recorded["mask"], *[False] * 18)
    step = DeltaActions(tuple(f"d{k}" for k in range(32)), mask)
    delta = step.encode(recorded["actions32"], Now(recorded["state32"]))
    np.testing.assert_array_equal(delta.astype(np.float32), recorded["delta32_mask14"])


def test_openpi_writes_deltas_into_the_actions_it_is_given_and_here_they_stay(golden: Any) -> None:
    recorded: Arrays = golden("delta_absolute")
    step, now, actions = DeltaActions(tuple(ALOHA), tuple(recorded["mask"])), Now(recorded["state"]), recorded["actions"].copy()
    once, twice = step.encode(actions, now), step.encode(actions, now)
    np.testing.assert_array_equal(actions, recorded["actions"])
    np.testing.assert_array_equal(once, twice)


def test_masks_that_openpi_counts_out_by_hand_come_from_the_dimensions_kinds(golden_dir: Path) -> None:
    for counted, mask in json.loads((golden_dir / "transforms" / "make_bool_mask.json").read_text()).items():
        kinds = [k > 0 for k in json.loads(f"[{counted.strip('(),')}]") for _ in range(abs(k))]
        names = [f"joint_{k}" if is_joint else f"gripper_{k}" for k, is_joint in enumerate(kinds)]
        assert list(make_spec(names).delta_mask) == mask


# normalisation


@pytest.mark.parametrize(("by", "called"), [("z_score", "zscore"), ("quantile", "quantile")])
def test_normalised_numbers_are_openpis_bit_for_bit(golden: Any, by: Normalisation, called: str) -> None:
    recorded: Arrays = golden("normalize")
    scale = Numbers(*(recorded[name] for name in ("mean", "std", "q01", "q99"))).scale(by)
    step, now = Normalize(scale, scale), Now(recorded["state"])
    np.testing.assert_array_equal(step.state(recorded["state"]), recorded[f"norm_{called}_state"])
    np.testing.assert_array_equal(step.encode(recorded["actions"], now), recorded[f"norm_{called}_actions"])
    np.testing.assert_array_equal(scale.back(recorded["state"]), recorded[f"unnorm_{called}_state"])
    np.testing.assert_array_equal(step.decode(recorded["actions"], now), recorded[f"unnorm_{called}_actions"])


@pytest.mark.parametrize(("by", "called"), [("z_score", "zscore"), ("quantile", "quantile")])
def test_of_padded_model_actions_the_robots_own_dimensions_are_openpis(golden: Any, by: Normalisation, called: str) -> None:
    """openpi fills the statistics up (z-score) or leaves the rest as it is (quantile); here the padding goes first."""
    recorded: Arrays = golden("normalize")
    scale = Numbers(*(recorded[name] for name in ("mean", "std", "q01", "q99"))).scale(by)
    chain = Chain().push(Normalize(scale, scale)).push(Pad(32, 14))
    expected = recorded[f"unnorm_{called}_actions32_stats14"][:, :14]
    np.testing.assert_array_equal(chain.decode(recorded["actions32"], Now(recorded["state"])), expected)


@pytest.mark.parametrize(("by", "called"), [("z_score", "zscore"), ("quantile", "quantile")])
def test_wider_statistics_give_what_openpi_slices_only_when_their_dimensions_are_named(golden: Any, by: Normalisation, called: str) -> None:
    recorded: Arrays = golden("normalize")
    wide = Numbers(*(recorded[name] for name in ("mean32", "std32", "q01_32", "q99_32")))
    named = wide.take(range(14)).scale(by)
    np.testing.assert_array_equal(named.forward(recorded["state"]), recorded[f"norm_{called}_state14_stats32"])
    np.testing.assert_array_equal(named.forward(recorded["actions"]), recorded[f"norm_{called}_actions14_stats32"])
    spec = aloha_spec()
    with pytest.raises(StatsMismatchError, match="do not say what they were made from"):
        check_stats(PolicyStats(wide, wide, "wide", None), spec, robot=ROBOT, horizon=10)


def test_quantiles_that_are_not_there_are_refused_as_openpi_does(golden: Any) -> None:
    recorded: Arrays = golden("normalize")
    with pytest.raises(ValueError, match="no quantiles"):
        Numbers(recorded["mean"], recorded["std"]).scale("quantile")


# padding


def test_padding_is_openpis(golden: Any) -> None:
    recorded: Arrays = golden("pad")
    pad, now = Pad(32, 14), Now(recorded["state"])
    np.testing.assert_array_equal(pad.state(recorded["state"]), recorded["state_p"])
    np.testing.assert_array_equal(pad.encode(recorded["actions"], now), recorded["actions_p"])
    np.testing.assert_array_equal(pad.decode(recorded["actions_p"], now), recorded["actions"])


def test_openpi_580_a_vector_wider_than_the_model_is_refused_and_not_left_as_it_is(golden: Any) -> None:
    recorded: Arrays = golden("pad")
    assert recorded["state_already_longer"].shape == (14,)
    with pytest.raises(SchemaMismatchError, match=r"right_wrist_angle, right_wrist_rotate, right_gripper.*14 dimensions.*at most 11"):
        transforms_of(aloha_spec(), Shape(action_dim=11, action_horizon=10))


# images


def test_resized_images_are_openpis_bit_for_bit(golden: Any) -> None:
    recorded: Arrays = golden("resize")
    x, y = np.meshgrid(np.arange(640), np.arange(480))
    smooth = np.stack([x * 255 // 639, y * 255 // 479, (x + y) % 256], axis=-1).astype(np.uint8)
    for image, name in ((recorded["random_full"], "random"), (smooth, "smooth"), (recorded["small_in"], "small")):
        np.testing.assert_array_equal(resize_with_pad(image, height=224, width=224), recorded[f"pil_{name}_224"], err_msg=name)


def test_floats_become_uint8_as_openpis_do(golden: Any) -> None:
    recorded: Arrays = golden("resize")
    image = np.broadcast_to(recorded["convert_to_uint8_in"][:, None, None], (33, 5, 3))
    np.testing.assert_array_equal(as_pixels(image, camera="top")[:, 0, 0], recorded["convert_to_uint8_out"])


@pytest.mark.slow  # it imports jax, nothing more
def test_pixels_are_the_floats_that_openpis_model_sees(golden: Any) -> None:
    from vla_ops.models.observation import to_float

    np.testing.assert_array_equal(to_float(np.arange(256, dtype=np.uint8)), golden("misc")["uint8_ramp_to_float"])


@pytest.mark.parametrize("adapt", [0, 1])
def test_aloha_inputs_and_outputs_are_openpis(golden: Any, adapt: int) -> None:
    recorded: Arrays = golden("aloha")
    chain = (Chain().push(AdaptToPi()) if adapt else Chain()).push(Pad(32, 14))
    now = Now(recorded["state"])
    wanted = chain.encode(recorded["actions"], now)[:, :14]
    # openpi's gripper angles go through another sum in another order.
    np.testing.assert_allclose(chain.state(now)[:14], recorded[f"adapt{adapt}/in/state"], rtol=1e-7)
    np.testing.assert_allclose(wanted, recorded[f"adapt{adapt}/in/actions"], rtol=1e-7, atol=1e-12)
    back = chain.decode(recorded[f"adapt{adapt}/out/model_actions"], now)
    np.testing.assert_allclose(back, recorded[f"adapt{adapt}/out/actions"], rtol=1e-6, atol=1e-9)
    pixels = {slot: as_pixels(recorded[camera], camera=camera) for slot, camera in SLOTTED}
    for slot, image in pixels.items():
        np.testing.assert_array_equal(image, recorded[f"adapt{adapt}/in/image/{slot}"])


@pytest.mark.parametrize(
    ("name", "sources"),
    [("aloha", ("cam_high", "cam_left_wrist")), ("libero", ("image", "wrist_image")), ("droid", ("ext", "wrist"))],
)
def test_a_slot_without_a_camera_is_black_and_masked(golden: Any, name: str, sources: tuple[str, str]) -> None:
    recorded: Arrays = golden(name)
    slots = CameraSlots((("base_0_rgb", sources[0]), ("left_wrist_0_rgb", sources[1]), ("right_wrist_0_rgb", None)))
    images, masks = slots.images({source: recorded[source] for source in sources}, ())
    prefix = "adapt0/in" if name == "aloha" else "pi0"
    for slot, mask in masks.items():
        assert mask == recorded[f"{prefix}/mask/{slot}"]
        there = resize_with_pad(recorded[f"{prefix}/image/{slot}"], height=224, width=224)
        np.testing.assert_array_equal(images[slot], there, err_msg=slot)


@pytest.mark.parametrize("name", ["libero", "droid"])
def test_outputs_are_the_robots_own_dimensions(golden: Any, name: str) -> None:
    recorded: Arrays = golden(name)
    width = recorded["out"].shape[1]
    np.testing.assert_array_equal(Pad(32, width).decode(recorded["out_in"], Now(np.zeros(8))), recorded["out"])


# prompts


def test_states_are_told_in_openpis_steps(golden: Any) -> None:
    recorded: Arrays = golden("misc")
    np.testing.assert_array_equal(discretise(recorded["disc_in"]), recorded["disc_out"])


class Recorded:
    """A tokenizer that knows no text: it gives five ids, and keeps what it was asked."""

    fingerprint, vocab_size = "recorded", 15

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        self.asked.append((text, bos))
        return [2] * bos + [10, 11, 12, 13, 14]


def test_prompts_are_tokenized_in_openpis_pieces(golden_dir: Path) -> None:
    cases = json.loads((golden_dir / "transforms" / "tokenizer_prompts.json").read_text())
    for case in cases:
        tokenizer, state = Recorded(), case.get("state")
        cut = len(case["tokens_out"]) == 4
        prompt = "abc" if cut else case["prompt"]
        prompts = Prompts(tokenizer, len(case["tokens_out"]), state is not None, truncate=cut)
        tokens, mask = prompts.tokens(prompt, np.array(state or [0.0]))
        assert tokenizer.asked == [(call["text"], call["add_bos"]) for call in case["encode_calls"]]
        assert (tokens.tolist(), mask.tolist()) == (case["tokens_out"], case["mask_out"])
