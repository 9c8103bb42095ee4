from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.lerobot_features import make_info
from vla_ops.datasets.lerobot_stats import aggregate_stats
from vla_ops.datasets.lerobot_v3 import DatasetVersion, current_version, update_dataset
from vla_ops.errors import DatasetError
from vla_ops_tests.datasets.episode_folders import changed, spec, write_episodes
from vla_ops_tests.datasets.lerobot_folders import KIND, rows, shared, small_files, write


def about(made: DatasetVersion) -> dict:
    return json.loads((made.folder / "meta/vla_ops.json").read_text())


def info(made: DatasetVersion) -> dict:
    return json.loads((made.folder / "meta/info.json").read_text())


def stats(made: DatasetVersion) -> dict:
    return json.loads((made.folder / "meta/stats.json").read_text())


def tasks_by_frame(made: DatasetVersion) -> list[str]:
    """The task text of each frame, as LeRobot finds it."""
    index = pq.read_table(made.folder / "meta/tasks.parquet").to_pandas()
    texts = {int(row["task_index"]): str(text) for text, row in index.iterrows()}
    data = [pq.read_table(path)["task_index"].to_pylist() for path in sorted((made.folder / "data").rglob("*.parquet"))]
    return [texts[k] for part in data for k in part]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["a", "a", "a"], ["b", "b", "b"]),
        (["a", "b", "a"], ["b", "a", "b"]),
        (["a", "b", "c"], ["a", "c", "c"]),
        (["a", "b", "b"], ["a", "a", "a"]),
    ],
    ids=["all alike", "two texts swapped", "one takes the next one's", "one text gone"],
)
def test_another_task_text_is_in_every_table_of_the_next_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[str], after: list[str]
) -> None:
    small_files(monkeypatch, episodes_a_file=1)
    episodes = write_episodes(tmp_path / "e", [4, 5, 6], kind=KIND, tasks=before)
    first = write(tmp_path, episodes)
    second = write(tmp_path, [changed(e, task=task) for e, task in zip(episodes, after, strict=True)])
    assert second.version != first.version
    assert [row["tasks"] for row in rows(second.folder)] == [[task] for task in after]
    assert tasks_by_frame(second) == [task for task, n in zip(after, (4, 5, 6), strict=True) for _ in range(n)]
    assert [row["tasks"] for row in rows(first.folder)] == [[task] for task in before], "the version before is as it was"
    # No image is touched for a text.
    assert {name for name in shared(first.folder, second.folder) if name.endswith(".mp4")} == {
        f"videos/observation.images.{camera}/chunk-000/file-{k:03d}.mp4" for camera in KIND.cameras for k in range(3)
    }


def test_a_text_of_one_episode_rewrites_its_own_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch, episodes_a_file=1)
    episodes = write_episodes(tmp_path / "e", [4, 5, 6], kind=KIND, tasks=["a", "b", "a"])
    first = write(tmp_path, episodes)
    second = write(tmp_path, [episodes[0], episodes[1], changed(episodes[2], task="c")])
    kept = shared(first.folder, second.folder)
    assert {f"data/chunk-000/file-00{k}.parquet" for k in range(3)} & kept == {f"data/chunk-000/file-00{k}.parquet" for k in range(2)}


def test_the_dataset_says_what_it_holds_out(tmp_path: Path) -> None:
    episodes = write_episodes(tmp_path / "e", [4, 5, 6], kind=KIND)
    plain = write(tmp_path, episodes)
    made = write(tmp_path, episodes, held_out={episodes[1].id})
    assert made.version != plain.version
    assert about(made)["held_out"] == [1]
    assert "held_out" not in about(plain)
    assert info(made)["splits"] == {"train": "0:3"}, "ranges cannot say it"
    assert (made.episodes, made.frames, made.held_out_episodes, made.held_out_frames, made.training_frames) == (3, 15, 1, 5, 10)
    assert "1 of the 3 episodes are held out for validation" in (made.folder / "README.md").read_text()
    assert "held out" not in (plain.folder / "README.md").read_text()
    nothing_done = replace(made, created=False, bytes_written=0, bytes_linked=0, added=0, removed=0)
    assert current_version(tmp_path / "lerobot_v3") == nothing_done
    assert "(1 episodes held out for validation)" in made.summary()


def test_only_what_is_held_out_differs_between_two_choices(tmp_path: Path) -> None:
    episodes = write_episodes(tmp_path / "e", [4, 5, 6], kind=KIND)
    one, other = (write(tmp_path, episodes, held_out={episodes[k].id}) for k in (0, 1))
    assert one.version != other.version
    assert {name for name in shared(one.folder, other.folder) if name.startswith("data/")} == {"data/chunk-000/file-000.parquet"}
    again = write(tmp_path, episodes, held_out=[episodes[0].id])
    assert (again.version, again.created) == (one.version, False)
    assert (again.held_out_episodes, again.held_out_frames) == (1, 4)
    assert current_version(tmp_path / "lerobot_v3") == again


@pytest.mark.parametrize("later", [{0, 3}, {1}, {0}, set()])
def test_no_statistic_of_the_dataset_knows_a_held_out_episode(tmp_path: Path, later: set[int]) -> None:
    """Also where the statistics are continued from those of the version before."""
    episodes = write_episodes(tmp_path / "e", [4, 5, 6, 7], kind=KIND)
    update_dataset(tmp_path / "v3", episodes[:3], spec=spec(KIND), robot="arm", held_out={episodes[0].id})
    made = update_dataset(tmp_path / "v3", episodes, spec=spec(KIND), robot="arm", held_out={episodes[k].id for k in later})
    read = [e.meta.stats for k, e in enumerate(episodes) if k not in later]
    wanted = aggregate_stats([{"action": s["action"], "observation.state": s["observation.state"]} for s in read])
    for feature, numbers in wanted.items():
        for name, values in numbers.items():
            np.testing.assert_allclose(stats(made)[feature][name], values, rtol=1e-12, err_msg=f"{feature} {name}")
    assert about(made).get("held_out", []) == sorted(later)


@pytest.mark.parametrize(
    ("held_out", "splits"),
    [
        ([], {"train": "0:5"}),
        ([3, 4], {"train": "0:3", "val": "3:5"}),
        ([0], {"train": "1:5", "val": "0:1"}),
        ([2, 3], {"train": "0:5"}),
        ([0, 4], {"train": "0:5"}),
    ],
)
def test_splits_are_written_where_two_ranges_can_say_them(held_out: list[int], splits: dict[str, str]) -> None:
    assert make_info({}, robot="arm", rate_hz=20, episodes=5, frames=50, tasks=1, held_out=held_out)["splits"] == splits


def test_holding_out_what_is_not_there_or_everything_is_refused(tmp_path: Path) -> None:
    episodes = write_episodes(tmp_path / "e", [4, 5], kind=KIND)
    with pytest.raises(DatasetError, match=r"to be held out is not in the dataset \[episode rec_7/0\]"):
        write(tmp_path, episodes, held_out={"rec_7/0"})
    with pytest.raises(DatasetError, match="every episode is held out"):
        write(tmp_path, episodes, held_out={e.id for e in episodes})


def test_lerobot_loads_the_episodes_for_training(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    episodes = write_episodes(tmp_path / "e", [4, 5, 6], kind=KIND, tasks=["a", "b", "c"])
    made = write(tmp_path, episodes, held_out={episodes[2].id})
    training = [k for k in range(3) if k not in about(made)["held_out"]]
    dataset = LeRobotDataset("local/arm", root=made.folder, episodes=training)
    assert len(dataset) == made.training_frames
    assert {cast("dict", dataset[k])["task"] for k in range(len(dataset))} == {"a", "b"}
