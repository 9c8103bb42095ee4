from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_ops.episodes.rotation_continuity import continuous
from vla_ops.episodes.rotations import convert
from vla_ops.episodes.semantics import Verdict
from vla_ops.episodes.semantics.quaternions import judge_rotations
from vla_ops.spec import Kind
from vla_ops_tests.episodes.semantics.motions import Float64, reaching, recorded, robot

EPISODES = 12
ORDERS: list[Kind] = ["quaternion_xyzw", "quaternion_wxyz"]
NAMES = {"quaternion_xyzw": ["qx", "qy", "qz", "qw"], "quaternion_wxyz": ["qw", "qx", "qy", "qz"]}

type Poses = Callable[[int], Rotation]


def turning(seed: int, *, home: Sequence[float], reach: Sequence[float]) -> Rotation:
    """A tool that goes from one orientation to another, by roll, pitch and yaw."""
    rpy = reaching(seed, home=np.array(home), reach=np.array(reach))
    return Rotation.from_euler("xyz", rpy)


def down(seed: int) -> Rotation:
    """Picking from a table: the tool points down, tilts by some degrees and turns to what it grasps."""
    yaw = float(np.random.default_rng(seed).uniform(0.3, 1.5))
    return turning(seed, home=(np.pi, 0.0, yaw), reach=(0.1, 0.1, 0.8))


def level(seed: int) -> Rotation:
    """The frame of the tool is that of the base, as it is for many small arms; the tool turns about the vertical."""
    return turning(seed, home=(0.0, 0.0, 0.0), reach=(0.1, 0.1, 0.8))


def rolling(seed: int) -> Rotation:
    """Such a tool, pouring: it turns about its own axis alone."""
    return turning(seed, home=(0.0, 0.0, 0.0), reach=(1.2, 0.05, 0.05))


def rolling_on_edge(seed: int) -> Rotation:
    """The same, held sideways."""
    return turning(seed, home=(np.pi / 2, 0.0, 0.0), reach=(1.2, 0.05, 0.05))


def anything(seed: int) -> Rotation:
    """Random orientations all over."""
    return turning(seed, home=Rotation.random(rng=np.random.default_rng(seed)).as_euler("xyz").tolist(), reach=(1.0, 1.0, 1.0))


def numbers(poses: Rotation, order: Kind) -> Float64:
    """As a driver that keeps no sign records it, made continuous."""
    values = poses.as_quat()[:, [3, 0, 1, 2]] if order == "quaternion_wxyz" else poses.as_quat()
    return continuous(values, values[0], kind=order, unit="1")


def judged(poses: Poses, *, truth: Kind, claim: Kind, count: int = EPISODES, **claims: Any) -> Verdict:
    """Poses recorded in the order `truth` that the YAML claims to be in the order `claim`."""
    spec = robot([{"names": NAMES[claim], "unit": "1", "kind": claim, **claims}])
    (verdict,) = judge_rotations(recorded(spec, [numbers(poses(seed), truth) for seed in range(count)]), spec)
    return verdict


def table(poses: Poses, **options: Any) -> list[str]:
    """The answers where the claim is right, and where it is wrong, for both orders."""
    right = [judged(poses, truth=order, claim=order, **options).answer for order in ORDERS]
    return right + [judged(poses, truth=truth, claim=claim, **options).answer for truth, claim in (ORDERS, ORDERS[::-1])]


RIGHT = ["agrees", "agrees", "contradicts", "contradicts"]
UNKNOWN = ["cannot tell"] * 4


def test_a_tool_that_points_down_and_turns_tells_the_order() -> None:
    assert table(down) == RIGHT


def test_a_contradiction_says_what_was_seen_and_what_to_write() -> None:
    verdict = judged(down, truth="quaternion_wxyz", claim="quaternion_xyzw")
    assert verdict.subject == "state qx, qy, qz, qw"
    assert verdict.found.startswith("wxyz: the tool stays upright while it turns by ")
    assert verdict.claimed == "`kind: quaternion_xyzw`"
    assert verdict.todo == "Write `kind: quaternion_wxyz` in the entry of `state` that reads `/follower/0`, and `names` in that order."


def test_random_orientations_cannot_be_told() -> None:
    assert table(anything) == UNKNOWN
    # Of fewer recordings than would show that w is never negative.
    assert table(anything, count=5) == UNKNOWN


@pytest.mark.parametrize("poses", [level, rolling, rolling_on_edge, anything])
def test_a_right_claim_is_never_contradicted(poses: Poses) -> None:
    """In the other order, a tool that rolls about its own axis points down and turns, which is more common."""
    for order in ORDERS:
        assert judged(poses, truth=order, claim=order).answer != "contradicts"


def test_a_wrong_claim_never_agrees() -> None:
    for poses in (down, level, rolling, anything):
        for truth, claim in (ORDERS, ORDERS[::-1]):
            assert judged(poses, truth=truth, claim=claim).answer != "agrees"


def upper(poses: Rotation, order: Kind) -> Float64:
    """As a driver that keeps w >= 0 records it; what follows the first frame is then made continuous."""
    values = poses.as_quat(canonical=True)
    values = values[:, [3, 0, 1, 2]] if order == "quaternion_wxyz" else values
    return continuous(values, values[0], kind=order, unit="1")


def test_a_driver_that_keeps_w_from_being_negative_tells_the_order() -> None:
    def of(truth: Kind, claim: Kind) -> str:
        spec = robot([{"names": NAMES[claim], "unit": "1", "kind": claim}])
        states = [upper(anything(seed), truth) for seed in range(40)]
        (verdict,) = judge_rotations(recorded(spec, states), spec)
        return verdict.answer

    assert [of(truth, claim) for truth in ORDERS for claim in ORDERS] == ["agrees", "contradicts", "contradicts", "agrees"]


def relative(seed: int) -> Rotation:
    poses = anything(seed)
    return poses[0].inv() * poses


def test_recordings_that_begin_at_no_rotation_tell_the_order() -> None:
    assert table(relative) == RIGHT


def test_small_steps_tell_the_order() -> None:
    def of(truth: Kind, claim: Kind) -> str:
        spec = robot(
            [{"names": ["x"], "unit": "m", "kind": "position"}], [{"names": NAMES[claim], "unit": "1", "kind": claim, "means": "delta"}]
        )
        steps = [numbers(poses[:-1].inv() * poses[1:], truth) for poses in map(anything, range(4))]
        seen = recorded(spec, [np.arange(len(each))[:, None] / len(each) for each in steps], steps)
        (verdict,) = judge_rotations(seen, spec)
        return verdict.answer

    assert [of(truth, claim) for truth in ORDERS for claim in ORDERS] == ["agrees", "contradicts", "contradicts", "agrees"]


BESIDE: Sequence[tuple[Kind, list[str]]] = [
    ("rotation_6d", ["r1", "r2", "r3", "r4", "r5", "r6"]),
    ("rotation_rpy", ["roll", "pitch", "yaw"]),
    ("rotation_vector", ["rx", "ry", "rz"]),
]


@pytest.mark.parametrize(("form", "names"), BESIDE)
def test_another_form_of_the_same_rotation_beside_it_tells_the_order(form: Kind, names: list[str]) -> None:
    unit = "1" if form == "rotation_6d" else "rad"

    def of(truth: Kind, claim: Kind, side: str = "") -> str:
        parts = [{"names": NAMES[claim], "unit": "1", "kind": claim}, {"names": [side + n for n in names], "unit": unit, "kind": form}]
        spec, states = robot(parts), list[Float64]()
        for poses in map(anything, range(4)):
            other = convert(poses.as_quat(), kind="quaternion_xyzw", unit="1", written_as=form, unit_written=unit)
            states.append(np.concatenate([numbers(poses, truth), other], axis=1))
        (verdict,) = judge_rotations(recorded(spec, states), spec)
        return verdict.answer

    assert [of(truth, claim) for truth in ORDERS for claim in ORDERS] == ["agrees", "contradicts", "contradicts", "agrees"]
    # Another arm's rotation says nothing.
    assert of("quaternion_xyzw", "quaternion_wxyz", "right_") == "cannot tell"


def test_what_was_written_in_another_form_is_judged_as_it_was_recorded() -> None:
    def of(truth: Kind, claim: Kind) -> Verdict:
        names = ["r1", "r2", "r3", "r4", "r5", "r6"]
        spec = robot([{"names": names, "unit": "1", "kind": claim, "written_as": "rotation_6d"}])
        states = [
            convert(numbers(down(seed), truth), kind=claim, unit="1", written_as="rotation_6d", unit_written="1")
            for seed in range(EPISODES)
        ]
        (verdict,) = judge_rotations(recorded(spec, states), spec)
        return verdict

    assert [of(truth, claim).answer for truth in ORDERS for claim in ORDERS] == ["agrees", "contradicts", "contradicts", "agrees"]
    assert of(*ORDERS).todo == "Write `kind: quaternion_xyzw` in the entry of `state` that reads `/follower/0`."


def test_a_robot_without_quaternions_is_not_judged() -> None:
    spec = robot([{"names": ["roll", "pitch", "yaw"], "unit": "rad", "kind": "rotation_rpy"}])
    assert judge_rotations(recorded(spec, [down(seed).as_euler("xyz") for seed in range(3)]), spec) == []
