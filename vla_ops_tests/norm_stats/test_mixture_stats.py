"""Norm stats of a mixture: each source's own numbers under the mixture's names, and merged ones only where they are asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_ops.datasets.mixture import frame_weights
from vla_ops.errors import DatasetError
from vla_ops.mixture_file import Mixture
from vla_ops.norm_stats.columns import read_columns
from vla_ops.norm_stats.mixture import MixtureStats, find_mixture_stats, refresh_mixture_stats
from vla_ops.norm_stats.stats import read_norm_stats
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, Arm, Lab

ONE, TWO = replace(LEFT, cameras={}, held_out=0), replace(RIGHT, cameras={})
SOURCES = [{"robot": "one", "weight": 3.0}, {"robot": "two", "weight": 1.0}]
NAMES = ["j1", "j2", "gripper", "j3"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.add("one", ONE, stats=True)
    made.add("two", TWO, stats=True)
    return made


def stats_of(lab: Lab, mixture: Mixture) -> MixtureStats:
    lab.make(mixture)
    return refresh_mixture_stats(mixture, lab.store(mixture.name))


def own(lab: Lab, robot: str) -> dict[str, dict[str, list[float]]]:
    (path,) = (lab.store(robot).root / "norm_stats").glob("*/norm_stats.json")
    return json.loads(path.read_text())["norm_stats"]


def test_each_sources_numbers_stand_under_the_mixtures_names(lab: Lab) -> None:
    made = stats_of(lab, lab.mix("both", *SOURCES))
    for robot, names in (("one", ONE.names), ("two", TWO.names)):
        written = json.loads((made.folder / robot / "norm_stats.json").read_text())["norm_stats"]
        for vector in ("state", "actions"):
            for number, without in (("mean", 0.0), ("std", 1.0), ("q01", -1.0), ("q99", 1.0)):
                there = dict(zip(names, own(lab, robot)[vector][number], strict=True))
                assert written[vector][number] == [there.get(name, without) for name in NAMES]


def test_what_a_source_lacks_stays_zero_when_it_is_normalised(lab: Lab) -> None:
    made = stats_of(lab, lab.mix("both", *SOURCES))
    state = json.loads((made.folder / "one" / "norm_stats.json").read_text())["norm_stats"]["state"]
    k = NAMES.index("j3")
    assert (0.0 - state["mean"][k]) / (state["std"][k] + 1e-6) == 0.0
    assert (0.0 - state["q01"][k]) / (state["q99"][k] - state["q01"][k] + 1e-6) * 2 - 1 == pytest.approx(0.0, abs=1e-6)


def test_they_say_what_they_were_made_from(lab: Lab) -> None:
    made = stats_of(lab, lab.mix("both", *SOURCES))
    about = json.loads((made.folder / "sources.json").read_text())
    one = read_norm_stats(next((lab.store("one").root / "norm_stats").glob("*/norm_stats.json")))
    assert about["sources"][0]["norm_stats_version"] == made.made_from["one"] == one.version
    assert about["sources"][0]["without"] == {"state": ["j3"], "action": ["j3"]}
    assert "merged" not in about
    assert read_norm_stats(made.folder / "two").provenance.dataset_version == about["sources"][1]["dataset_version"]


def test_nothing_is_merged_unless_it_is_asked_for(lab: Lab) -> None:
    made = stats_of(lab, lab.mix("both", *SOURCES))
    assert made.merged is None
    assert sorted(path.name for path in made.folder.iterdir()) == ["one", "sources.json", "two"]


def test_merged_ones_follow_the_weights_and_have_a_fingerprint_of_their_own(lab: Lab) -> None:
    plain = stats_of(lab, lab.mix("both", *SOURCES))
    made = stats_of(lab, lab.mix("both", *SOURCES, norm_stats="merged"))
    assert made.merged is not None
    assert made.version != plain.version
    assert made.merged.version not in {stats.version for stats in made.by_source.values()}
    assert made.merged.provenance.robot == "both/merged"
    assert read_norm_stats(made.folder / "merged").version == made.merged.version
    states = read_columns(made.dataset.folder, state_names=NAMES, action_names=NAMES).states.astype(np.float64)
    weights = frame_weights(made.dataset.folder)
    owner = np.arange(len(weights)) >= 14
    for k, has in enumerate([~owner, owner | ~owner, owner | ~owner, owner]):
        share, values = weights[has] / weights[has].sum(), states[has, k]
        mean = (share * values).sum()
        assert made.merged.state.mean[k] == pytest.approx(mean)
        assert made.merged.state.std[k] == pytest.approx(np.sqrt((share * (values - mean) ** 2).sum()))
        order = np.argsort(values)
        reached = np.searchsorted(np.cumsum(share[order]), 0.99 - 1e-12)
        assert made.merged.state.q99[k] == values[order][reached]
    assert made.merged.frames == 26
    assert made.merged.actions.count == 26 * 3


def test_other_weights_change_merged_stats_alone(lab: Lab) -> None:
    other = [{**SOURCES[0], "weight": 1.0}, SOURCES[1]]
    versions = [stats_of(lab, lab.mix("both", *sources)).version for sources in (SOURCES, other)]
    merged = [stats_of(lab, lab.mix("both", *sources, norm_stats="merged")).version for sources in (SOURCES, other)]
    assert versions[0] == versions[1]
    assert merged[0] != merged[1]


def test_a_source_without_norm_stats_of_the_version_in_the_mixture_is_named(lab: Lab) -> None:
    mixture = lab.mix("both", *SOURCES)
    lab.make(mixture)
    lab.add("two", replace(TWO, episodes=(*TWO.episodes, (5, "pick"))))
    lab.make(mixture)
    with pytest.raises(DatasetError, match=r"two \(dataset .*vla-ops norm-stats two"):
        refresh_mixture_stats(mixture, lab.store("both"))


def test_a_mixture_without_a_dataset_is_told_what_to_do(lab: Lab) -> None:
    mixture = lab.mix("both", *SOURCES)
    with pytest.raises(DatasetError, match="vla-ops convert both"):
        find_mixture_stats(mixture, lab.store("both"))


def test_a_rotation_that_one_source_lacks_is_merged_over_those_that_have_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    pose = {"source": "/pose", "names": ["rx", "ry", "rz"], "unit": "rad", "kind": "rotation_vector"}
    joint = {"source": "/arm", "names": ["j1"], "unit": "rad"}
    turning = Arm(cameras={}, state=(joint, pose))
    lab.add("turning", turning, stats=True)
    lab.add("still", Arm(cameras={}, state=(joint,), episodes=((9, "pick"),)), stats=True)
    made = stats_of(lab, lab.mix("both", {"robot": "turning"}, {"robot": "still"}, norm_stats="merged"))
    assert made.merged is not None
    alone = made.by_source["turning"].actions
    for name in ("mean", "std", "q01", "q99", "min", "max"):
        assert getattr(made.merged.actions, name)[1:] == pytest.approx(getattr(alone, name)[1:]), name
    assert made.merged.provenance.deltas == ("yes", "composed", "composed", "composed")
