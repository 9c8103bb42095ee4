from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params
from vla_ops.errors import ParityError, StoreError
from vla_ops.export.back import bring_back
from vla_ops.export.lerobot_gate import load_for_gate, through_lerobot
from vla_ops.export.lerobot_layout import load_lerobot
from vla_ops.export.run import Exported, export, samples_for
from vla_ops.export.samples import held_out_samples
from vla_ops.export.source import ExportSource, open_source
from vla_ops.export.table import UNUSED
from vla_ops.training.run import Run
from vla_ops_tests.export.small_export import LORA, make_run


def opened(run: Run) -> ExportSource:
    return open_source(str(run.folder), run.home)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("lora"), expert=LORA)


@pytest.fixture(scope="module")
def exported(lora_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(opened(lora_run), tmp_path_factory.mktemp("out") / "lerobot", layout="lerobot", precision="float32")


def test_a_lora_checkpoint_passes_the_gate_through_lerobots_own_processors(exported: Exported, lora_run: Run) -> None:
    report = json.loads((exported.folder / "parity.json").read_text())
    assert report["passes"]
    assert len(report["places"]) >= 8
    assert report["origin"].startswith("held-out episodes")
    assert {len(masked) for masked in report["masked"]} == {0, 1}
    compared = {(row["what"], row["precision"]) for row in report["rows"]}
    assert {("prefix embeddings", "float32"), ("v_t", "float32"), ("sampled chunk", "float32"), ("v_t", "bfloat16")} <= compared
    assert ("robot units, through LeRobot's processors", "float32") in compared
    assert all(row["ratio"] <= 1e-4 for row in report["rows"] if row["precision"] == "float32")
    assert {(joint["name"], joint["unit"]) for joint in report["joints"]} == {
        (dim.name, dim.unit) for dim in lora_run.recipe.spec.action_dims
    }
    assert (exported.folder / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_every_tensor_of_the_loaded_policy_is_that_of_the_file(exported: Exported) -> None:
    loaded = load_lerobot(exported.folder)
    assert loaded.tensors == len(loaded.policy.model.state_dict())
    assert not loaded.policy.model.get_parameter(UNUSED).any()


def test_lerobot_by_itself_refuses_sizes_that_it_does_not_know(exported: Exported) -> None:
    from lerobot.policies.pi0.modeling_pi0 import PI0Policy

    with pytest.raises(Exception, match=r"instantiate class PI0Config|Invalid paligemma_variant"):
        PI0Policy.from_pretrained(str(exported.folder))


def test_a_load_that_lerobot_only_prints_about_is_an_error_here(exported: Exported, tmp_path: Path) -> None:
    copy = shutil.copytree(exported.folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.action_out_proj.bias"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ParityError, match=r"action_out_proj\.bias"):
        load_lerobot(copy)


def test_the_export_works_where_it_was_moved_to(exported: Exported, lora_run: Run, tmp_path: Path) -> None:
    moved = shutil.copytree(exported.folder, tmp_path / "elsewhere")
    ids = load_lerobot(moved).preprocess({"observation.state": torch.zeros(3), "task": " pick_it\n"})["observation.language.tokens"]
    source = opened(lora_run)
    assert source.transforms is not None
    expected, mask = source.transforms.prompts.tokens(" pick_it\n", np.zeros(3))
    assert ids[0].tolist() == expected.tolist()
    assert mask.sum() == len("pick it") + 2


def test_a_wrong_weight_leaves_no_export_and_is_named(lora_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(lora_run)
    write = export.__globals__["write_weights"]

    def spoiled(target: Path, *given: object, **more: object) -> None:
        write(target, *given, **more)
        tensors = load_file(target)
        name = "paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj.weight"
        save_file(tensors | {name: tensors[name].flip(0).contiguous()}, target, metadata={"format": "pt"})

    monkeypatch.setitem(export.__globals__, "write_weights", spoiled)
    with pytest.raises(ParityError, match=r"layer paligemma_with_expert\.gemma_expert\.model\.layers\.1: differs by"):
        export(source, tmp_path / "out", layout="openpi", precision="float32")
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_written_over(exported: Exported, lora_run: Run) -> None:
    with pytest.raises(StoreError, match="something at the export's place"):
        export(opened(lora_run), exported.folder)


@pytest.mark.slow
def test_the_way_back_from_a_merged_export_computes_the_same(exported: Exported, tmp_path: Path) -> None:
    back = bring_back(exported.folder, tmp_path / "0")
    assert back.report.passes
    assert not any("lora" in path for path in read_params(open_checkpoint(back.folder)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pi0", "pi05"])
@pytest.mark.parametrize("layout", ["lerobot", "openpi"])
def test_both_families_in_both_layouts_in_bfloat16(family: str, layout: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family=family)
    made = export(opened(run), tmp_path / "out", layout=layout, precision="bfloat16")  # type: ignore[arg-type]
    assert made.report.passes
    kept = {name: tensor.dtype for name, tensor in load_file(made.folder / "model.safetensors").items()}
    assert set(kept.values()) == {torch.float32, torch.bfloat16}
    assert next(dtype for name, dtype in kept.items() if name.endswith("gemma_expert.model.layers.0.mlp.up_proj.weight")) == torch.bfloat16
    assert bring_back(made.folder, tmp_path / "back").report.passes


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_there_and_back_is_bit_for_bit_the_checkpoint(family: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family=family)
    made = export(opened(run), tmp_path / "out", layout="openpi", precision="float32")
    back = read_params(open_checkpoint(bring_back(made.folder, tmp_path / "0").folder))
    there = read_params(open_checkpoint(run.folder))
    assert back.keys() == there.keys()
    assert all(np.array_equal(back[path], there[path]) for path in there)


@pytest.mark.slow
def test_a_bfloat16_file_that_is_not_the_rounded_checkpoint_is_found(
    lora_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export.__globals__["write_weights"]

    def spoiled(target: Path, *given: object, **more: object) -> None:
        write(target, *given, **more)
        tensors = load_file(target)
        name = "paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj.weight"
        tensors[name][0, 0] += 1e-2
        save_file(tensors, target, metadata={"format": "pt"})

    monkeypatch.setitem(export.__globals__, "write_weights", spoiled)
    with pytest.raises(ParityError, match=r"not that of the checkpoint, rounded.*layers\.1\.mlp\.up_proj"):
        export(opened(lora_run), tmp_path / "out", layout="openpi", precision="bfloat16")


@pytest.mark.slow
def test_a_product_of_lora_head_by_head_does_not_pass(lora_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_ops.export import convert

    whole = convert.merged
    monkeypatch.setattr(
        convert, "merged", lambda w, a, b, pair, scale: w + scale * (a @ b) if pair.kind == "summed heads" else whole(w, a, b, pair, scale)
    )
    with pytest.raises(ParityError, match=r"layer paligemma_with_expert\.paligemma\.model\.language_model\.layers\.0"):
        export(opened(lora_run), tmp_path / "out", layout="openpi", precision="float32")


def test_samples_have_noise_of_their_own_in_every_row(lora_run: Run) -> None:
    source = opened(lora_run)
    assert source.transforms is not None
    samples = held_out_samples(lora_run.recipe, source.transforms, source.asset_id)
    assert len({row.tobytes() for row in samples.noise}) == len(samples) == len(set(samples.places))


@pytest.mark.slow
def test_a_policy_that_lerobot_saved_by_itself_comes_back_with_its_norm_stats(exported: Exported, lora_run: Run, tmp_path: Path) -> None:
    saved = shutil.copytree(exported.folder, tmp_path / "saved", ignore=shutil.ignore_patterns("vla_ops.json", "assets", "parity.*"))
    back = bring_back(saved, tmp_path / "0")
    assert back.report.passes
    assert back.report.origin == "made up"
    found = json.loads((back.folder / "assets/lerobot/norm_stats.json").read_text())["norm_stats"]
    (stats,) = lora_run.recipe.read_stats().values()
    assert found["state"]["std"] == pytest.approx(stats.state.std, rel=1e-5, abs=1e-7)
    assert found["actions"]["mean"] == pytest.approx(stats.actions.mean, rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_where_the_hubs_tokenizer_cannot_be_had_the_gate_says_so_and_uses_ours(exported: Exported, lora_run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(exported.folder, tmp_path / "copy")
    file = copy / "policy_preprocessor.json"
    # A folder that is not there is to transformers what a repository is that it cannot reach.
    file.write_text(file.read_text().replace("./tokenizer", str(tmp_path / "not/there")))
    source = opened(lora_run)
    loaded, note = load_for_gate(copy, source)
    assert note is not None
    assert "ids were not compared" in note
    samples = samples_for(source)
    _, tokens = through_lerobot(loaded, source, samples.rows(0, 2), steps=1)
    assert tokens.error == 0
