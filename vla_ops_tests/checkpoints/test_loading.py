"""What of a checkpoint goes into a model, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from vla_ops.checkpoints.architecture import architecture_of
from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.loading import ACTION_HEAD, CheckpointSource, LoadRules, load_into, plan_load
from vla_ops.checkpoints.paligemma import PALIGEMMA_RULES, PaliGemmaSource
from vla_ops.errors import CheckpointError
from vla_ops_tests.checkpoints.small import FROZEN, SHAPES, saved, small_state

BASE = {path: shape for path, shape in SHAPES.items() if "lora" not in path}


def expected(shapes: dict[str, tuple[int, ...]] = SHAPES, dtype: str = "float32", frozen: tuple[str, ...] = ()) -> dict[str, Any]:
    return {path: jax.ShapeDtypeStruct(shape, "bfloat16" if path in frozen else dtype) for path, shape in shapes.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CheckpointSource:
    state = small_state()
    base = {path: array for path, array in state.params.items() if path in BASE}
    step = saved(tmp_path_factory.mktemp("base"), type(state)(state.step, base, None))
    return CheckpointSource(open_checkpoint(step))


def test_a_base_checkpoint_is_loaded_into_a_lora_model_with_frozen_parameters_in_bfloat16(source: CheckpointSource) -> None:
    params, report = load_into(expected(frozen=FROZEN), source)
    lora = "PaliGemma/llm/layers/attn/q_einsum/lora_a"
    assert params.keys() == BASE.keys()
    assert [array.path for array in report.initialised] == [lora]
    assert {array.path for array in report.cast} == set(FROZEN)
    original = small_state().params
    for path, array in params.items():
        assert array.dtype == (ml_dtypes.bfloat16 if path in FROZEN else np.float32)
        assert np.array_equal(array, original[path].astype(array.dtype))


def test_the_report_lists_all_and_is_json(source: CheckpointSource) -> None:
    _, report = load_into(expected(frozen=FROZEN), source)
    assert json.loads(json.dumps(report.to_json()))["initialised"][0]["shape"] == [2, 4, 16, 3]
    table = report.table().splitlines()
    assert table[0].endswith("4 arrays loaded (2 in another dtype), 1 initialised, 0 left out")
    assert len(table) == 4
    assert "not in the checkpoint; named by missing: .*lora.*" in table[-1]


def test_arrays_come_with_the_sharding_that_is_expected(source: CheckpointSource) -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    want = {path: jax.ShapeDtypeStruct(shape, "bfloat16", sharding=sharding) for path, shape in BASE.items()}
    params, _ = load_into(want, source)
    assert all(isinstance(array, jax.Array) and array.sharding == sharding and array.dtype == "bfloat16" for array in params.values())


def test_a_wrong_shape_is_refused_with_both_shapes(source: CheckpointSource) -> None:
    want = expected({**BASE, "action_in_proj/kernel": (14, 16)})
    with pytest.raises(CheckpointError) as caught:
        load_into(want, source)
    assert "action_in_proj/kernel: float32[7, 16] in the checkpoint, float32[14, 16] in the model" in str(caught.value)
    assert source.name in str(caught.value)


def test_a_new_action_head_is_named_and_initialised(source: CheckpointSource) -> None:
    want = expected({**BASE, "action_in_proj/kernel": (14, 16), "action_out_proj/bias": (14,)})
    params, report = load_into(want, source, rules=LoadRules(anew=ACTION_HEAD))
    assert {array.path for array in report.initialised} == {"action_in_proj/kernel", "action_in_proj/bias", "action_out_proj/bias"}
    assert params.keys() == set(FROZEN)


def test_a_missing_parameter_is_refused_unless_it_is_named(source: CheckpointSource) -> None:
    want = expected({**BASE, "state_proj/bias": (4,)})
    with pytest.raises(CheckpointError, match=r"state_proj/bias: float32\[4\] in the model, not in the checkpoint"):
        load_into(want, source)
    _, report = load_into(want, source, rules=LoadRules(missing="state_proj/.*"))
    assert [array.path for array in report.initialised] == ["state_proj/bias"]


def test_arrays_that_the_model_has_not_are_refused_unless_they_are_named(source: CheckpointSource) -> None:
    want = {path: leaf for path, leaf in expected(BASE).items() if path != "action_in_proj/bias"}
    with pytest.raises(CheckpointError, match=r"action_in_proj/bias: float32\[16\] in the checkpoint, not in the model"):
        load_into(want, source)
    _, report = load_into(want, source, rules=LoadRules(extra="action_in_proj/.*"))
    assert [array.path for array in report.left_out] == ["action_in_proj/bias"]


def test_patterns_match_whole_paths_and_must_be_regular(source: CheckpointSource) -> None:
    with pytest.raises(CheckpointError, match="state_proj/bias"):
        load_into(expected({**BASE, "state_proj/bias": (4,)}), source, rules=LoadRules(missing="state_proj"))
    with pytest.raises(CheckpointError, match=r"not a regular expression.*\(lora"):
        load_into(expected(BASE), source, rules=LoadRules(missing="(lora"))


def test_numbers_are_not_turned_into_integers() -> None:
    found, want = {"a": np.zeros(3, np.float32)}, {"a": np.zeros(3, np.int32)}
    with pytest.raises(CheckpointError, match=r"float32\[3\] in the checkpoint, int32\[3\] in the model"):
        plan_load(want, found, source="here")


PATHS = st.sampled_from(["a/w", "a/lora_a", "b/w", "c/bias", "d"])
TREES = st.dictionaries(PATHS, st.sampled_from([(2,), (3,), (2, 2)]))
PATTERNS = st.none() | st.sampled_from([".*", "a/.*", ".*lora.*", "b/w|d"])


@given(TREES, TREES, PATTERNS, PATTERNS, PATTERNS)
def test_every_array_of_both_sides_is_in_the_report_or_in_the_error(
    want: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], missing: str | None, anew: str | None, extra: str | None
) -> None:
    rules = LoadRules(missing, anew, extra)
    want_, found_ = ({path: np.zeros(shape, np.float32) for path, shape in tree.items()} for tree in (want, found))
    try:
        report = plan_load(want_, found_, source="here", rules=rules)
    except CheckpointError as error:
        said = str(error.found).split("; ")
        wrong = {path for path in want.keys() | found.keys() if any(line.startswith(f"{path}: ") for line in said)}
        event("refused")
        if not wrong or len(said) != len(wrong):
            raise
        return
    loaded, initialised = {array.path for array in report.loaded}, {array.path for array in report.initialised}
    assert loaded | initialised == want.keys()
    assert not loaded & initialised
    assert all(want[path] == found[path] for path in loaded)
    assert {array.path for array in report.left_out} == found.keys() - want.keys()


def _tree(golden_dir: Path, name: str, dtype: str = "dtype") -> dict[str, Any]:
    tree = json.loads((golden_dir / "param_trees" / f"param_tree_{name}.json").read_text())
    return {entry["path"]: jax.ShapeDtypeStruct(entry["shape"], entry[dtype]) for entry in tree["params"]}


@pytest.mark.parametrize(("base", "tuned"), [("pi0", "pi0_lora"), ("pi05", "pi05_lora"), ("pi0", "pi0_lora_expert_only")])
def test_openpis_base_models_go_into_its_lora_models(golden_dir: Path, base: str, tuned: str) -> None:
    want = _tree(golden_dir, tuned, "train_dtype")
    report = plan_load(want, _tree(golden_dir, base), source=base)
    assert {array.path for array in report.initialised} == {path for path in want if "lora" in path}
    assert {array.path for array in report.cast} == {path for path, leaf in want.items() if leaf.dtype == "bfloat16"}


def test_another_family_is_named(golden_dir: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        plan_load(_tree(golden_dir, "pi05"), _tree(golden_dir, "pi0"), source="gs://bucket/pi0_base")
    said = str(caught.value)
    assert "The checkpoint is pi0 (gemma_2b + gemma_300m, action_dim 32) and the model pi05" in said
    assert "family: pi0 here, pi05 there" in said
    assert "gs://bucket/pi0_base" in said


def test_a_lora_checkpoint_in_a_model_without_lora_is_refused(golden_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lora_a: .* in the checkpoint, not in the model.*paligemma\.attention_lora_rank: 16 here"):
        plan_load(_tree(golden_dir, "pi0"), _tree(golden_dir, "pi0_lora"), source="here")


def test_paligemma_without_an_action_expert_is_no_pi0(golden_dir: Path) -> None:
    own = {path: leaf for path, leaf in _tree(golden_dir, "pi0").items() if path.startswith("PaliGemma") and "_1" not in path}
    with pytest.raises(CheckpointError, match="PaliGemma without the flow-matching action expert"):
        architecture_of(own)


def test_a_model_with_a_hole_in_it_says_which_parameter_is_missing(golden_dir: Path) -> None:
    whole = _tree(golden_dir, "pi0")
    del whole["PaliGemma/llm/layers/mlp_1/linear"]
    with pytest.raises(CheckpointError, match=r"not those of a whole pi0 model .*PaliGemma/llm/layers/mlp_1/linear"):
        architecture_of(whole)


@pytest.fixture
def paligemma(golden_dir: Path, tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A file like big_vision's, of a tiny model: file, its arrays by our paths, and the whole model's shapes."""
    source = CheckpointSource(open_checkpoint(golden_dir / "openpi_ckpt_tiny" / "pi0_lora" / "tiny"))
    model = {path: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for path, spec in source.specs.items()}
    own = {
        path: np.random.default_rng(0).standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in model.items()
        if path.startswith("PaliGemma/") and "_1/" not in path and "lora" not in path
    }
    # LayerNorm_1 and Dense_1 of the image tower are PaliGemma's.
    own |= {path: np.ones(leaf.shape, np.float32) for path, leaf in model.items() if path.startswith("PaliGemma/img/")}
    names = {f"params/{path.removeprefix('PaliGemma/')}": array for path, array in own.items()}
    names["params/llm/embedder/input_embedding"] = names["params/llm/embedder/input_embedding"].astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "pt_224.npz", **names, **{"opt/step": np.zeros(3)})
    return tmp_path / "pt_224.npz", own, model


def test_paligemmas_file_fills_the_first_expert_and_the_image_tower(paligemma: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    file, own, model = paligemma
    params, report = load_into(model, PaliGemmaSource(file), rules=PALIGEMMA_RULES)
    assert params.keys() == own.keys()
    assert all(params[path].dtype == model[path].dtype for path in params)
    name = "PaliGemma/img/embedding/kernel"
    assert np.array_equal(params[name], own[name])
    embedding = "PaliGemma/llm/embedder/input_embedding"
    assert np.array_equal(params[embedding], own[embedding].astype(ml_dtypes.bfloat16))
    other = {array.path for array in report.initialised}
    assert other == model.keys() - own.keys()
    assert all("_1" in path or "lora" in path or not path.startswith("PaliGemma/") for path in other)


def test_a_paligemma_file_that_lacks_a_layer_is_refused(paligemma: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    file, _, model = paligemma
    with np.load(file) as archive:
        np.savez(tmp_path / "short.npz", **{name: archive[name] for name in archive.files if "mlp/linear" not in name})
    with pytest.raises(CheckpointError, match=r"PaliGemma/llm/layers/mlp/linear: .* in the model, not in the checkpoint"):
        load_into(model, PaliGemmaSource(tmp_path / "short.npz"), rules=PALIGEMMA_RULES)


def test_a_damaged_or_strange_file_is_refused(paligemma: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    file, _, model = paligemma
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo("params/img/embedding/kernel.npy")
    content = bytearray(file.read_bytes())
    content[member.header_offset + member.compress_size // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the file is damaged .*PaliGemma/img/embedding/kernel"):
        load_into(model, PaliGemmaSource(tmp_path / "flipped.npz"), rules=PALIGEMMA_RULES)
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="the file cannot be read"):
        PaliGemmaSource(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(CheckpointError, match="the file is not PaliGemma's"):
        PaliGemmaSource(tmp_path / "other.npz")
