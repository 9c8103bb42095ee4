from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.episodes.semantics import Seen, Verdict, contradictions
from vla_ops.episodes.semantics.seen import Series
from vla_ops.episodes.semantics.task_text import is_junk, normalized
from vla_ops.episodes.semantics.tasks import judge_tasks
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import episode, spec_of

CUP, CLOTH, DRAWER = "put the cup on the plate", "fold the cloth in half", "open the drawer"
SPEC = spec_of(["j1"])


def unread(_: object) -> Series:
    raise AssertionError("task texts stand in episode.json")


def judged(texts: dict[str, str], spec: RobotSpec = SPEC) -> list[Verdict]:
    """The verdicts on recordings of these texts."""
    return judge_tasks(Seen([episode(recording, task=text) for recording, text in texts.items()], unread), spec)


def folder(name: str, text: str, count: int, first: int = 0) -> dict[str, str]:
    return {f"{name}/{k}.mcap": text for k in range(first, first + count)}


# Without sense


@pytest.mark.parametrize(
    "text",
    ["do some thing", "anonymous task", "test", "Task", "task_1", "TASK 12", "untitled", "default", "0042", "2024-01-31", "n/a"],
)
def test_what_says_nothing_of_a_task_is_junk(text: str) -> None:
    (found,) = judged({"a.mcap": text, "b.mcap": CUP})
    assert (found.answer, found.subject) == ("contradicts", f"task {text!r}")
    assert "the text of 1 of 2 episodes says nothing of a task: a.mcap/0" in found.found
    assert '`episodes: {"a.mcap/0": {task: "what the robot does"}}`' in found.todo


@pytest.mark.parametrize("text", ["", "   ", "...", "\n"])
def test_a_text_without_a_letter_is_empty(text: str) -> None:
    (found,) = judged({"a.mcap": text, "b.mcap": CUP})
    assert "is empty" in found.found


def test_where_no_episode_has_a_text_the_yaml_can_give_one() -> None:
    (found,) = judged({"a.mcap": "do some thing", "b.mcap": "do some thing"})
    assert "`task: {text: ...}`" in found.todo


@pytest.mark.parametrize(
    "text",
    ["put_cup", "wipe", "test the button", "open the default drawer", "put the cup in box 3", "折叠毛巾", "plug in the task board"],
)
def test_short_and_odd_tasks_are_tasks(text: str) -> None:
    assert contradictions(judged({"a.mcap": text})) == []


@given(st.text(max_size=30))
def test_a_text_in_other_case_and_punctuation_is_the_same(text: str) -> None:
    assert normalized(f"  {text}_") == normalized(text)
    assert normalized(normalized(text)) == normalized(text)
    assert is_junk(normalized(text)) in (True, False)


# Of another folder


def test_folders_of_one_task_each_agree() -> None:
    (verdict,) = judged({**folder("put_cup", CUP, 5), **folder("fold", CLOTH, 5), **folder("drawer", DRAWER, 2)})
    assert verdict.answer == "agrees"


def test_one_recording_with_the_text_of_another_folder_is_named() -> None:
    (found,) = judged({**folder("put_cup", CUP, 5), "put_cup/9.mcap": "Fold the cloth, in half.", **folder("fold_cloth", CLOTH, 4)})
    assert (found.answer, found.subject) == ("contradicts", "folder put_cup")
    assert "1 of 6 episodes say 'Fold the cloth, in half.', which is the task of folder fold_cloth: put_cup/9.mcap/0" in found.found
    assert '`episodes: {"put_cup/9.mcap/0": {task: "put the cup on the plate"}}`' in found.todo


def test_two_folders_whose_texts_are_exchanged_are_both_named() -> None:
    found = contradictions(judged({**folder("put_cup", "fold cloth", 3), **folder("fold_cloth", "put cup", 3)}))
    assert [v.subject for v in found] == ["folder put_cup", "folder fold_cloth"]
    assert "3 of 3 episodes say 'fold cloth', which is the task of folder fold_cloth" in found[0].found
    assert 'task: "put cup"' in found[0].todo


def test_tasks_of_stations_within_tasks_are_named_once() -> None:
    texts = {**folder("put_cup/s1", CUP, 3), **folder("put_cup/s2", CUP, 3), **folder("fold_cloth/s1", CLOTH, 4)}
    assert contradictions(judged(texts)) == []
    (found,) = contradictions(judged({**texts, "put_cup/s2/9.mcap": CLOTH}))
    assert found.subject == "folder put_cup"


def test_stations_that_all_do_several_tasks_are_no_folders_of_tasks() -> None:
    texts = {f"station{s}/{k}.mcap": (CUP, CLOTH, DRAWER)[k % 3] for s in range(3) for k in range(9)}
    assert {v.answer for v in judged(texts)} == {"cannot tell"}


def test_stations_that_mostly_do_one_task_and_sometimes_another_are_no_folders_of_tasks() -> None:
    texts = {f"station{s}/{k}.mcap": CLOTH if k == 0 else CUP for s in range(3) for k in range(10)}
    assert contradictions(judged(texts)) == []


def test_free_paraphrases_do_not_alarm() -> None:
    said = [
        "put the cup on the plate",
        "place the mug onto the dish",
        "set the cup down on the plate",
        "cup to plate",
        "move cup onto plate",
    ]
    texts = {f"put_cup/{k}.mcap": said[k % 5] for k in range(10)} | folder("fold_cloth", CLOTH, 4)
    assert contradictions(judged(texts)) == []
    once = {**folder("put_cup", CUP, 9), "put_cup/9.mcap": "place the cups onto a dish"}
    assert contradictions(judged(once)) == []


def test_one_odd_text_in_a_folder_that_is_named_after_the_others_is_named() -> None:
    (found,) = contradictions(judged({**folder("put_cup", CUP, 8), "put_cup/9.mcap": "wipe the table"}))
    assert "no word in common" in found.found


def test_too_few_recordings_make_no_majority() -> None:
    assert [v.answer for v in judged({**folder("put_cup", CUP, 2), "put_cup/9.mcap": "wipe the table"})] == ["cannot tell"]


def test_the_same_task_in_two_languages_does_not_alarm() -> None:
    assert contradictions(judged({**folder("put_cup", CUP, 9), "put_cup/9.mcap": "把杯子放在盘子上"})) == []


def test_recordings_at_the_root_have_no_folder_to_differ_from() -> None:
    assert contradictions(judged({"a.mcap": CUP, "b.mcap": CUP, "c.mcap": CUP, "d.mcap": "wipe the table"})) == []


def test_a_text_that_the_yaml_gives_is_not_held_against_folders() -> None:
    spec = spec_of(["j1"], task={"text": "put cup"})
    assert contradictions(judged({**folder("fold_cloth", "put cup", 3), **folder("put_cup", "put cup", 3)}, spec)) == []
