from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vla_ops.errors import TrainingError
from vla_ops.policies import read_stats
from vla_ops.spec import TrainingSpec
from vla_ops.training.preflight import Preflight, preflight
from vla_ops.training.recipe import Recipe
from vla_ops_tests.training.arm import HORIZON, Arm, make_arm

GB = 10**9
SMALL = {"preset": "pi0_tiny", "action_dim": 8, "image_size": 64, "max_token_len": 40}
SMALL_RUN = {
    "batch_size": 4,
    "steps": 20,
    "save_every": 10,
    "log_every": 5,
    "schedule": {"warmup_steps": 2, "decay_steps": 20},
    "ema": None,
}


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    return make_arm(tmp_path_factory.mktemp("arm"), [12, 9], held_out=(1,))


def recipe_of(arm: Arm, **changed: Any) -> Recipe:
    said = {"model": SMALL, "tokenizer": "bytes", "validation": {"every": 10}, **SMALL_RUN} | changed
    stats = Path(arm.stats.origin)
    made = arm.stats.provenance
    assert made is not None
    return Recipe("arm", "t", arm.spec, TrainingSpec.model_validate(said), arm.folder, made.dataset_version, stats, arm.stats.fingerprint)


def checked(recipe: Recipe, tmp_path: Path, **changed: Any) -> Preflight:
    given: dict[str, Any] = {"devices": 1, "available": 8 * GB} | changed
    return preflight(recipe, tmp_path / "run", home=tmp_path, **given)


def problems(report: Preflight) -> dict[str, str]:
    return {row.check: row.said for row in (*report.errors, *report.warnings)}


def test_a_sound_training_has_no_problem(arm: Arm, tmp_path: Path) -> None:
    report = checked(recipe_of(arm), tmp_path)
    assert problems(report) == {}
    report.refuse()
    text = report.render()
    assert text.startswith("arm/t: 0 errors, 0 warnings")
    assert "base_0_rgb cam_high, left_wrist_0_rgb cam_wrist, right_wrist_0_rgb masked" in text
    assert "12 frames of 1 episodes, each seen 6.67 times" in text


def test_every_problem_is_in_one_table(arm: Arm, tmp_path: Path) -> None:
    recipe = recipe_of(
        arm,
        model=SMALL | {"action_dim": 2, "max_token_len": 5, "vocab_size": 100},
        batch_size=6,
        fsdp_devices=3,
        save_every=100,
        schedule={"warmup_steps": 50, "decay_steps": 60},
        metrics={"wandb": "online"},
        init=str(tmp_path / "nowhere"),
    )
    report = checked(recipe, tmp_path, devices=4, available=1000)
    said = problems(report)
    assert set(said) == {"memory", "init", "tokenizer", "dimensions", "prompts", "devices", "steps", "schedule", "W&B"}
    assert "gripper have no place" in said["dimensions"]
    assert "'place' needs" in said["prompts"] or "'pick' needs" in said["prompts"]
    assert [row.check for row in report.warnings] == ["steps", "schedule"]
    with pytest.raises(TrainingError) as caught:
        report.refuse()
    assert all(row.said in str(caught.value) for row in report.errors)


def test_too_little_memory_is_an_error_and_just_enough_a_warning(arm: Arm, tmp_path: Path) -> None:
    recipe = recipe_of(arm)
    memory = checked(recipe, tmp_path).memory
    assert memory is not None

    def verdict(available: int) -> str:
        return next(row.verdict for row in checked(recipe, tmp_path, available=available).rows if row.check == "memory")

    assert [verdict(n) for n in (memory.total, memory.total - 1, memory.total - memory.bytes_of["activations"] // 2)] == [
        "ok",
        "warning",
        "error",
    ]


def test_a_camera_that_the_dataset_lacks_is_named_and_the_rest_goes_on(arm: Arm, tmp_path: Path) -> None:
    said = arm.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    said["cameras"]["cam_left"] = said["cameras"].pop("cam_wrist")
    recipe = replace(recipe_of(arm), spec=type(arm.spec).model_validate(said))
    report = checked(recipe, tmp_path)
    assert [row.check for row in report.errors] == ["cameras"]
    assert "cam_left" in report.errors[0].said
    assert any(row.check == "dataset" and row.verdict == "ok" for row in report.rows)


def test_a_role_whose_slot_the_model_has_not_is_a_warning(arm: Arm, tmp_path: Path) -> None:
    report = checked(recipe_of(arm, model=SMALL | {"cameras": ["base_0_rgb"]}), tmp_path)
    assert "cam_wrist has a role" in problems(report)["cameras"]


def test_an_empty_validation_set_is_an_error(tmp_path: Path) -> None:
    report = checked(recipe_of(make_arm(tmp_path / "arm", [12])), tmp_path)
    assert "holds out no episode" in problems(report)["validation"]


def test_no_episode_left_for_training_is_an_error(tmp_path: Path) -> None:
    arm = make_arm(tmp_path / "arm", [12, 9], held_out=(1,))
    file = arm.folder / "meta/vla_ops.json"
    said = json.loads(file.read_text())
    key = next(key for key, value in said.items() if value == [1])
    file.write_text(json.dumps(said | {key: [0, 1]}))
    assert "no episode is left for training" in problems(checked(recipe_of(arm), tmp_path))["dataset"]


def test_held_out_episodes_that_nobody_validates_on_are_a_warning(arm: Arm, tmp_path: Path) -> None:
    assert "nothing is validated" in problems(checked(recipe_of(arm, validation=None), tmp_path))["validation"]


def test_a_dataset_that_is_not_there_is_said_once(arm: Arm, tmp_path: Path) -> None:
    report = checked(replace(recipe_of(arm), dataset=tmp_path / "gone"), tmp_path)
    assert len(report.errors) == 1
    assert {row.check for row in report.rows if row.verdict == "not checked"} >= {"prompts", "validation"}


def test_a_prompt_that_is_cut_is_a_warning_where_that_was_asked_for(arm: Arm, tmp_path: Path) -> None:
    report = checked(recipe_of(arm, model=SMALL | {"max_token_len": 5}, prompt={"truncate": True}), tmp_path)
    assert [row.check for row in report.errors] == []
    assert "are cut at 5 tokens" in problems(report)["prompts"]


def test_the_state_in_a_pi05_prompt_is_counted(arm: Arm, tmp_path: Path) -> None:
    """`Task: place, State: 100 100 100;\\nAction: ` with BOS is 42 bytes."""
    model = SMALL | {"preset": "pi05_tiny"}
    assert "prompts" not in problems(checked(recipe_of(arm, model=model | {"max_token_len": 42}), tmp_path))
    assert "'place' needs 42" in problems(checked(recipe_of(arm, model=model | {"max_token_len": 41}), tmp_path))["prompts"]


def test_norm_stats_of_another_dataset_are_an_error(arm: Arm, tmp_path: Path) -> None:
    report = checked(replace(recipe_of(arm), dataset_version="0" * 16), tmp_path)
    assert "dataset" in problems(report)["norm stats"]


def test_norm_stats_of_another_horizon_are_an_error(arm: Arm, tmp_path: Path) -> None:
    said = arm.spec.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"norm_stats": {"action_horizon": HORIZON + 1}}
    report = checked(replace(recipe_of(arm), spec=type(arm.spec).model_validate(said)), tmp_path)
    assert f"horizon {HORIZON}" in problems(report)["norm stats"]


def borrowed(tmp_path: Path, *, scale: float, quantiles: bool = True) -> dict[str, str]:
    def numbers(width: int) -> dict[str, list[float]]:
        found = {"mean": [0.0] * width, "std": [scale] * width}
        return found | ({"q01": [-2 * scale] * width, "q99": [2 * scale] * width} if quantiles else {})

    folder = tmp_path / "base/assets/trossen"
    folder.mkdir(parents=True)
    (folder / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": numbers(3), "actions": numbers(3)}}))
    return {"from": str(tmp_path / "base"), "asset_id": "trossen"}


def with_borrowed(arm: Arm, asked: dict[str, str], **changed: Any) -> Recipe:
    from vla_ops.policies import take_stats

    recipe = replace(recipe_of(arm, norm_stats=asked, **changed), stats=None)
    taken = take_stats(recipe.training.norm_stats, arm.spec, robot="arm")  # pyright: ignore[reportArgumentType]
    return replace(recipe, stats_fingerprint=taken.fingerprint)


def test_data_that_do_not_sit_in_borrowed_norm_stats_are_an_error(arm: Arm, tmp_path: Path) -> None:
    report = checked(with_borrowed(arm, borrowed(tmp_path, scale=0.001)), tmp_path)
    assert "j1" in problems(report)["norm stats"]


def test_borrowed_norm_stats_without_quantiles_cannot_serve_pi05(arm: Arm, tmp_path: Path) -> None:
    model = SMALL | {"preset": "pi05_tiny", "max_token_len": 60}
    report = checked(with_borrowed(arm, borrowed(tmp_path, scale=10.0, quantiles=False), model=model), tmp_path)
    assert "by quantiles" in problems(report)["norm stats"]


def test_a_video_that_is_missing_is_an_error(tmp_path: Path) -> None:
    arm = make_arm(tmp_path / "arm", [12, 9], held_out=(1,))
    next((arm.folder / "videos").rglob("*.mp4")).unlink()
    assert "videos are missing" in problems(checked(recipe_of(arm), tmp_path))["dataset"]


def test_a_full_disk_is_found_before_training(arm: Arm, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    many = {"steps": 10_000_000, "save_every": 1, "validation": {"every": 1}, "keep": {"latest": 1 + free // 2_000_000}}
    report = checked(recipe_of(arm, **many, schedule={"decay_steps": 10_000_000}), tmp_path)
    assert "the disk will not hold" in problems(report)["disk"]


def test_a_checkpoint_of_another_architecture_is_an_error(arm: Arm, tmp_path: Path, golden_dir: Path) -> None:
    found = sorted((golden_dir / "openpi_ckpt_tiny").rglob("params/_METADATA"))
    report = checked(recipe_of(arm, init=str(found[0].parent), model=SMALL | {"preset": "pi05_tiny", "max_token_len": 60}), tmp_path)
    assert "does not fit the model" in problems(report)["init"]
    assert "The checkpoint is pi0 (" in problems(report)["init"]
    assert "and the model pi05 (" in problems(report)["init"]


def test_what_only_matters_at_the_start_is_left_out_on_resume(arm: Arm, tmp_path: Path) -> None:
    recipe = recipe_of(arm, init=str(tmp_path / "nowhere"))
    assert "init" in problems(checked(recipe, tmp_path))
    assert problems(checked(recipe, tmp_path, resumes=True)) == {}


def test_a_freeze_pattern_that_matches_nothing_is_an_error(arm: Arm, tmp_path: Path) -> None:
    report = checked(recipe_of(arm, freeze={"matching": ["no/such/.*"]}), tmp_path)
    assert "no parameter matches" in problems(report)["model"]


def test_validation_that_comes_once_is_a_warning(arm: Arm, tmp_path: Path) -> None:
    report = checked(recipe_of(arm, validation={"every": 40}, save_every=40), tmp_path)
    assert "only the last step is validated" in problems(report)["validation"]


def test_the_pre_flight_of_full_size_pi0_takes_little_memory(arm: Arm, tmp_path: Path) -> None:
    run = {"batch_size": 32, "steps": 30_000, "save_every": 1000, "schedule": {}, "ema": 0.99, "validation": {"every": 1000}}
    recipe = recipe_of(arm, model={"preset": "pi0"}, **run)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe.to_json()))
    code = (
        "import json, sys; from pathlib import Path\n"
        "from vla_ops.training.preflight import preflight; from vla_ops.training.recipe import Recipe\n"
        "recipe = Recipe.from_json(json.loads(Path(sys.argv[1]).read_text()))\n"
        "report = preflight(recipe, Path(sys.argv[2]), home=Path(sys.argv[2]), devices=1, available=int(0.9 * 80 * 2**30))\n"
        # Of this program alone: what getrusage says begins with the memory of the process that started it.
        "peak = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM'))\n"
        "print(report.render()); print(peak.split()[1])\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(file), str(tmp_path)], capture_output=True, text=True, check=True)
    *lines, peak_kb = told.stdout.strip().splitlines()
    text = "\n".join(lines)
    assert int(peak_kb) * 1024 < 2 * GB
    assert "3,238,048,528 in 50 arrays" in text
    memory = next(line for line in lines if line.startswith("memory"))
    assert memory.endswith("ok")
    assert 70 < float(memory.split()[1]) < 77.3


def test_own_stats_are_read_from_their_folder(arm: Arm) -> None:
    ((asset_id, stats),) = recipe_of(arm).read_stats().items()
    assert asset_id == arm.spec.dataset.repo_id
    assert stats.fingerprint == read_stats(arm.stats.origin).fingerprint
