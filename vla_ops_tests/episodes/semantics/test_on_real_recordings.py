"""No false alarm on untouched recordings, and how many of the mistakes made in them are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vla_ops.episodes.semantics import JUDGES, Seen, contradictions
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import load_robot
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.episodes.semantics.corruptions import CORRUPTIONS, Corruption, recall
from vla_ops_tests.episodes.semantics.made_up import remembering
from vla_ops_tests.episodes.semantics.spoiled_numbers import CORRUPTIONS as OF_NUMBERS
from vla_ops_tests.episodes.semantics.test_recall import LEAST

ROBOTS = Path(__file__).resolve().parents[2] / "robots"
SHARED = ["airbot_ptk", "airbot_old_collector", "umi_bimanual", "robosuite_handover", "robosuite_wipe", "cartpole_sim"]
NUMERIC = ["actions", "units", "grippers", "motion", "idle", "rotations"]
# The cart of the recorded cart pole was not moved: that is so, and no false alarm.
TRUE = {
    "state cart_position: never moves: it is 0 in every frame. Look at its topic and driver; if it has none, remove it from `names` and "
    "its column from `source`."
}

type Recorded = dict[str, tuple[Seen, RobotSpec]]


@pytest.fixture(scope="module")
def shared(recordings_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The numbers of the shared recordings: ingested without their cameras."""
    return dict(_ingested(recordings_dir, tmp_path_factory))


def _ingested(recordings_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, tuple[Seen, RobotSpec]]]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLA_OPS_TEST_RECORDINGS", str(recordings_dir))
        for name in SHARED:
            robot = load_robot(ROBOTS / name)
            robot = replace(robot, spec=robot.spec.model_copy(update={"cameras": {}}))
            outcome = run(robot, tmp_path_factory.mktemp(name))
            episodes = [episode for recording in outcome.states for episode in outcome.store.read_episodes(recording)]
            yield name, (remembering(Seen.of(episodes)), robot.spec)


def alarms(seen: Seen, spec: RobotSpec) -> set[str]:
    return {str(verdict) for check in NUMERIC for verdict in contradictions(JUDGES[check](seen, spec))}


@pytest.mark.parametrize("name", SHARED)
def test_nothing_is_wrong_in_an_untouched_recording(shared: Recorded, name: str) -> None:
    assert alarms(*shared[name]) <= TRUE


def test_nothing_is_wrong_in_the_recordings_of_aloha_sim(aloha: tuple[Seen, RobotSpec]) -> None:
    assert alarms(*aloha) == set()


def test_the_grippers_of_robosuite_open_at_their_low_end_and_the_yaml_has_to_say_so(shared: Recorded) -> None:
    seen, spec = shared["robosuite_handover"]
    assert not isinstance(spec.action, list) or all(part.open_at == "low" for part in spec.action if part.kind == "gripper")
    assert isinstance(spec.action, list)
    unsaid = spec.model_copy(update={"action": [part.model_copy(update={"open_at": "high"}) for part in spec.action]})
    assert [verdict.todo for verdict in contradictions(JUDGES["grippers"](seen, unsaid))] == [
        "Write `open_at: low` in the entry of `action` that reads `actions[6:7]`.",
        "Write `open_at: low` in the entry of `action` that reads `actions[13:14]`.",
    ]


@pytest.mark.parametrize("corruption", [*(c for c in CORRUPTIONS if "actions" in c.checks), *OF_NUMBERS], ids=lambda c: c.name)
def test_a_mistake_in_real_recordings_is_found(aloha: tuple[Seen, RobotSpec], shared: Recorded, corruption: Corruption) -> None:
    results = [found for seen, spec in [aloha, *shared.values()] if (found := recall(corruption, seen, spec)) is not None]
    made = sum(result.made for result in results)
    assert made > 0
    missed = [subject for result in results for subject in result.missed]
    assert len(missed) <= (1 - LEAST.get(corruption.name, 0.95)) * made, missed
