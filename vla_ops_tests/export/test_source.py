from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import TrainState
from vla_ops.errors import CheckpointError, DatasetError, StatsMismatchError
from vla_ops.export.samples import FEWEST, held_out_samples
from vla_ops.export.source import Given, config_from, describe, open_source
from vla_ops.models.config import PRESETS
from vla_ops.training.run import Run
from vla_ops_tests.export.small_export import LORA, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    return shutil.copytree(run.folder, tmp_path / "store/arm/trainings/small/first")


def test_a_run_says_all_that_an_export_needs(run: Run) -> None:
    source = open_source(str(run.folder), run.home)
    assert source.config == run.recipe.model
    assert source.transforms is not None
    assert source.stats.fingerprint == run.recipe.stats_fingerprint


def test_a_checkpoint_without_assets_is_refused_with_the_way_to_add_them(copy: Path, run: Run) -> None:
    assets = shutil.move(copy / "7/assets", copy.parent / "assets")
    with pytest.raises(CheckpointError, match=r"has no assets.*Copy the training's assets.*--assets FOLDER"):
        open_source(str(copy), run.home)
    folder = next(Path(assets).rglob("norm_stats.json")).parent
    assert open_source(str(copy), run.home, given=Given(assets=folder)).stats.fingerprint == run.recipe.stats_fingerprint


def test_norm_stats_of_another_fingerprint_are_refused(copy: Path, run: Run) -> None:
    file = next((copy / "7/assets").rglob("norm_stats.json"))
    (file.parent / "norm_stats.meta.json").unlink()
    told = json.loads(file.read_text())
    told["norm_stats"]["state"]["mean"][0] += 1
    file.write_text(json.dumps(told))
    with pytest.raises(StatsMismatchError, match=r"not those that the checkpoint was trained with.*expected"):
        open_source(str(copy), run.home)


def test_a_checkpoint_that_was_never_finished_is_refused(copy: Path, run: Run) -> None:
    half = (copy / "7").rename(copy / "7.orbax-checkpoint-tmp")
    with pytest.raises(CheckpointError, match="never finished"):
        open_source(str(half), run.home)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        open_source(str(copy), run.home)


def test_a_half_written_checkpoint_is_refused(copy: Path, run: Run) -> None:
    largest = max((file for file in (copy / "7/params").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    with largest.open("r+b") as handle:
        handle.truncate(largest.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="damaged"):
        open_source(str(copy), run.home).read("action_in_proj/bias")


def test_lora_beside_a_recipe_without_it_is_refused(run: Run, tmp_path: Path) -> None:
    lora = make_run(tmp_path / "lora", expert=LORA)
    shutil.copy(run.file, lora.file)
    with pytest.raises(CheckpointError, match="lora") as refused:
        open_source(str(lora.folder), lora.home)
    assert "attention_lora_rank: 3" in str(refused.value) or "lora_a" in str(refused.value)


def test_lora_without_a_recipe_needs_its_alpha(tmp_path: Path) -> None:
    lora = make_run(tmp_path, expert=LORA)
    lora.file.unlink()
    with pytest.raises(CheckpointError, match=r"alpha is not in a checkpoint.*--lora-alpha"):
        open_source(str(lora.folder / "7"), lora.home)
    source = open_source(str(lora.folder / "7"), lora.home, given=Given(lora_alpha=7.0))
    assert source.alphas.paligemma == pytest.approx(7 / 3)
    assert [expert.lora and expert.lora.alpha for expert in source.config.experts] == [pytest.approx(7.0)] * 2


def test_a_dataset_that_is_gone_is_named(run: Run, tmp_path: Path) -> None:
    source = open_source(str(run.folder), run.home)
    assert source.transforms is not None
    with pytest.raises(DatasetError, match="--dataset FOLDER"):
        held_out_samples(run.recipe, source.transforms, source.asset_id, dataset=tmp_path / "gone")
    assert len(held_out_samples(run.recipe, source.transforms, source.asset_id)) == FEWEST


def test_a_parameter_that_is_not_finite_is_named(run: Run, tmp_path: Path) -> None:
    from vla_ops.checkpoints.layout import open_checkpoint
    from vla_ops.checkpoints.reading import read_params
    from vla_ops.export.convert import write_weights

    params = read_params(open_checkpoint(run.folder))
    params["PaliGemma/llm/layers/mlp/linear"][1, 0, 0] = np.nan
    with CheckpointStore(tmp_path / "run") as store:
        store.save(1, TrainState(np.asarray(2, np.int32), params, {}))
    assets = next((run.folder / "7/assets").rglob("norm_stats.json")).parent
    source = open_source(str(tmp_path / "run"), tmp_path, given=Given(assets=assets))
    with pytest.raises(CheckpointError, match=r"not finite.*mlp/linear of layer 1"):
        write_weights(tmp_path / "m", source.plan, source.read, alphas=source.alphas, layout="openpi", precision="float32")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_models_configuration_comes_back_from_json(preset: str) -> None:
    assert config_from(json.loads(json.dumps(describe(PRESETS[preset])))) == PRESETS[preset]
