"""One episode for a person: which one is meant, what is said of it, and the files that show it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vla_ops.curation import Curation, CurationSpec
from vla_ops.episodes.look import Look, facts, find_episode, look_at
from vla_ops.episodes.store import RECORDING, Episode, Finding, RobotStore
from vla_ops.errors import RecordingError, StoreError
from vla_ops.files import write_json
from vla_ops.robot_file import Robot
from vla_ops_tests.datasets.episode_folders import Kind, changed, spec, write_episode

KIND = Kind(codec="mjpeg", cameras=("cam_high", "cam_wrist"), rate_hz=10)


class Shelf:
    """A store whose episodes were never converted, and the robot they are of."""

    def __init__(self, folder: Path, kind: Kind = KIND) -> None:
        self.kind, self.store, self.robot = kind, RobotStore.of("arm", folder), Robot("arm", folder, spec(kind))

    def add(self, recording: str, count: int = 1, length: int = 25) -> list[Episode]:
        episodes = [write_episode(self.store.episodes, recording, length, kind=self.kind, index=k) for k in range(count)]
        write_json(self.store.recording_folder(recording) / RECORDING, {"recording": recording, "episodes": list(range(count))})
        return episodes

    def look(self, wanted: str, **options: Any) -> Look:
        return look_at(wanted, self.robot, self.store, **options)

    def curate(self, **episodes: Any) -> None:
        self.robot = Robot("arm", self.robot.folder, self.robot.spec, Curation(CurationSpec.model_validate({"episodes": episodes})))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


# Which one


def test_an_episode_is_found_by_its_id_and_by_its_recording_where_that_has_one(shelf: Shelf):
    shelf.add("monday/a.hdf5")
    shelf.add("b.zarr", count=3)
    assert find_episode(shelf.store, "monday/a.hdf5/0").id == "monday/a.hdf5/0"
    assert find_episode(shelf.store, "monday/a.hdf5").id == "monday/a.hdf5/0"
    assert find_episode(shelf.store, "b.zarr/2").id == "b.zarr/2"
    with pytest.raises(RecordingError, match=r"several episodes \[file b.zarr\]; found 3. Name one: b.zarr/0 .. b.zarr/2"):
        find_episode(shelf.store, "b.zarr")


@pytest.mark.parametrize(
    ("wanted", "nearest"), [("monday/a.hdf5/1", "monday/a.hdf5/0"), ("munday/a.hdf5/0", "monday/a.hdf5/0"), ("b.zarr/3", "b.zarr/2")]
)
def test_an_unknown_episode_is_named_with_the_nearest(shelf: Shelf, wanted: str, nearest: str):
    shelf.add("monday/a.hdf5")
    shelf.add("b.zarr", count=3)
    with pytest.raises(RecordingError, match=rf"no such episode \[episode {wanted}\]. Did you mean '{nearest}'\?"):
        find_episode(shelf.store, wanted)


def test_where_nothing_is_near_one_is_named_and_where_nothing_is_that_is_said(shelf: Shelf):
    with pytest.raises(RecordingError, match="Nothing is converted yet"):
        find_episode(shelf.store, "a.hdf5/0")
    shelf.add("a.hdf5")
    with pytest.raises(RecordingError, match=r"There are 1, such as 'a.hdf5/0'"):
        find_episode(shelf.store, "zzzzzz")


def test_an_episode_in_quarantine_is_named_with_the_reason(shelf: Shelf):
    shelf.store.write_quarantine("bad.hdf5", {"source_version": "v", "spec_fingerprint": "f", "quarantined": "the file is cut off"})
    for wanted in ("bad.hdf5", "bad.hdf5/0"):
        with pytest.raises(RecordingError, match=r"in quarantine \[episode bad.hdf5.*found the file is cut off"):
            find_episode(shelf.store, wanted)


def test_an_id_leads_to_nothing_outside_the_store(shelf: Shelf, tmp_path: Path):
    shelf.add("a.hdf5")
    Shelf(tmp_path / "other").add("b.hdf5")
    for wanted in ("../../other/arm/episodes/b.hdf5/0", "../episodes/a.hdf5/0", str(shelf.store.episodes / "a.hdf5/0")):
        with pytest.raises(RecordingError, match="no such episode"):
            shelf.look(wanted)
    assert not (shelf.store.root / "looks").exists()


# What is said


def cells(text: str, beginning: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(beginning)]
    return line.split()


def test_the_facts_are_task_length_cameras_and_the_range_of_each_dimension_with_its_unit(shelf: Shelf):
    (episode,) = shelf.add("a.hdf5", length=25)
    said = facts(episode, shelf.robot)
    assert said.startswith("arm a.hdf5/0\n  task ")
    assert cells(said, "  task")[1:] == ["pick"]
    assert "25 frames, 2.50 s at 10 Hz" in said
    assert cells(said, "cam_wrist")[:7] == ["cam_wrist", "64", "x", "96", "mjpeg", "yuvj420p", "25"]
    # Column 0 counts the frames; the action is the next state.
    assert cells(said, "j1 ") == ["j1", "rad", "0", "24", "12", "1", "25", "13"]
    assert cells(said, "gripper ")[:2] == ["gripper", "m"]
    assert said.endswith("findings: none")


def test_skews_and_findings_are_said(shelf: Shelf):
    (episode,) = shelf.add("a.hdf5")
    skew = {"p50": 1.5, "p99": 8.25, "max": 9.0}
    arm = {"samples": 50, "rate_hz": None, "skew_ms": skew, "largest_step_ms": 20.0, "same_stamps": 0, "dropped_fraction": 0.013}
    finding = Finding("frozen_camera_s", "warn", "cam_high", 2.0, 1.0, "cam_high: shows the same image for 2.0 s")
    said = facts(changed(episode, measured={"/arm": arm, "state j1": {"jump": 1}}, findings=[finding]), shelf.robot)
    assert cells(said, "/arm") == ["/arm", "50", "-", "1.5", "8.25", "9", "20", "1.3%"]
    assert said.endswith("findings\n  warn  frozen_camera_s  cam_high: shows the same image for 2.0 s")


def test_an_episode_of_another_yaml_is_called_outdated_and_shown_with_its_own_names(shelf: Shelf):
    (episode,) = shelf.add("a.hdf5")
    assert "the YAML or its curation has changed since: `vla-ops convert arm`" in facts(episode, shelf.robot)
    fresh = changed(episode, spec_fingerprint=shelf.robot.spec.conversion_fingerprint)
    assert "outdated" not in facts(fresh, shelf.robot)
    renamed = changed(episode, state_names=["waist", "j2", "gripper"])
    assert cells(facts(renamed, shelf.robot), "waist ") == ["waist", "-", "0", "24", "12", "-", "-", "-"]


def test_an_episode_that_is_excluded_or_cut_is_shown_and_that_is_said(shelf: Shelf):
    shelf.add("a.hdf5")
    shelf.add("b.hdf5")
    shelf.curate(**{"a.hdf5": {"exclude": "the cup fell"}, "b.hdf5/0": {"trim": {"end_s": 1.5}, "task": "put it down"}})
    assert "not in the dataset: the cup fell" in shelf.look("a.hdf5").facts
    said = shelf.look("b.hdf5").facts
    assert "its task there: put it down" in said
    assert "cut to: 0 s to 1.5 s" in said


# Its files


def test_a_contact_sheet_and_plots_are_written_beside_what_is_in_the_folder(shelf: Shelf, tmp_path: Path):
    shelf.add("a.hdf5")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep me")
    look = shelf.look("a.hdf5/0", out=tmp_path / "out")
    assert {path.name for path in look.folder.iterdir()} == {"mine.txt", *(path.name for path in look.files)}
    with Image.open(look.folder / "contact_sheet.jpg") as sheet, Image.open(look.folder / "vectors.png") as plot:
        # Six frames of each of two cameras, and a lane for each of three dimensions.
        assert sheet.size[0] == 6 * 160
        assert plot.size[0] > 600


def test_the_usual_folder_is_that_of_the_episode_and_looking_again_replaces_what_is_in_it(shelf: Shelf):
    shelf.add("monday/a.hdf5")
    first = shelf.look("monday/a.hdf5")
    assert first.folder == shelf.store.root / "looks/monday/a.hdf5/0"
    assert (first.folder / "contact_sheet.jpg").exists()
    blind = Shelf(shelf.robot.folder, Kind(cameras=(), rate_hz=10))
    for path in shelf.store.recording_folder("monday/a.hdf5").rglob("*.*"):
        path.unlink()
    shelf.store.recording_folder("monday/a.hdf5").joinpath("0").rmdir()
    blind.add("monday/a.hdf5")
    second = blind.look("monday/a.hdf5")
    assert not (second.folder / "contact_sheet.jpg").exists()
    assert {path.name for path in second.folder.iterdir()} == {path.name for path in second.files}


def test_without_the_rerun_sdk_the_pictures_are_written_and_the_extra_is_named(shelf: Shelf, monkeypatch: pytest.MonkeyPatch):
    shelf.add("a.hdf5")
    # What an import finds where the package is not installed.
    monkeypatch.setitem(sys.modules, "rerun", None)
    look = shelf.look("a.hdf5")
    assert look.note == "no episode.rrd: the Rerun SDK is not installed; `uv sync --extra viz` installs it"
    assert [path.name for path in look.files] == ["contact_sheet.jpg", "vectors.png"]
    assert all(path.stat().st_size > 1000 for path in look.files)


@pytest.mark.parametrize("name", ["frames.parquet", "cam_wrist.mp4"])
def test_a_file_that_is_missing_is_named_with_the_command_that_makes_it_again(shelf: Shelf, name: str):
    (episode,) = shelf.add("a.hdf5")
    (episode.folder / name).unlink()
    with pytest.raises(StoreError, match=rf"missing \[file .*{name}, episode a.hdf5/0\]. Run `vla-ops convert arm --only a.hdf5`"):
        shelf.look("a.hdf5")
    assert not (shelf.store.root / "looks").exists()


def test_a_folder_that_cannot_be_written_is_named(shelf: Shelf, tmp_path: Path):
    shelf.add("a.hdf5")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*\[file .*file/contact_sheet.jpg"):
        shelf.look("a.hdf5", out=tmp_path / "file")
