from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from vla_ops.curation import CurationSpec
from vla_ops.episodes.semantics import Seen, Verdict
from vla_ops.episodes.semantics.idle import judge_idle
from vla_ops.episodes.semantics.seen import Series
from vla_ops_tests.episodes.semantics.made_up import RATE_HZ
from vla_ops_tests.episodes.semantics.motions import changed, follower, grasping, gripper, joints, noise, reaching, recorded, robot

EPISODES = 6
SPEC = robot([joints(), gripper()], [joints(), gripper()])


def seen(**fields: Any) -> Seen:
    commands = [np.column_stack([reaching(seed)[25:], grasping(seed)[25:]]) for seed in range(EPISODES)]
    return recorded(SPEC, [follower(c, seed) for seed, c in enumerate(commands)], commands, **fields)


def resting(series: Series, *, head: int = 0, tail: int = 0) -> Series:
    """With frames before and after in which only the encoders tremble."""

    def padded(values: np.ndarray, seed: int) -> np.ndarray:
        before, after = np.repeat(values[:1], head, axis=0), np.repeat(values[-1:], tail, axis=0)
        return np.concatenate([noise(before, seed), values, noise(after, seed + 1)])

    return replace(series, state=padded(series.state, 5), action=padded(series.action, 7))


def written(verdict: Verdict) -> CurationSpec:
    """The curation that the verdict says to write, read as YAML."""
    return CurationSpec.model_validate(yaml.safe_load(verdict.todo.split("`")[1]))


def test_episodes_in_motion_are_one_verdict() -> None:
    (verdict,) = judge_idle(seen(), SPEC)
    assert (verdict.subject, verdict.answer) == ("episodes", "agrees")
    assert verdict.found.startswith("6 of 6 begin and end in motion")


def test_a_rest_at_either_end_is_named_with_the_trim_that_cuts_it() -> None:
    idle = changed(seen(), lambda s: resting(s, head=50, tail=75), [4])
    verdict, others = judge_idle(idle, SPEC)
    assert (verdict.subject, verdict.answer) == ("episode day1/4.mcap/0", "contradicts")
    assert others.found.startswith("5 of 6")
    trim = written(verdict).episodes["day1/4.mcap/0"].trim
    assert trim is not None
    assert trim.end_s is not None
    # 2 s of rest before 11 s of motion, and 3 s after it; 0.2 s of each are kept, and slow beginnings count as rest.
    assert 1.8 <= trim.start_s <= 2.3
    assert 12.2 <= trim.end_s <= 13.2


def test_only_the_end_that_rests_is_cut() -> None:
    (verdict, _) = judge_idle(changed(seen(), lambda s: resting(s, tail=100), [0]), SPEC)
    assert "the last 4." in verdict.found
    assert "start_s" not in verdict.todo


def test_an_episode_that_never_moves_is_to_be_excluded() -> None:
    still = changed(seen(), lambda s: replace(s, state=noise(0 * s.state + s.state[0], 1), action=0 * s.action + s.action[0]), [2])
    verdict, _ = judge_idle(still, SPEC)
    assert written(verdict).episodes["day1/2.mcap/0"].exclude == "the robot never moves"


def test_an_operator_who_moves_the_gripper_alone_is_not_at_rest() -> None:
    def opens_first(series: Series) -> Series:
        series = resting(series, head=100)
        series.action[:50, -1] = 0.0
        series.action[50:100, -1] = 1.0
        return series

    (verdict,) = [v for v in judge_idle(changed(seen(), opens_first, [1]), SPEC) if v.answer == "contradicts"]
    assert verdict.found.startswith("at rest in the first 2.0 s")


def test_a_joint_that_only_trembles_does_not_keep_an_episode_awake() -> None:
    def trembling(series: Series) -> Series:
        series = resting(series, head=100)
        series.state[:, 3] = np.random.default_rng(0).normal(size=len(series.state))
        return series

    assert len([v for v in judge_idle(changed(seen(), trembling), SPEC) if v.answer == "contradicts"]) == EPISODES


def test_an_episode_that_is_cut_already_says_what_to_add() -> None:
    idle = changed(seen(spec_fingerprint="of a trim"), lambda s: resting(s, head=50), [0])
    verdict, _ = judge_idle(idle, SPEC)
    assert verdict.todo.endswith("with the `start_s` of the trim that it has now added to both.")


def test_ids_that_yaml_would_misread_are_quoted() -> None:
    names = [f"pick: {{red}}, cube/{k}.mcap" for k in range(EPISODES)]
    idle = changed(seen(names=names), lambda s: resting(s, head=50), [0])
    verdict, _ = judge_idle(idle, SPEC)
    assert list(written(verdict).episodes) == [f"{names[0]}/0"]


def test_a_breath_is_no_rest() -> None:
    short = changed(seen(), lambda s: resting(s, head=RATE_HZ // 2))
    assert [v.answer for v in judge_idle(short, SPEC)] == ["agrees"]
