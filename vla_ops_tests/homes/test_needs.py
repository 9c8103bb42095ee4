"""What of a robot has to be on the machine that takes a step."""

from __future__ import annotations

import pytest

from vla_ops.homes.needs import data, dataset, episode, named_run, run_of, said, training

PATHS = {
    "numbers": "episodes/a.mcap/0/frames.parquet",
    "video": "episodes/a.mcap/0/cam_high.mp4",
    "other video": "episodes/b.mcap/0/cam_high.mp4",
    "dataset": "lerobot_v3/v/videos/0.mp4",
    "view": "rlds/v/shard",
    "stats": "norm_stats/v/norm_stats.json",
    "judged": "semantics/v.png",
    "run": "trainings/pi0/run/run.json",
    "params": "trainings/pi0/run/7/params/d/0",
    "train state": "trainings/pi0/run/7/train_state/d/0",
    "export": "exports/pi0/run-7/model.safetensors",
    "other run": "trainings/pi05/run/7/params/d/0",
}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (data, {"numbers", "video", "other video", "dataset", "view", "stats", "judged"}),
        (dataset, {"numbers", "dataset", "stats", "judged"}),
        (training("pi0", to_resume=True), {"numbers", "dataset", "stats", "judged", "run", "params", "train state", "export"}),
        (training("pi0", to_resume=False), {"numbers", "dataset", "stats", "judged", "run", "params", "export"}),
        (run_of("pi0"), {"run", "params", "export"}),
        (said, {"numbers", "stats", "judged", "run"}),
        (episode("a.mcap/0"), {"numbers", "video"}),
        (episode("a.mcap"), {"numbers", "video"}),
    ],
)
def test_a_step_needs_what_it_reads_and_no_more(wanted: object, names: set[str]) -> None:
    assert callable(wanted)
    assert {name for name, path in PATHS.items() if wanted(path)} == names


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("arm/pi0", ("arm", "pi0")),
        ("arm/pi0@best", ("arm", "pi0")),
        ("arm/pi0/run@7", ("arm", "pi0")),
        ("./arm/pi0", None),
        ("/data/arm/pi0", None),
        ("s3://lab/arm", None),
        ("hub:lab", None),
        ("arm", None),
        ("a/b/c/d", None),
    ],
)
def test_a_run_is_named_by_robot_and_training(uri: str, named: tuple[str, str] | None) -> None:
    assert named_run(uri) == named
