"""What each client sends becomes the same observation; what is wrong is said by the client's own key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vla_ops.errors import RequestError, SchemaMismatchError, VlaOpsError
from vla_ops.robot import RobotSpec
from vla_ops.serving.layouts import Requests, layouts_of, message_of
from vla_ops.serving.wire import pack, unpack
from vla_ops_tests.policies.making import ALOHA_CAMERAS, arm_spec, seen

SPEC = arm_spec()
REQUESTS = Requests(layouts_of(SPEC, ("top", "hand")), tuple(SPEC.state_dims))
IMAGE = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
STATE = np.array([0.1, 0.2, 0.3], np.float32)


def with_client(**client: Any) -> RobotSpec:
    said = SPEC.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return RobotSpec.model_validate(said | {"client": client})


OWN = {"state": ["arm/joints", "arm/gripper"], "images": {"top": "rgb_top", "hand": "rgb_hand"}, "prompt": "instruction"}

# As the clients in openpi's examples send them.
SENT: dict[str, dict[str, Any]] = {
    "vla-ops": {"state": STATE, "images": {"top": IMAGE, "hand": IMAGE}, "prompt": "go"},
    "aloha": {"state": STATE, "images": {n: IMAGE.transpose(2, 0, 1) for n in ("cam_high", "cam_left_wrist", "cam_low")}, "prompt": "go"},
    "libero": {"observation/image": IMAGE, "observation/wrist_image": IMAGE, "observation/state": STATE, "prompt": "go"},
    "droid": {
        "observation/exterior_image_1_left": IMAGE,
        "observation/wrist_image_left": IMAGE,
        "observation/joint_position": STATE[:2],
        "observation/gripper_position": STATE[2:],
        "prompt": "go",
    },
    "lerobot": {"observation.state": STATE, "observation.images.top": IMAGE, "observation.images.hand": IMAGE, "task": "go"},
}


@pytest.mark.parametrize("name", SENT)
def test_the_clients_of_openpi_and_lerobot_are_understood_as_they_are(name: str) -> None:
    observation = REQUESTS.read(unpack(pack(SENT[name])))
    np.testing.assert_array_equal(observation.state, STATE)
    assert observation.state.dtype == np.float32
    assert set(observation.images) == {"top", "hand"}
    for image in observation.images.values():
        np.testing.assert_array_equal(image, IMAGE)
    assert observation.prompt == "go"


@pytest.mark.parametrize(
    "layout", [*layouts_of(SPEC, ("top", "hand")), layouts_of(with_client(**OWN), ("top", "hand"))[0]], ids=lambda x: x.name
)
def test_what_is_written_in_a_layout_is_read_in_it(layout: Any) -> None:
    requests = Requests((layout,), REQUESTS.state_dims)
    there = seen(SPEC)
    read = requests.read(message_of(layout, there, None if len(layout.state) == 1 else [2, 1]))
    np.testing.assert_array_equal(read.state, there.state)
    assert read.prompt == there.prompt
    assert {name: image.tobytes() for name, image in read.images.items()} == {name: image.tobytes() for name, image in there.images.items()}


def test_the_robots_own_keys_come_first() -> None:
    spec = with_client(**OWN)
    requests = Requests(layouts_of(spec, ("top", "hand")), tuple(spec.state_dims))
    message = {"arm": {"joints": STATE[:2], "gripper": 0.3}, "rgb_top": IMAGE, "rgb_hand": IMAGE, "instruction": "go"}
    read = requests.read(message)
    np.testing.assert_array_equal(read.state, STATE)
    assert read.prompt == "go"
    assert next(iter(requests.describe())) == "the robot's own"


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"state": ["s"], "images": {"topp": "a", "hand": "b"}}, "there is no camera 'topp'; did you mean 'top'"),
        ({"state": ["s"], "images": {"top": "a"}}, "a model sees hand"),
        ({"state": ["s"], "images": {"top": "a", "hand": "a"}}, "a stands for more than one thing"),
        ({"state": [], "images": {"top": "a", "hand": "b"}}, "at least 1"),
        ({"state": ["s"], "image": {}, "images": {"top": "a", "hand": "b"}}, "unknown key 'image'; did you mean 'images'"),
    ],
)
def test_a_yaml_that_names_keys_wrongly_is_refused(client: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_client(**client)


def test_a_layout_that_has_no_place_for_one_of_the_robots_cameras_is_not_offered() -> None:
    cameras = {**ALOHA_CAMERAS, "cam_right_wrist": {"source": "/right", "role": "right_wrist"}}
    spec = RobotSpec.model_validate(SPEC.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"cameras": cameras})
    assert [layout.name for layout in layouts_of(spec, tuple(cameras))] == ["vla-ops", "aloha", "lerobot"]


NAMES = r"waist \(.*\), elbow \(.*\), gripper \(.*\)"
MISFIT = SchemaMismatchError
WRONG: dict[str, tuple[Any, type[VlaOpsError], str]] = {
    "a list": ([1], RequestError, rf"is a map; found list; expected state: numbers, 3 in all: {NAMES}"),
    "no camera": (
        {"state": STATE, "images": {"top": IMAGE}},
        RequestError,
        rf"lacks images/hand; found keys state, images/top; expected .*'vla-ops'.*{NAMES}; images/top: RGB image, uint8 \(H, W, 3\) or",
    ),
    "keys of nobody": ({"qpos": STATE}, RequestError, "lacks .*found keys qpos; .*Other layouts: .*droid"),
    "DROID without its gripper": (
        {k: v for k, v in SENT["droid"].items() if "gripper" not in k}, RequestError, "lacks observation/gripper_position;.*layout 'droid'",
    ),
    "a state too short": (SENT["vla-ops"] | {"state": STATE[:2]}, MISFIT, rf"state; found 2 numbers; expected 3: {NAMES}"),
    "a state of two rows": (SENT["vla-ops"] | {"state": STATE[None]}, MISFIT, r"state is not a row of numbers; found float32 \(1, 3\)"),
    "a state of text": (SENT["vla-ops"] | {"state": "high"}, MISFIT, "state is not a row of numbers; found str"),
    "a ragged state": (SENT["vla-ops"] | {"state": [1, [2]]}, MISFIT, "state is not a row of numbers; found list"),
    "NaN": (SENT["vla-ops"] | {"state": STATE * [1, np.nan, 1]}, MISFIT, r"not finite: state \[dimension elbow\]; found nan at place 1"),
    "infinity": (SENT["vla-ops"] | {"state": STATE * [1, 1, np.inf]}, MISFIT, r"not finite: state \[dimension gripper\]"),
    "floats of -1 to 1": (
        SENT["libero"] | {"observation/image": IMAGE / 127.5 - 1},
        MISFIT,
        r"out of its range \[stream observation/image\]; found -1 .. 1; expected 0 .. 1",
    ),
    "floats of 0 to 255": (SENT["libero"] | {"observation/image": IMAGE.astype(float)}, MISFIT, "found 0 .. 255; expected 0 .. 1"),
    "NaN pixels": (SENT["libero"] | {"observation/image": IMAGE * np.nan}, MISFIT, "found nan .. nan; expected 0 .. 1"),
    "16 bits": (SENT["libero"] | {"observation/image": IMAGE.astype(np.uint16)}, MISFIT, "numbers of uint16; expected uint8"),
    "grey": (SENT["libero"] | {"observation/wrist_image": IMAGE[..., 0]}, MISFIT, r"wrist_image\]; found uint8 \(30, 40\); expected"),
    "four channels": (
        SENT["libero"] | {"observation/wrist_image": np.zeros((30, 40, 4), np.uint8)}, MISFIT, r"found shape \(30, 40, 4\); expected",
    ),
    "an image of no pixels": (SENT["libero"] | {"observation/image": IMAGE[:0]}, MISFIT, r"found uint8 \(0, 40, 3\)"),
    "an image that is a file": (SENT["libero"] | {"observation/image": b"\xff\xd8"}, MISFIT, "image]; found bytes; expected uint8"),
    "a prompt that is a number": (SENT["libero"] | {"prompt": 5}, MISFIT, "prompt is not a text; found int"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_what_is_expected(name: str) -> None:
    message, kind, said = WRONG[name]
    with pytest.raises(kind, match=said):
        REQUESTS.read(message)


def test_floats_from_0_to_1_and_texts_in_arrays_are_taken() -> None:
    read = REQUESTS.read(SENT["libero"] | {"observation/image": IMAGE / 255, "prompt": np.array("go")})
    assert np.abs(read.images["top"].astype(int) - IMAGE).max() <= 1
    assert read.prompt == "go"


# Several steps


STEPS = Requests(REQUESTS.layouts, REQUESTS.state_dims, steps=2)


@pytest.mark.parametrize("name", SENT)
def test_every_client_can_send_several_steps_the_oldest_first(name: str) -> None:
    def two(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: two(inner) for key, inner in value.items()}
        return np.stack([value, value + 1]) if isinstance(value, np.ndarray) else value

    newest = STEPS.read(unpack(pack(two(SENT[name]))))
    (before,) = newest.past
    np.testing.assert_array_equal(before.state, STATE)
    np.testing.assert_array_equal(newest.state, STATE + 1)
    np.testing.assert_array_equal(before.images["hand"], IMAGE)
    np.testing.assert_array_equal(newest.images["top"], IMAGE + 1)
    assert newest.prompt == before.prompt == "go"


@pytest.mark.parametrize("layout", REQUESTS.layouts, ids=lambda x: x.name)
def test_several_steps_are_read_as_they_are_written(layout: Any) -> None:
    there = replace(seen(SPEC, seed=2), past=(seen(SPEC, seed=1),))
    read = Requests((layout,), STEPS.state_dims, steps=2).read(message_of(layout, there, None if len(layout.state) == 1 else [2, 1]))
    np.testing.assert_array_equal(read.past[0].state, there.past[0].state)
    np.testing.assert_array_equal(read.past[0].images["top"], there.past[0].images["top"])
    np.testing.assert_array_equal(read.images["top"], there.images["top"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"state": STATE}, r"state is not 2 rows of numbers; found float32 \(3,\); expected floats \(2, n\).*ActionChunkBroker"),
        ({"state": np.stack([STATE] * 3)}, r"state is not 2 rows of numbers; found float32 \(3, 3\)"),
        ({"state": np.stack([STATE[:2]] * 2)}, r"not the robot's: state; found 2 numbers; expected 3"),
        ({"state": np.stack([STATE, STATE * np.float32([1, np.nan, 1])])}, r"not finite: state \[dimension elbow\]"),
        ({"images": {"top": IMAGE, "hand": np.stack([IMAGE] * 2)}}, r"the last 2 RGB images \[stream images/top\].*uint8 \(2, H, W, 3\)"),
        ({"images": {"hand": np.stack([IMAGE] * 2)}}, r"lacks images/top.*state: 2 rows of numbers, 3 in all"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_steps_is_said_exactly(changed: dict[str, Any], said: str) -> None:
    images = np.stack([IMAGE, IMAGE])
    message = {"state": np.stack([STATE, STATE]), "images": {"top": images, "hand": images}, "prompt": "go"}
    with pytest.raises((RequestError, SchemaMismatchError), match=said):
        STEPS.read(message | changed)


def test_a_policy_of_one_step_is_not_sent_several() -> None:
    with pytest.raises(SchemaMismatchError, match="state is not a row of numbers"):
        REQUESTS.read({"state": np.stack([STATE, STATE]), "images": {"top": IMAGE, "hand": IMAGE}, "prompt": "go"})
