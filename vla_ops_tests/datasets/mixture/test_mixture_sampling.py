"""P(source) is its weight over the sum of weights, over the frames that trainings read alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_ops.datasets.mixture import SAMPLING_FILE, frame_weights, read_sampling
from vla_ops.errors import DatasetError
from vla_ops_tests.datasets.mixture.robots import LEFT, Lab

ARM = replace(LEFT, cameras={})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.add("one", replace(ARM, episodes=((8, "a"), (6, "b"), (4, "a")), held_out=1))
    made.add("two", replace(ARM, episodes=((30, "a"),), held_out=0))
    return made


def test_a_sources_probability_is_its_weight_whatever_its_frames(lab: Lab) -> None:
    folder = lab.make(lab.mix("both", {"robot": "one", "weight": 3.0}, {"robot": "two", "weight": 1.0})).made.folder
    weights = frame_weights(folder)
    assert weights.dtype == np.float64
    assert weights[:14].sum() == pytest.approx(0.75)
    assert weights[14:18].tolist() == [0.0] * 4
    assert weights[18:].sum() == pytest.approx(0.25)
    assert len(set(weights[:14])) == len(set(weights[18:])) == 1


def test_without_weights_every_training_frame_counts_alike(lab: Lab) -> None:
    made = lab.make(lab.mix("both", {"robot": "one"}, {"robot": "two"}))
    weights = frame_weights(made.made.folder)
    assert set(np.unique(weights)) == {0.0, weights[0]}
    assert weights[0] == pytest.approx(1 / 44)
    assert [source.probability for source in made.sampling.sources] == pytest.approx([14 / 44, 30 / 44])


def test_it_is_in_the_dataset_with_ranges_of_episodes(lab: Lab) -> None:
    folder = lab.make(lab.mix("both", {"robot": "one"}, {"robot": "two"})).made.folder
    one, two = read_sampling(folder).sources
    assert (one.episodes, one.held_out, one.training_ranges, one.frames, one.training_frames) == ([[0, 3]], [2], [[0, 14]], 18, 14)
    assert (two.episodes, two.held_out, two.training_ranges) == ([[3, 4]], [], [[18, 48]])


def test_a_damaged_file_is_named(lab: Lab) -> None:
    folder = lab.make(lab.mix("both", {"robot": "one"})).made.folder
    (folder / SAMPLING_FILE).write_text(json.dumps({"frames": 3}))
    with pytest.raises(DatasetError, match="cannot be read"):
        frame_weights(folder)
