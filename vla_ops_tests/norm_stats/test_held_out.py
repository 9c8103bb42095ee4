from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.errors import DatasetError
from vla_ops.norm_stats import NormStats, compute_norm_stats, read_norm_stats, write_norm_stats
from vla_ops.norm_stats import columns as module
from vla_ops.norm_stats.columns import DatasetColumns, read_columns
from vla_ops_tests.norm_stats.data import make_spec, write_dataset

NAMES = ["j1", "j2", "gripper"]


def vectors(lengths: Sequence[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(seed).normal(size=(2, sum(lengths), len(NAMES))).astype(np.float32)
    return numbers[0], numbers[1]


def dataset(folder: Path, lengths: Sequence[int], held_out: Sequence[int] | None, *, seed: int = 0, files: int = 1) -> Path:
    """A dataset that holds out these episodes; None: one from elsewhere."""
    states, actions = vectors(lengths, seed)
    made = write_dataset(folder, states, actions, lengths, names=NAMES, files=files)
    if held_out is not None:
        (made / "meta/vla_ops.json").write_text(json.dumps({"version": "v" * 16, "held_out": list(held_out)}))
    return made


def columns(folder: Path) -> DatasetColumns:
    return read_columns(folder, state_names=NAMES, action_names=NAMES)


def stats_of(folder: Path) -> NormStats:
    return compute_norm_stats(folder, spec=make_spec(NAMES, horizon=4))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(1, 9), min_size=2, max_size=8), files=st.integers(1, 3), batch=st.integers(1, 12))
def test_held_out_rows_are_read_by_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, lengths: list[int], files: int, batch: int
) -> None:
    held_out = sorted(data.draw(st.sets(st.integers(0, len(lengths) - 1), max_size=len(lengths) - 1)))
    folder = dataset(tmp_path_factory.mktemp("d"), lengths, held_out, files=min(files, len(lengths)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_ROWS", batch)
        found = columns(folder)
    training = ~np.isin(np.repeat(np.arange(len(lengths)), lengths), held_out)
    states, actions = vectors(lengths)
    np.testing.assert_array_equal(found.states, states[training])
    np.testing.assert_array_equal(found.actions, actions[training])
    assert found.lengths.tolist() == [n for k, n in enumerate(lengths) if k not in held_out]
    assert found.held_out == len(held_out)


def test_the_stats_are_those_of_a_dataset_without_the_held_out_episodes(tmp_path: Path) -> None:
    lengths = [7, 5, 9, 6]
    states, actions = vectors(lengths)
    rows = np.isin(np.repeat(np.arange(4), lengths), [0, 2])
    alone = write_dataset(tmp_path / "alone", states[rows], actions[rows], [7, 9], names=NAMES)
    found, wanted = stats_of(dataset(tmp_path / "d", lengths, [1, 3])), stats_of(alone)
    for vector in ("state", "actions"):
        for name in ("mean", "std", "q01", "q99", "min", "max", "count"):
            np.testing.assert_array_equal(getattr(getattr(found, vector), name), getattr(getattr(wanted, vector), name))
    assert (found.frames, found.actions.count, found.held_out) == (16, 64, 2)


def test_the_file_beside_the_stats_says_how_many_were_held_out_if_any_were(tmp_path: Path) -> None:
    def meta(held_out: Sequence[int] | None) -> dict[str, Any]:
        stats = stats_of(dataset(tmp_path / f"d{held_out}", [7, 5, 9], held_out))
        path = write_norm_stats(tmp_path / f"s{held_out}", stats)
        assert read_norm_stats(path).held_out == stats.held_out
        return json.loads((path.parent / "norm_stats.meta.json").read_text())

    written = meta([1])
    assert (written["held_out_episodes"], written["frames"]) == (1, 16)
    assert "held_out_episodes" not in meta([])
    assert "held_out_episodes" not in meta(None)


@pytest.mark.parametrize(("held_out", "said"), [([5], "found no episode 5"), ([0, 1, 2], "found all 3 episodes held out")])
def test_a_dataset_that_holds_out_what_it_has_not_is_refused(tmp_path: Path, held_out: list[int], said: str) -> None:
    with pytest.raises(DatasetError, match=said) as error:
        columns(dataset(tmp_path / "d", [3, 4, 5], held_out))
    assert "vla_ops.json" in str(error.value)


@pytest.mark.parametrize("written", ['{"version": "v", "held_out": 3}', '{"version": "v", "held_out": ["a"]}', '{"held_out": [1]}', "[]"])
def test_a_meta_file_that_cannot_be_read_is_refused(tmp_path: Path, written: str) -> None:
    folder = dataset(tmp_path / "d", [3, 4], None)
    (folder / "meta/vla_ops.json").write_text(written)
    with pytest.raises(DatasetError, match=r"vla_ops\.json cannot be read"):
        columns(folder)
