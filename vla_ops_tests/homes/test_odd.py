"""What happens to a home and its copy besides steps: shares that are not mounted, backups, odd files, names and moments."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from vla_ops.errors import HomeError, SpecError
from vla_ops.files import only_one
from vla_ops.homes.at_home import at_home, robot_home
from vla_ops.homes.blobs import Blobs
from vla_ops.homes.needs import everything, said, training
from vla_ops.homes.robot_home import RobotHome
from vla_ops.publishing.stores import LocalStore
from vla_ops.publishing.stores.base import Pointer
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.homes.test_dying import Died

STEP = "trainings/pi0/run1/100"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return tmp_path / "share/arm"


@pytest.fixture
def one(share: Path, tmp_path: Path) -> Machine:
    return Machine(LocalStore(share), tmp_path / "one")


@pytest.fixture
def other(share: Path, tmp_path: Path) -> Machine:
    return Machine(LocalStore(share), tmp_path / "other")


def test_a_share_that_is_not_mounted_is_not_an_empty_home(one: Machine, share: Path) -> None:
    one.convert("a.mcap")
    one.send()
    files = one.files
    share.rename(share.with_name("away"))
    for call in (one.fetch, one.send):
        with pytest.raises(HomeError, match="the home is not what it was") as refused:
            call()
        assert "mounted" in str(refused.value)
    assert one.files == files
    assert not share.exists()
    share.with_name("away").rename(share)
    assert one.fetch().units == ()


def test_a_home_that_was_set_back_takes_nothing_from_who_has_more(one: Machine, other: Machine, share: Path, tmp_path: Path) -> None:
    one.convert("a.mcap")
    one.send()
    shutil.copytree(share, tmp_path / "backup")
    one.train("run1", 100)
    one.send()
    files = one.files
    shutil.rmtree(share)
    (tmp_path / "backup").rename(share)
    other.fetch()
    with pytest.raises(HomeError, match="vla-ops home join"):
        one.fetch()
    assert set(one.home.join().mine) == {STEP, "trainings/pi0/run1/run.json"}
    one.fetch()
    one.send()
    other.fetch()
    assert one.files == other.files == files


def test_what_is_here_in_part_is_never_sent_as_all_of_it(one: Machine, other: Machine, share: Path, tmp_path: Path) -> None:
    one.convert("a.mcap", "first")
    one.train("run1", 100)
    one.send()
    shutil.copytree(share, tmp_path / "backup")
    one.convert("a.mcap", "second")
    one.send()
    other.fetch(training("pi0", to_resume=False))
    shutil.rmtree(share)
    (tmp_path / "backup").rename(share)
    assert other.home.join().mine == ()
    other.fetch(training("pi0", to_resume=False))
    other.send()
    third = Machine(one.store, tmp_path / "third")
    third.fetch()
    assert third.files["episodes/a.mcap/0/cam_high.mp4"].endswith("first")
    assert f"{STEP}/train_state/d/0" in third.files
    # Where a home is gone for good, it goes there only if somebody says so.
    shutil.rmtree(share)
    assert STEP in other.home.join().mine
    for call in (other.send, other.fetch):
        with pytest.raises(HomeError, match="a part is only in the home"):
            call()
    one.home.join()
    one.send()
    with pytest.raises(HomeError, match="a part is only in the home"):
        other.send()
    other.fetch(theirs=["episodes", "trainings"])
    assert {path: text for path, text in one.files.items() if path in other.files} == other.files
    assert other.files == one.files


def test_a_home_over_which_a_backup_was_copied_is_found_even_when_it_went_on(
    one: Machine, other: Machine, share: Path, tmp_path: Path
) -> None:
    one.convert("a.mcap")
    one.send()
    shutil.copytree(share, tmp_path / "backup")
    other.fetch()
    one.train("run1", 100)
    one.send()
    shutil.copytree(tmp_path / "backup", share, dirs_exist_ok=True)
    other.write("quarantine/x.json")
    other.send()
    with pytest.raises(HomeError, match="the home is not what it was"):
        one.fetch()
    one.home.join()
    one.fetch()
    one.send()
    other.fetch()
    assert one.files == other.files
    assert f"{STEP}/params/d/0" in one.files


def test_what_a_fetch_was_to_link_to_and_that_changes_meanwhile_is_fetched(
    one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.convert("r", "frames")
    one.send()
    other.fetch()
    one.write("lerobot_v3/v1/data/0", other.files["episodes/r/0/frames.parquet"])
    one.write("lerobot_v3/v1/data/1", "more")
    one.send()
    fetch = Blobs.fetch

    def meanwhile(self: Blobs, wanted: Any) -> Any:
        if any(kept.size == len("more") for kept in wanted.values()):
            other.convert("r", "FRAMES")
        return fetch(self, wanted)

    monkeypatch.setattr(Blobs, "fetch", meanwhile)
    with monkeypatch.context() as once:
        once.setattr("vla_ops.homes.robot_home._TRIES", 1)
        with pytest.raises(HomeError, match=r"changed here every time it was fetched.*lerobot_v3/v1"):
            other.fetch()
    other.fetch()
    assert {path: text for path, text in other.files.items() if path.startswith("lerobot")} == {
        path: text for path, text in one.files.items() if path.startswith("lerobot")
    }
    assert other.send().units == ("episodes/r",)


def test_a_file_that_rotted_here_mends_nothing(one: Machine, other: Machine, share: Path) -> None:
    file = one.write("semantics/a.json", "right")
    one.send()
    time_ns = file.stat().st_mtime_ns
    file.write_text("wrong")
    os.utime(file, ns=(time_ns, time_ns))
    next(path for path in (share / "blobs").rglob("*") if path.is_file()).unlink()
    done, lost = one.home.mend()
    assert (done.units, lost) == ((), ["semantics/a.json"])
    assert any("look at the disk" in line for line in one.said)


def test_a_machine_that_was_away_for_long_is_not_taken_for_a_stranger(
    one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ops.homes.there._REMEMBERED", 2)
    other.convert("a.mcap")
    other.send()
    for k in range(5):
        one.convert(f"{k}.mcap")
        one.send()
    other.fetch()
    one.fetch()
    assert other.files == one.files


def test_one_that_died_while_a_checkpoint_was_completed_did_not_remove_it(
    one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.train("run1", 100)
    one.send()
    other.fetch(training("pi0", to_resume=False))
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        done = rename(self, target)
        if self.name == "100":
            raise Died
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(Died):
            other.fetch(training("pi0", to_resume=True))
    assert not (other.root / STEP).exists()
    other.send()
    other.fetch(training("pi0", to_resume=True))
    one.fetch()
    assert {path for path in other.files if path.startswith(f"{STEP}/")} == {path for path in one.files if path.startswith(f"{STEP}/")}
    assert f"{STEP}/train_state/d/0" in other.files


def test_what_cannot_be_read_was_not_removed(one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one.convert("a.mcap")
    one.send()
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("a.mcap"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        with pytest.raises(HomeError, match=r"cannot be read: Permission denied.*a\.mcap"):
            one.send()
    other.fetch()
    assert other.files == one.files


def test_links_of_wandb_stay_here_and_others_are_refused_when_they_were_to_be_sent(one: Machine, other: Machine) -> None:
    one.train("run1", 100)
    wandb = one.root / "trainings/pi0/run1/wandb"
    one.write("trainings/pi0/run1/wandb/offline-run-1/files/config.yaml")
    (wandb / "latest-run").symlink_to("offline-run-1")
    (wandb / "debug.log").symlink_to("offline-run-1/nothing")
    one.send()
    other.fetch()
    assert "trainings/pi0/run1/wandb/offline-run-1/files/config.yaml" in other.files
    (one.root / "episodes").symlink_to(one.folder)
    one.fetch()
    with pytest.raises(HomeError, match="there is a link") as refused:
        one.send()
    assert "arm/episodes" in str(refused.value)


def test_odd_names_come_along_and_what_is_no_text_is_refused(one: Machine, other: Machine) -> None:
    for name in ("a\\b", "a b", "ä%20", "line\nbreak", "#?"):
        one.write(f"semantics/{name}.json")
    one.write("semantics/empty.json").write_text("")
    one.send()
    other.fetch()
    assert other.files == one.files
    (one.root / os.fsdecode(b"semantics/\xff.json")).write_text("")
    with pytest.raises(HomeError, match="no text"):
        one.send()


def test_what_was_files_may_become_a_unit_and_a_folder_a_file(one: Machine, other: Machine) -> None:
    one.write("episodes/r/0/frames.parquet")
    one.write("semantics/x/y.json")
    one.send()
    other.fetch()
    one.write("episodes/r/recording.json")
    shutil.rmtree(one.root / "semantics/x")
    one.write("semantics/x", "a file")
    one.send()
    other.fetch()
    assert other.files == one.files
    assert other.send().units == ()


def test_recordings_within_one_another_are_refused(one: Machine, other: Machine) -> None:
    one.convert("s")
    one.send()
    other.convert("s/ep2")
    with pytest.raises(HomeError, match="lie within another's"):
        other.fetch()
    assert "episodes/s/ep2/recording.json" in other.files


def test_a_step_that_the_trainer_removed_stays_removed_whoever_looks_meanwhile(one: Machine, other: Machine) -> None:
    one.train("run1", 100)
    one.send()
    other.fetch()
    with only_one(other.root / "trainings/pi0/run1", lambda _: None):
        other.train("run1", 200)
        shutil.rmtree(other.root / STEP)
        other.fetch(said)
    other.send()
    one.fetch()
    assert not (one.root / STEP).exists()
    assert (one.root / "trainings/pi0/run1/200").is_dir()


def test_a_checkpoint_written_anew_is_not_mixed_with_what_was_left_in_the_home(one: Machine, other: Machine) -> None:
    one.train("run1", 100)
    one.send()
    other.fetch(said)
    other.train("run1", 100, "other weights")
    (other.root / f"{STEP}/train_state/d/0").unlink()
    with pytest.raises(HomeError, match="a part is only in the home"):
        other.send()
    # Said to count, it counts alone.
    other.send(mine=[STEP])
    one.fetch()
    assert {path: text for path, text in one.files.items() if path.startswith(STEP)} == {
        path: text for path, text in other.files.items() if path.startswith(STEP)
    }


def test_files_of_two_runs_are_not_one(one: Machine, other: Machine) -> None:
    for content in ("", "the same header"):
        for run in ("run1", "run2"):
            one.write(f"trainings/pi0/{run}/wandb/out.log").write_text(content)
        one.write("lerobot_v3/v1/meta/README.md").write_text(content)
        one.send()
        other.fetch()
        logs = [other.root / f"trainings/pi0/{run}/wandb/out.log" for run in ("run1", "run2")]
        assert len({path.stat().st_ino for path in (*logs, other.root / "lerobot_v3/v1/meta/README.md")}) == 3


def test_a_removal_is_not_forgotten_where_another_machine_was_first(one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one.write("quarantine/a.json")
    one.send()
    one.write("quarantine/b.json")
    one.send()
    other.fetch()
    # The state that it is about to make has the content of an earlier one.
    (other.root / "quarantine/b.json").unlink()
    point = LocalStore.point

    def beaten(self: LocalStore, name: str, content: bytes, *, seen: Pointer | None) -> bool:
        if name == "state.json":
            raise Died
        return point(self, name, content, seen=seen)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "point", beaten)
        with pytest.raises(Died):
            other.send()
    other.send()
    one.fetch()
    assert set(one.files) == {"quarantine/a.json"}


def test_a_content_of_another_size_that_is_on_no_machine_is_lost(one: Machine, other: Machine, share: Path) -> None:
    one.convert("a.mcap")
    one.send()
    next(path for path in (share / "blobs").rglob("*") if path.is_file()).write_text("short")
    done, lost = other.home.mend()
    assert (len(done.units), len(lost)) == (0, 1)
    done, lost = one.home.mend()
    assert (len(done.units), len(lost)) == (1, 0)
    other.fetch()
    assert other.files == one.files


def test_a_fetch_that_goes_on_does_not_write_into_what_is_in_use(one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one.write("semantics/a.json", "as it is at home")
    one.write("lerobot_v3/v1/meta/info.json", "as it is at home")
    one.send()
    monkeypatch.setattr("vla_ops.homes.blobs.Blobs.clear", lambda _: None)
    other.fetch(lambda path: path.startswith("lerobot"))
    with (other.root / "lerobot_v3/v1/meta/info.json").open("a") as file:
        file.write(", and more")
    other.fetch()
    assert other.files == {"semantics/a.json": "as it is at home", "lerobot_v3/v1/meta/info.json": "as it is at home, and more"}


def test_the_error_of_a_step_is_what_counts_and_each_robot_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", f"file://{tmp_path}/share")
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "one"))
    send = RobotHome.send

    def refused(self: RobotHome) -> Any:
        if self.root.name == "arm":
            raise OSError(5, "Input/output error")
        return send(self)

    def step(*, fails: bool) -> None:
        with at_home({"arm": everything, "hand": everything}, lambda _: None):
            Machine(LocalStore(tmp_path), tmp_path / "one").write("../hand/findings.json", str(fails))
            if fails:
                raise ValueError("the real reason")

    monkeypatch.setattr(RobotHome, "send", refused)
    with pytest.raises(ValueError, match="the real reason") as failed:
        step(fails=True)
    assert "arm is on this machine only" in failed.value.__notes__[0]
    with pytest.raises(HomeError, match=r"arm is on this machine only.*vla-ops home send arm"):
        step(fails=False)
    monkeypatch.setattr(RobotHome, "send", send)
    hand = robot_home("hand", lambda _: None)
    assert hand is not None
    assert hand.standing().joined.mine == ()
    with pytest.raises(SpecError, match="cannot have this name"):
        robot_home("../outside", lambda _: None)
