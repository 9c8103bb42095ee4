"""What a home in a store must do, whatever the store: its tests subclass `HomeContract` and say how to make the robot's store."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vla_ops.errors import HomeError
from vla_ops.files import only_one
from vla_ops.homes.needs import data, training
from vla_ops.homes.there import there_in
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.machines import Machine


class HomeContract:
    """Subclasses override `store`, an empty one."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def one(self, store: Store, tmp_path: Path) -> Machine:
        return Machine(store, tmp_path / "one")

    @pytest.fixture
    def other(self, store: Store, tmp_path: Path) -> Machine:
        return Machine(store, tmp_path / "other")

    def test_what_one_machine_made_another_one_has(self, one: Machine, other: Machine) -> None:
        one.convert("day1/pick.mcap")
        one.write("lerobot_v3/v1/meta/info.json")
        one.write("lerobot_v3/current.json", "v1")
        assert one.send().units == ("episodes/day1/pick.mcap", "lerobot_v3/current.json", "lerobot_v3/v1")
        other.fetch()
        assert other.files == one.files
        assert other.fetch().units == one.fetch().units == ()

    def test_nothing_new_sends_and_fetches_nothing(self, one: Machine) -> None:
        assert one.send().units == one.fetch().units == ()
        assert one.home.standing().there.id is None
        one.convert("pick.mcap")
        assert one.send().bytes > 0
        before = one.home.standing().there
        assert one.send().bytes == 0
        assert one.home.standing().there.id == before.id

    def test_what_machines_make_of_different_recordings_is_joined(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap")
        one.send()
        other.fetch()
        one.convert("b.mcap")
        other.convert("c.mcap")
        one.send()
        other.send()
        one.fetch()
        other.fetch()
        assert one.files == other.files
        assert {path.split("/")[1] for path in one.files} == {"a.mcap", "b.mcap", "c.mcap"}

    def test_what_is_removed_here_is_removed_there(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap")
        one.write("quarantine/b.mcap.json")
        one.send()
        other.fetch()
        (one.root / "quarantine/b.mcap.json").unlink()
        assert one.send().units == ("quarantine/b.mcap.json",)
        assert other.fetch().units == ("quarantine/b.mcap.json",)
        assert other.files == one.files
        assert not (other.root / "quarantine").exists()

    def test_a_recording_converted_again_is_replaced_whole(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap", "first")
        one.write("episodes/a.mcap/1/episode.json")
        one.send()
        other.fetch()
        one.convert("a.mcap", "second")
        (one.root / "episodes/a.mcap/1/episode.json").unlink()
        one.send()
        other.fetch()
        assert other.files == one.files
        assert "second" in other.files["episodes/a.mcap/0/frames.parquet"]

    def test_of_what_both_converted_the_later_one_counts_and_it_is_said(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap", "of one")
        other.convert("a.mcap", "of the other")
        one.send()
        other.send()
        assert any("changed episodes/a.mcap as well" in line for line in other.said)
        one.fetch()
        assert one.files == other.files
        assert "of the other" in one.files["episodes/a.mcap/0/frames.parquet"]

    def test_what_was_changed_here_is_not_overwritten_by_a_fetch(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap", "of one")
        one.send()
        other.convert("a.mcap", "of the other")
        other.fetch()
        assert "of the other" in other.files["episodes/a.mcap/0/frames.parquet"]

    def test_what_was_removed_here_and_changed_there_comes_back(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap", "first")
        one.send()
        other.fetch()
        one.convert("a.mcap", "second")
        one.send()
        for file in sorted((other.root / "episodes").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        assert other.send().units == ()
        other.fetch()
        assert other.files == one.files

    def test_a_run_that_two_machines_went_on_with_is_refused_until_somebody_says_which_one_counts(
        self, one: Machine, other: Machine
    ) -> None:
        one.train("run1", 100)
        one.send()
        other.fetch()
        one.write("trainings/pi0/run1/metrics.jsonl", "of one")
        one.send()
        other.write("trainings/pi0/run1/metrics.jsonl", "of the other")
        for call in (other.send, other.fetch):
            with pytest.raises(HomeError, match=r"trainings/pi0/run1/metrics\.jsonl") as refused:
                call()
            assert "vla-ops home send arm --mine trainings/pi0/run1`" in str(refused.value)
        assert other.files["trainings/pi0/run1/metrics.jsonl"] == "of the other"
        with pytest.raises(HomeError, match="not changed both here and in the home"):
            other.send(mine=["trainings/pi0/run1/run.json"])
        other.send(mine=["trainings/pi0/run1"])
        assert one.fetch().units == ("trainings/pi0/run1/metrics.jsonl",)
        assert one.files["trainings/pi0/run1/metrics.jsonl"] == "of the other"

    def test_the_homes_side_can_be_chosen_too(self, one: Machine, other: Machine) -> None:
        one.train("run1", 100, "of one")
        one.send()
        other.train("run1", 100, "of the other")
        with pytest.raises(HomeError, match="a run was changed here and on another machine"):
            other.fetch()
        other.fetch(theirs=["trainings/pi0/run1"])
        assert other.files == one.files

    def test_only_what_is_wanted_is_fetched_and_nothing_else_is_taken_for_removed(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap")
        one.train("run1", 100)
        one.send()
        other.fetch(data)
        assert {path.split("/")[0] for path in other.files} == {"episodes"}
        other.convert("b.mcap")
        other.send()
        one.fetch()
        assert {path.split("/")[0] for path in one.files} == {"episodes", "trainings"}
        other.fetch()
        assert other.files == one.files

    def test_a_checkpoint_without_its_train_state_keeps_it_in_the_home(self, one: Machine, other: Machine, tmp_path: Path) -> None:
        one.train("run1", 100)
        one.send()
        other.fetch(training("pi0", to_resume=False))
        step = "trainings/pi0/run1/100"
        assert {path for path in other.files if path.startswith(step)} == {f"{step}/params/d/0", f"{step}/assets/norm_stats.json"}
        # Changed here, nobody knows whether it belongs to what is there.
        other.write(f"{step}/assets/norm_stats.json", "changed")
        for call in (other.send, other.fetch):
            with pytest.raises(HomeError, match="a part is only in the home"):
                call()
        other.fetch(theirs=[step])
        third = Machine(one.store, tmp_path / "third")
        third.fetch()
        assert third.files == other.files == one.files
        # Removed here, it is gone there.
        for path in list(other.files):
            if path.startswith(step):
                (other.root / path).unlink()
        other.send()
        third.fetch()
        assert {path for path in third.files if path.startswith(step)} == set()
        # What is wanted later comes later.
        one.train("run2", 100)
        one.send()
        other.fetch(training("pi0", to_resume=False))
        other.fetch(training("pi0", to_resume=True))
        assert "trainings/pi0/run2/100/train_state/d/0" in other.files

    def test_what_is_the_same_is_sent_once_and_linked_where_it_is_fetched(self, one: Machine, other: Machine) -> None:
        one.write("episodes/a.mcap/recording.json")
        one.write("episodes/a.mcap/0/cam_high.mp4", "a video")
        one.write("lerobot_v21/v1/videos/cam_high.mp4", "a video")
        assert one.send().bytes == len("episodes/a.mcap/recording.json") + len("a video")
        other.fetch()
        assert other.files == one.files
        assert (other.root / "episodes/a.mcap/0/cam_high.mp4").samefile(other.root / "lerobot_v21/v1/videos/cam_high.mp4")

    def test_files_that_grow_are_never_links_of_one_another(self, one: Machine, other: Machine) -> None:
        for run in ("run1", "run2"):
            one.write(f"trainings/pi0/{run}/metrics.jsonl", "the same line\n")
        one.send()
        other.fetch()
        with (other.root / "trainings/pi0/run1/metrics.jsonl").open("a") as log:
            log.write("more\n")
        assert other.files["trainings/pi0/run2/metrics.jsonl"] == "the same line\n"

    def test_times_that_tell_which_run_is_the_last_one_come_along(self, one: Machine, other: Machine) -> None:
        for k, run in enumerate(("late", "early")):
            one.train(run, 100)
            for path in sorted((one.root / "trainings/pi0" / run).rglob("*")):
                os.utime(path, ns=(10**18 - k, 10**18 - k))
        one.send()
        other.fetch()
        for path in ("run.json", "100"):
            times = [(other.root / "trainings/pi0" / run / path).stat().st_mtime_ns for run in ("late", "early")]
            assert times == [10**18, 10**18 - 1]

    def test_locks_unfinished_work_and_looks_stay_on_their_machine(self, one: Machine, other: Machine) -> None:
        one.convert("a.mcap")
        sent = one.files
        for path in ("episodes/.lock", "episodes/b.mcap.tmp-1-ab-host/0/episode.json", "looks/a.mcap/0/cam.png", "cache/x"):
            one.write(path)
        one.write("trainings/pi0/run1/200.orbax-checkpoint-tmp/params/d/0")
        one.send()
        other.fetch()
        assert other.files == sent

    def test_of_a_run_that_is_being_trained_finished_steps_are_sent_and_nothing_is_changed(self, one: Machine, other: Machine) -> None:
        one.train("run1", 100)
        one.write("trainings/pi0/run1/metrics.jsonl")
        one.write("trainings/pi0/run1/pictures/curves.png")
        one.write("trainings/pi0/run1/pictures/summary.json")
        run = one.root / "trainings/pi0/run1"
        with only_one(run, lambda _: None):
            done = one.send()
            assert done.busy == ("trainings/pi0/run1",)
            assert done.units == ("trainings/pi0/run1/100", "trainings/pi0/run1/run.json")
        assert one.send().units == ("trainings/pi0/run1/metrics.jsonl", "trainings/pi0/run1/pictures")
        with only_one(run, lambda _: None):
            other.fetch()
            other.write("trainings/pi0/run1/run.json", "changed")
            other.send()
            assert one.fetch().units == ()
        assert one.fetch().units == ("trainings/pi0/run1/run.json",)

    def test_machines_that_send_at_once_lose_nothing(self, store: Store, tmp_path: Path) -> None:
        machines = [Machine(store, tmp_path / f"machine{k}") for k in range(4)]
        for k, machine in enumerate(machines):
            machine.convert(f"{k}.mcap")
        with ThreadPoolExecutor(len(machines)) as pool:
            list(pool.map(Machine.send, machines))
        machines[0].fetch()
        assert {path.split("/")[1] for path in machines[0].files} == {f"{k}.mcap" for k in range(len(machines))}
        there = there_in(store)
        assert len(there.before) == len(machines) - 1

    def test_a_copy_that_was_deleted_removes_nothing_from_the_home(self, one: Machine, other: Machine) -> None:
        import shutil

        one.convert("a.mcap")
        one.send()
        files = one.files
        shutil.rmtree(one.root)
        assert one.send().units == ()
        one.fetch()
        other.fetch()
        assert one.files == other.files == files

    def test_a_content_that_is_damaged_there_is_named_and_nothing_here_is_changed(self, one: Machine, other: Machine, store: Store) -> None:
        one.write("norm_stats/v1/norm_stats.json", "right")
        one.send()
        (kept,) = there_in(store).state.files.values()
        blob = f"blobs/{kept.sha256[:2]}/{kept.sha256}"
        seen = store.pointer(blob)
        assert store.point(blob, b"wrong", seen=seen)
        with pytest.raises(HomeError, match="another content") as refused:
            other.fetch()
        assert blob in str(refused.value)
        assert "norm_stats/v1/norm_stats.json sends it again: `vla-ops home mend arm`" in str(refused.value)
        assert other.files == {}

    def test_a_home_of_a_newer_version_is_not_touched(self, one: Machine, store: Store) -> None:
        from vla_ops.homes.state import packed, state_id

        content = packed({"format": 3, "units": {}})
        store.point(f"states/{state_id(content)}", content, seen=None)
        told = {"state": state_id(content), "number": 1, "before": [], "by": "it", "at": "now"}
        store.point("state.json", json.dumps(told).encode(), seen=None)
        one.convert("a.mcap")
        with pytest.raises(HomeError, match="newer version"):
            one.send()

    def test_a_home_that_names_files_outside_of_it_is_refused(self, one: Machine, store: Store) -> None:
        from vla_ops.homes.state import packed, state_id

        content = packed({"format": 1, "units": {"quarantine/a": {"quarantine/../../../a": [1, "0" * 64, 0]}}})
        store.point(f"states/{state_id(content)}", content, seen=None)
        told = {"state": state_id(content), "number": 1, "before": [], "by": "it", "at": "now"}
        store.point("state.json", json.dumps(told).encode(), seen=None)
        with pytest.raises(HomeError, match="outside of the robot's folder"):
            one.fetch()

    def test_the_copy_of_one_home_is_not_sent_to_another(self, one: Machine, tmp_path: Path) -> None:
        from vla_ops.publishing.stores import LocalStore

        one.convert("a.mcap")
        one.send()
        elsewhere = Machine(LocalStore(tmp_path / "elsewhere"), one.folder)
        with pytest.raises(HomeError, match="copy is of another home"):
            elsewhere.send()
