"""The task text in a file beside the recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from vla_ops.episodes.task_file import first_text, task_in_file, version_with_task
from vla_ops.errors import RecordingError
from vla_ops.spec import TaskFrom
from vla_ops_tests.episodes.ingesting import Run, robot_at, run, write_arm


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("1. Pick up the cup\n2. Lift the cup\n", "Pick up the cup"),
        ("\n  \n2) put it down", "put it down"),
        ("1、把杯子放到盘子上\r\n2、放下\r\n", "把杯子放到盘子上"),
        ("1:fold the towel", "fold the towel"),
        ("12．fold", "fold"),  # noqa: RUF001
        ("\ufeff1. \u200bstack\u200b the cups\u200b", "stack the cups"),
        ("1.\n2. the first line has only its number", "the first line has only its number"),
        ("2 cups onto the plate", "2 cups onto the plate"),
        ("2.5 kg to the left", "2.5 kg to the left"),
        ("1. 2.5 kg to the left", "2.5 kg to the left"),
        ("\u200b\n \ufeff \n3.\n", ""),
        ("", ""),
    ],
)
def test_the_first_line_that_says_something_counts_without_its_number(lines: str, text: str) -> None:
    assert first_text(lines) == text


def test_a_file_that_is_missing_empty_or_not_utf_8_is_named(tmp_path: Path) -> None:
    recording, file = str(tmp_path / "a.hdf5"), tmp_path / "inst.txt"
    with pytest.raises(RecordingError, match=f"no task text: No such file.*{file}.*task: {{from: folder}}"):
        task_in_file(recording, "inst.txt")
    file.write_text("1. \n\n")
    with pytest.raises(RecordingError, match=f"says nothing; found {file}, 5 bytes"):
        task_in_file(recording, "inst.txt")
    file.write_bytes("1. 把杯子放到盘子上".encode("gbk"))
    with pytest.raises(RecordingError, match=f"not UTF-8; found {file}.*Save it again as UTF-8"):
        task_in_file(recording, "inst.txt")


def test_a_recording_that_is_a_folder_has_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "inst.txt").write_text("1. open the drawer")
    assert task_in_file(f"{tmp_path}/dataset.zarr/", "inst.txt") == "open the drawer"


def test_a_store_that_is_not_local_is_read_where_the_recording_is() -> None:
    import fsspec

    with fsspec.open("memory://task_file/pick/inst.txt", "w") as file:
        file.write("1. pick the cup\n")
    assert task_in_file("memory://task_file/pick/a.hdf5", "inst.txt") == "pick the cup"
    with pytest.raises(RecordingError, match="task_file/place/inst"):
        task_in_file("memory://task_file/place/a.hdf5", "inst.txt")


def test_another_text_is_another_version(tmp_path: Path) -> None:
    recording, file = str(tmp_path / "a.hdf5"), tmp_path / "inst.txt"
    versions = {version_with_task("c0", recording, "inst.txt")}
    for text in ("pick", "place"):
        file.write_text(text)
        versions.add(version_with_task("c0", recording, "inst.txt"))
    versions.add(version_with_task("c1", recording, "inst.txt"))
    assert len(versions) == 4


def test_lines_after_the_first_text_and_its_number_make_no_other_version(tmp_path: Path) -> None:
    recording, file = str(tmp_path / "a.hdf5"), tmp_path / "inst.txt"
    versions = set()
    for text in ("pick", "1. pick\n", "\n1. pick\n2. place\n", "\ufeffpick\r\nplace"):
        file.write_text(text)
        versions.add(version_with_task("c0", recording, "inst.txt"))
    assert len(versions) == 1


def test_a_file_that_is_not_utf_8_has_a_version_of_its_own(tmp_path: Path) -> None:
    recording, file = str(tmp_path / "a.hdf5"), tmp_path / "inst.txt"
    file.write_bytes("把".encode("gbk"))
    assert len(version_with_task("c0", recording, "inst.txt")) == 16


@pytest.mark.parametrize("task", [{"file": "inst.txt", "text": "x"}, {"file": "inst.txt", "from": "folder"}, {"file": "a/inst.txt"}, {}])
def test_a_task_comes_from_one_place_and_its_file_lies_beside_the_recording(task: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        TaskFrom.model_validate(task)


def _arm(folder: Path) -> Run:
    return run(robot_at(folder, "*/*.hdf5", "hdf5", task={"file": "inst.txt"}), folder / "home")


def _tasks(done: Run, recording: str) -> list[str]:
    return [episode.meta.task for episode in done.store.read_episodes(recording)]


def test_recordings_are_converted_again_when_the_text_beside_them_changes_and_the_others_are_not(tmp_path: Path) -> None:
    for k, task in enumerate(("pick", "place")):
        write_arm(tmp_path / task / "episode_0.hdf5", seed=k)
        (tmp_path / task / "inst.txt").write_text(f"1. {task} the cup\n2. wait\n")
    done = _arm(tmp_path)
    assert _tasks(done, "pick/episode_0.hdf5") == ["pick the cup"]
    assert _tasks(done, "place/episode_0.hdf5") == ["place the cup"]
    (tmp_path / "pick" / "inst.txt").write_text("1. pick the red cup\n")
    again = _arm(tmp_path)
    assert again.states == {"pick/episode_0.hdf5": "converted"}
    assert _tasks(again, "pick/episode_0.hdf5") == ["pick the red cup"]
    assert _arm(tmp_path).states == {}


def test_a_missing_file_quarantines_its_recordings_until_it_is_there(tmp_path: Path) -> None:
    write_arm(tmp_path / "pick" / "episode_0.hdf5")
    reason = _arm(tmp_path).reason("pick/episode_0.hdf5")
    assert f"expected {tmp_path / 'pick' / 'inst.txt'}" in reason
    (tmp_path / "pick" / "inst.txt").write_text("pick the cup")
    assert _arm(tmp_path).states == {"pick/episode_0.hdf5": "converted"}


def test_copies_of_a_recording_count_once_whatever_the_text_beside_them_says(tmp_path: Path) -> None:
    for task in ("pick", "place"):
        write_arm(tmp_path / task / "episode_0.hdf5")
        (tmp_path / task / "inst.txt").write_text(task)
    assert "the same bytes as pick/episode_0.hdf5" in _arm(tmp_path).reason("place/episode_0.hdf5")
