from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vla_ops.curation import Curation, CurationSpec, load_curation
from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.curate import Curated, curated_episodes, not_in_the_dataset
from vla_ops.episodes.plan import forget, forget_outdated, quarantine_reasons
from vla_ops.errors import DatasetError
from vla_ops_tests.episodes.planning import Arm


class CuratedArm(Arm):
    """An arm whose curation is given as it would be written."""

    def curate(self, edits: dict[str, Any] | None = None, /, **held_out: Any) -> CuratedArm:
        said = CurationSpec.model_validate({"episodes": edits or {}, "held_out": held_out})
        self.robot = replace(self.robot, curation=Curation(said))
        return self

    def convert(self) -> list[str]:
        plan = self.plan()
        forget(self.store, plan.removed)
        for file, version in plan.todo:
            trims = self.robot.curation.trims(file.id)
            convert_recording(ConversionJob(file.id, file.uri, version, self.robot.spec, self.store.root, trims=trims))
        return [file.id for file, _ in plan.todo]

    def curated(self) -> Curated:
        return curated_episodes(self.robot, self.store, self.plan())

    def ids(self) -> list[str]:
        return [episode.id for episode in self.curated().episodes]

    def left_out(self) -> list[tuple[str, Any, str]]:
        rows = not_in_the_dataset(self.robot, self.store, [found.file.id for found in self.plan().found])
        return [(row["recording"], row["episode"], row["reason"]) for row in rows]

    def refusal(self) -> str:
        with pytest.raises(DatasetError) as error:
            self.curated()
        return str(error.value)


@pytest.fixture
def arm(tmp_path: Path) -> CuratedArm:
    return CuratedArm(tmp_path)


@pytest.fixture
def converted(arm: CuratedArm) -> CuratedArm:
    """Two stations with three recordings, converted without a curation."""
    arm.record("s1/a.hdf5", "s1/b.hdf5", "s2/c.hdf5")
    arm.convert()
    return arm


ALL = ["s1/a.hdf5/0", "s1/b.hdf5/0", "s2/c.hdf5/0"]


def test_without_a_curation_the_usable_episodes_are_as_they_are(converted: CuratedArm) -> None:
    assert converted.ids() == ALL
    assert str(converted.curated()) == "0 excluded, 0 trimmed, 0 with another task text, 0 held out"
    assert converted.left_out() == []


def test_excluding_relabelling_and_holding_out_convert_nothing_again(converted: CuratedArm) -> None:
    before = {e.id: e for e in converted.curated().episodes}
    converted.curate({"s1/a.hdf5": {"exclude": "the cup fell"}, "s1/b.hdf5/0": {"task": "put it back"}}, episodes=["s2/c.hdf5"])
    assert converted.convert() == []
    curated = converted.curated()
    assert [e.id for e in curated.episodes] == ["s1/b.hdf5/0", "s2/c.hdf5/0"]
    assert [e.meta.task for e in curated.episodes] == ["put it back", "pick the cube"]
    assert [e.version for e in curated.episodes] == [before[e.id].version for e in curated.episodes]
    assert curated.held_out == {"s2/c.hdf5/0"}
    assert str(curated) == "1 excluded, 0 trimmed, 1 with another task text, 1 held out"
    assert converted.left_out() == [("s1/a.hdf5", "all", "excluded: the cup fell")]


def test_a_task_text_that_is_written_as_it_was_changes_nothing(converted: CuratedArm) -> None:
    assert converted.curate({"s1/a.hdf5": {"task": "pick the cube"}}).curated().relabelled == 0


def test_a_trim_converts_its_recording_alone_again_and_so_does_taking_it_back(converted: CuratedArm) -> None:
    untrimmed = converted.curated().episodes[1]
    converted.curate({"s1/b.hdf5": {"trim": {"end_s": 0.3}}})
    assert "recordings are not converted as they and the YAML now are; found s1/b.hdf5" in converted.refusal()
    assert converted.convert() == ["s1/b.hdf5"]
    assert converted.convert() == []
    trimmed = converted.curated().episodes[1]
    assert (trimmed.meta.length, untrimmed.meta.length) == (7, 11)
    assert trimmed.version != untrimmed.version
    converted.curate({"s1/b.hdf5": {"trim": {"end_s": 0.2}}})
    assert converted.convert() == ["s1/b.hdf5"]
    converted.curate()
    assert converted.convert() == ["s1/b.hdf5"]
    assert converted.curated().episodes[1].version == untrimmed.version


def test_episodes_that_a_lost_worker_left_with_another_trim_are_forgotten(converted: CuratedArm) -> None:
    converted.curate({"s1/b.hdf5": {"trim": {"end_s": 0.3}}})
    forget_outdated(converted.store, converted.plan(), ["s1/a.hdf5", "s1/b.hdf5"])
    assert converted.ids() == ["s1/a.hdf5/0", "s2/c.hdf5/0"]


def test_a_trim_that_was_corrected_takes_its_recording_out_of_quarantine(converted: CuratedArm) -> None:
    converted.curate({"s1/b.hdf5": {"trim": {"end_s": 30}}}).convert()
    assert "the trim is not inside the episode" in converted.left_out()[0][2]
    assert converted.convert() == []
    converted.curate({"s1/b.hdf5": {"trim": {"end_s": 0.3}}})
    assert converted.convert() == ["s1/b.hdf5"]
    assert converted.left_out() == []


def test_what_was_excluded_is_not_missed_when_it_is_in_quarantine(converted: CuratedArm) -> None:
    (converted.raw / "s1/broken.hdf5").write_bytes(b"no recording")
    converted.convert()
    assert [row["recording"] for row in quarantine_reasons(converted.store, converted.robot.curation)] == ["s1/broken.hdf5"]
    converted.curate({"s1/broken.hdf5": {"exclude": "the disk was full"}})
    assert converted.left_out() == [("s1/broken.hdf5", "all", "excluded: the disk was full")]
    assert converted.curated().excluded == 0
    # The only episode there would be of it may be named as well, and so may any other: nobody can know.
    converted.curate({"s1/broken.hdf5/7": {"exclude": "the disk was full"}})
    assert converted.ids() == ALL


def test_a_rejected_episode_may_be_excluded(arm: CuratedArm) -> None:
    arm.record("a.hdf5", "b.hdf5")
    arm.curate({"a.hdf5": {"trim": {"end_s": 30}}}).convert()
    arm.curate({"a.hdf5": {"trim": {"end_s": 30}}, "a.hdf5/0": {"exclude": "hopeless"}})
    assert arm.ids() == ["b.hdf5/0"]
    assert arm.left_out() == [("a.hdf5", 0, "excluded: hopeless")]


@pytest.mark.parametrize(
    ("episodes", "held_out", "said"),
    [
        ({"s1/aa.hdf5": {"exclude": "x"}}, {}, "there is no recording or episode 's1/aa.hdf5'; did you mean 's1/a.hdf5'? Correct it, or"),
        ({"s1/a.hdf5/1": {"task": "x"}}, {}, "s1/a.hdf5 has no episode 1, only 0; did you mean 's1/a.hdf5/0'? Correct it, or remove"),
        ({"a.hdf5": {"exclude": "x"}}, {}, "there is no recording or episode 'a.hdf5'; did you mean 's1/a.hdf5'?"),
        ({"zzz": {"exclude": "x"}}, {}, "there is no recording or episode 'zzz'; correct it, or remove the entry"),
        ({}, {"episodes": ["s2/c.hdf"]}, "there is no recording or episode 's2/c.hdf'; did you mean 's2/c.hdf5'?"),
        ({}, {"stations": ["s3"]}, "no recording is of station 's3'; did you mean 's"),
    ],
)
def test_an_entry_that_names_nothing_there_is_refused_with_the_nearest(
    converted: CuratedArm, episodes: dict[str, Any], held_out: dict[str, Any], said: str
) -> None:
    assert f"curation.yaml: {said}" in converted.curate(episodes, **held_out).refusal()


def test_all_unknown_names_are_said_at_once(converted: CuratedArm) -> None:
    said = converted.curate({"x": {"exclude": "x"}, "y": {"task": "y"}}, stations=["z"]).refusal()
    assert said.splitlines()[0] == "curation.yaml names what is not there"
    assert len(said.splitlines()) == 4


def test_episodes_of_a_recording_that_is_not_settled_are_taken_on_trust(converted: CuratedArm) -> None:
    converted.with_spec(recordings={"settle_s": 1e9})
    converted.curate({"s1/a.hdf5/9": {"exclude": "x"}})
    assert converted.ids() == ALL


def test_excluding_everything_is_refused(converted: CuratedArm) -> None:
    said = converted.curate({key.removesuffix("/0"): {"exclude": "x"} for key in ALL}).refusal()
    assert "curation.yaml excludes every usable episode of arm; found 3 excluded" in said


@pytest.mark.parametrize("held_out", [{"stations": ["s1", "s2"]}, {"episodes": [key.removesuffix("/0") for key in ALL]}])
def test_holding_out_everything_is_refused(converted: CuratedArm, held_out: dict[str, Any]) -> None:
    assert "leaves no episode for training [file curation.yaml]; found all 3 episodes held out" in converted.curate(**held_out).refusal()


def test_holding_out_the_single_episode_by_a_fraction_is_refused(arm: CuratedArm) -> None:
    arm.record("a.hdf5")
    arm.convert()
    assert "leaves no episode for training" in arm.curate(fraction=0.999).refusal()


def written(arm: CuratedArm, text: str) -> CuratedArm:
    """The arm with a curation.yaml of these lines."""
    (arm.raw / "curation.yaml").write_text(text)
    arm.robot = replace(arm.robot, curation=load_curation(arm.raw))
    return arm


@pytest.mark.parametrize(
    ("excluded", "held_out", "said"),
    [
        ("s1/a.hdf5", "episodes: [s1/a.hdf5]", "4: 's1/a.hdf5' is excluded; remove it here, or its `exclude`"),
        ("s1/a.hdf5", "episodes: [s1/a.hdf5/0]", "4: 's1/a.hdf5/0' is excluded; remove it here"),
        ("s1/a.hdf5/0", "episodes: [s1/a.hdf5]", "4: 's1/a.hdf5' is excluded; remove it here"),
        ("s2/c.hdf5", "stations: [s2]", "4: all recordings of station 's2' are excluded or in quarantine; remove it here"),
        ("s1/a.hdf5", "episodes: [s1/b.hdf5, s1/broken.hdf5]", "4: 's1/broken.hdf5' is in quarantine; remove it here, or mend"),
        ("s1/a.hdf5", "stations: [s3]", "4: all recordings of station 's3' are excluded or in quarantine"),
    ],
)
def test_a_held_out_key_that_chooses_no_usable_episode_is_refused_with_its_line(
    converted: CuratedArm, excluded: str, held_out: str, said: str
) -> None:
    for name in ("s1/broken.hdf5", "s3/broken.hdf5"):
        (converted.raw / name).parent.mkdir(exist_ok=True)
        (converted.raw / name).write_bytes(name.encode())
    converted.convert()
    arm = written(converted, f"episodes:\n  {excluded}: {{exclude: the cup fell}}\nheld_out:\n  {held_out}\n")
    assert f"holds out what is not in the dataset\n{arm.raw / 'curation.yaml'}:{said}" in arm.refusal()


def test_a_held_out_recording_that_is_not_converted_yet_is_taken_on_trust(converted: CuratedArm) -> None:
    converted.record("s1/new.hdf5", "s4/new.hdf5")
    assert converted.curate(episodes=["s1/new.hdf5", "s1/a.hdf5"], stations=["s4"]).curated().held_out == {"s1/a.hdf5/0"}


def test_a_station_with_one_usable_recording_may_be_held_out(converted: CuratedArm) -> None:
    converted.curate({"s1/a.hdf5": {"exclude": "the cup fell"}}, stations=["s1"])
    assert converted.curated().held_out == {"s1/b.hdf5/0"}


def test_a_fraction_that_holds_out_nothing_is_refused_with_what_to_write(converted: CuratedArm) -> None:
    arm = written(converted, "held_out:\n  seed: 3\n  fraction: 0.001\n")
    said = arm.refusal()
    assert f"curation.yaml holds out no episode by `fraction` [file {arm.raw / 'curation.yaml'}:3]" in said
    assert "found none of 3 episode(s) with fraction 0.001 and seed 3; expected at least one. Write a larger fraction (" in said
    assert "another seed, or name them: `episodes: [...]`." in said
    enough = float(said.partition("larger fraction (")[2].partition(" ")[0])
    assert len(arm.curate(fraction=enough, seed=3).curated().held_out) == 1
    assert "holds out no episode" in arm.curate(fraction=enough - 0.001, seed=3).refusal()


@pytest.mark.parametrize("key", ["s1/b.hdf5", "s1/b.hdf5/0"])
def test_a_trim_that_does_not_fit_stops_with_its_values_instead_of_losing_the_episode(converted: CuratedArm, key: str) -> None:
    converted.curate({key: {"trim": {"end_s": 33.0}}})
    assert converted.convert() == ["s1/b.hdf5"]
    said = converted.refusal()
    assert "curation.yaml cuts what it cannot" in said
    assert "the trim is not inside the episode" in said
    assert "0 s to 33 s" in said
    converted.curate()
    converted.convert()
    assert converted.ids() == ALL
