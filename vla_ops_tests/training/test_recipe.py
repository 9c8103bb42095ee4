from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vla_ops.errors import SpecError, StatsMismatchError, TrainingError
from vla_ops.robot import RobotSpec
from vla_ops.spec import TrainingSpec
from vla_ops.training.recipe import Recipe, overridden
from vla_ops.training.run import open_run, read_run, unfinished_run
from vla_ops_tests.training.arm import HORIZON, Arm, arm_spec, make_arm
from vla_ops_tests.training.small_training import TRAINING, recipe_of


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    return make_arm(tmp_path_factory.mktemp("arm"), [12, 9])


def test_the_defaults_are_openpis(golden_dir: Path) -> None:
    openpi = json.loads((golden_dir / "configs" / "openpi_train_configs.json").read_text())["pi0_libero"]
    ours = TrainingSpec()
    same = {"b1": ours.optimizer.b1, "b2": ours.optimizer.b2, "eps": ours.optimizer.eps, "weight_decay": ours.optimizer.weight_decay}
    assert {key: openpi["optimizer"][key] for key in same} == same
    assert openpi["optimizer"]["clip_gradient_norm"] == ours.optimizer.clip
    rates = openpi["lr_schedule"]
    assert (rates["peak_lr"], rates["warmup_steps"], rates["decay_steps"], rates["decay_lr"]) == (
        ours.schedule.peak_rate,
        ours.schedule.warmup_steps,
        ours.schedule.decay_steps,
        ours.schedule.end,
    )
    names = {"ema_decay": "ema", "batch_size": "batch_size", "num_train_steps": "steps", "seed": "seed", "num_workers": "workers"}
    names |= {"log_interval": "log_every", "save_interval": "save_every", "fsdp_devices": "fsdp_devices"}
    assert {key: openpi[key] for key in names} == {key: getattr(ours, name) for key, name in names.items()}
    assert openpi["keep_period"] == ours.keep.period
    config = ours.model.config(horizon=50)
    assert (config.paligemma, config.action_expert, config.action_dim, config.max_token_len) == ("gemma_2b", "gemma_300m", 32, 48)


def test_a_recipe_comes_back_from_json_as_it_was(arm: Arm) -> None:
    recipe = recipe_of(arm, overrides={"steps": 5, "freeze": {"matching": ["PaliGemma/img/.*"]}})
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint
    assert again.model == recipe.model


def test_overrides_are_taken_by_dotted_keys_and_recorded(arm: Arm) -> None:
    recipe = recipe_of(arm).with_overrides({"steps": 10, "optimizer.clip": 0.5, "validation.every": 3})
    assert (recipe.training.steps, recipe.training.optimizer.clip) == (10, 0.5)
    assert recipe.training.validation is not None
    assert recipe.overrides == {"steps": 10, "optimizer.clip": 0.5, "validation.every": 3}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"optimiser.clip": 1.0}, "did you mean 'optimizer'"),
        ({"optimizer.clp": 1.0}, "optimizer: unknown key 'clp'; did you mean 'clip'"),
        ({"stesp": 1}, "did you mean 'steps'"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"steps.of": 3}, "steps is a value, not a section"),
        ({"model.paligemma": "gemma_3b"}, "paligemma 'gemma_3b' is not one of"),
        ({"accumulate": 3}, "accumulate 3: it does not divide batch_size 4"),
    ],
)
def test_an_override_that_the_yaml_could_not_have_is_refused_with_the_nearest_key(override: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match="an override is refused") as refused:
        overridden(TrainingSpec.model_validate(TRAINING), override)
    assert said in str(refused.value)


def test_a_horizon_other_than_the_norm_stats_is_refused_in_the_yaml_and_as_override(arm: Arm) -> None:
    with pytest.raises(SpecError, match=f"chunks of {HORIZON} steps"):
        recipe_of(arm).with_overrides({"model.action_horizon": HORIZON + 1})
    with pytest.raises(ValueError, match=f"chunks of {HORIZON} steps"):
        arm_spec(trainings={"a": {"model": {"action_horizon": HORIZON + 1}}})


def test_the_fingerprint_is_of_what_decides_the_checkpoint(arm: Arm) -> None:
    recipe = recipe_of(arm)
    same = [
        {"workers": 3},
        {"log_every": 7},
        {"metrics.project": "other"},
        {"model.remat": "full"},
        {"accumulate": 2},
        {"validation": {"every": 3}},
    ]
    other = [{"steps": 9}, {"seed": 8}, {"optimizer.b2": 0.9}, {"model.action_dim": 9}, {"freeze": "none"}, {"ema": None}, {"init": "x"}]
    assert {recipe.with_overrides(one).fingerprint for one in same} == {recipe.fingerprint}
    assert len({recipe.fingerprint, *(recipe.with_overrides(one).fingerprint for one in other)}) == len(other) + 1


def test_a_training_does_not_make_recordings_stale() -> None:
    assert arm_spec(trainings={"small": TRAINING}).conversion_fingerprint == arm_spec().conversion_fingerprint


def test_yaml_reads_off_as_false_and_wandb_takes_it() -> None:
    assert TrainingSpec.model_validate({"metrics": {"wandb": False}}).metrics.wandb == "off"


def test_a_preset_gives_what_is_not_written_and_its_token_limit_follows_the_family() -> None:
    config = TrainingSpec.model_validate({"model": {"preset": "pi0", "family": "pi05", "action_dim": 16}}).model.config(horizon=10)
    assert (config.family, config.max_token_len, config.action_dim, config.action_horizon) == ("pi05", 200, 16, 10)


def test_a_run_is_taken_up_with_its_recipe_and_refused_with_another(arm: Arm, tmp_path: Path) -> None:
    recipe = recipe_of(arm)
    run = open_run(recipe, tmp_path, name="one")
    assert run.folder == tmp_path / "arm" / "trainings" / "small" / "one"
    assert (read_run(run.file).recipe, run.home) == (recipe, tmp_path)
    told = json.loads(run.file.read_text())
    assert told["dataset_version"] == arm.folder.name
    assert told["stats_fingerprint"] == arm.stats.fingerprint
    assert told["fingerprint"] == recipe.fingerprint
    longer = open_run(recipe.with_overrides({"steps": 20, "workers": 1}), tmp_path, name="one")
    assert read_run(longer.file).recipe.training.steps == 20
    with pytest.raises(TrainingError, match=r"optimizer.b2: 0.95, not 0.9; seed: 7, not 8|seed: 7, not 8; optimizer.b2: 0.95, not 0.9"):
        open_run(recipe.with_overrides({"seed": 8, "optimizer.b2": 0.9}), tmp_path, name="one")
    assert unfinished_run(recipe, tmp_path) is None


def test_norm_stats_that_were_edited_after_the_run_began_are_refused(tmp_path: Path) -> None:
    arm = make_arm(tmp_path, [12])
    recipe = recipe_of(arm)
    file = Path(arm.stats.origin) / "norm_stats.json"
    numbers = json.loads(file.read_text())
    numbers["norm_stats"]["state"]["mean"][0] += 1
    file.write_text(json.dumps(numbers))
    with pytest.raises(StatsMismatchError):
        recipe.read_stats()


def test_a_training_that_is_not_in_the_yaml_is_refused_with_the_nearest(arm: Arm) -> None:
    from vla_ops.robot_file import Robot
    from vla_ops.training.recipe import bind

    spec = RobotSpec.model_validate(arm.spec.model_dump(mode="json", by_alias=True) | {"trainings": {"small": TRAINING}})
    with pytest.raises(SpecError, match="Did you mean 'small'"):
        bind(Robot("arm", arm.folder, spec), "smal", dataset=arm.folder, dataset_version="x", stats=None)


def test_recipes_and_runs_are_read_without_jax() -> None:
    code = "import sys, vla_ops.training.run, vla_ops.training.main; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
