"""Checkpoints that openpi wrote: read, written again, and found the same."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from vla_ops.checkpoints.architecture import architecture_of
from vla_ops.checkpoints.layout import Checkpoint, open_checkpoint
from vla_ops.checkpoints.reading import Wanted, read_params, read_specs, read_train_state
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import TrainState, leaves_of, train_state_item
from vla_ops_tests.checkpoints.small import bytes_of, like_openpis, map_state

VARIANTS = {"pi0": True, "pi05": True, "pi0_lora": False}


def _frozen(variant: str, path: str) -> bool:
    return variant.endswith("_lora") and "llm" in path and "lora" not in path


@pytest.fixture(params=VARIANTS, scope="module")
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(golden_dir: Path, variant: str) -> Checkpoint:
    return open_checkpoint(golden_dir / "openpi_ckpt_tiny" / variant / "tiny" / "1")


@pytest.fixture(scope="module")
def manifest(golden_dir: Path, variant: str) -> dict[str, Any]:
    return json.loads((golden_dir / "openpi_ckpt_tiny" / f"{variant}_manifest.json").read_text())


@pytest.fixture(scope="module")
def state(checkpoint: Checkpoint, variant: str) -> TrainState:
    like = like_openpis(checkpoint, ema=VARIANTS[variant], frozen=lambda path: _frozen(variant, path))
    return read_train_state(checkpoint, like)


def test_parameters_are_those_that_openpi_wrote_to_the_bit(checkpoint: Checkpoint, manifest: dict[str, Any]) -> None:
    read = {
        path: {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": zlib.crc32(array.tobytes())}
        for path, array in read_params(checkpoint).items()
    }
    assert read == {path: {k: v for k, v in entry.items() if k != "sum_f64"} for path, entry in manifest["params_manifest"].items()}


def test_the_train_state_is_the_one_that_openpi_restored(state: TrainState, manifest: dict[str, Any]) -> None:
    expected = manifest["restored_train_state_leaves"]
    # openpi lists the EMA weights under their own name; they are in the params item.
    leaves = dict(leaves_of(train_state_item(state)))
    listed = {path: entry for path, entry in expected.items() if path in leaves}
    assert leaves.keys() <= expected.keys()
    for path, entry in listed.items():
        found = leaves[path]
        assert (list(found.shape), str(found.dtype)) == (entry["shape"], entry["dtype"]), path
        # Added up in another order than there.
        assert float(np.sum(found, dtype=np.float64)) == pytest.approx(entry["sum_f64"], rel=1e-9, abs=1e-9), path


def test_what_is_written_has_the_tree_that_openpi_writes(checkpoint: Checkpoint, state: TrainState, tmp_path: Path, variant: str) -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("batch", "fsdp"))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    on_devices = map_state(lambda leaf: jax.device_put(leaf, sharding), state)
    with CheckpointStore(tmp_path) as store:
        store.save(1, on_devices, assets={"trossen/norm_stats.json": checkpoint.norm_stats["trossen"].read_bytes()}, extra={"position": 7})
    written = open_checkpoint(tmp_path)
    for item in ("params", "train_state"):
        assert _tree(written.folder / item) == _tree(checkpoint.folder / item)
        assert _array_metadata(written.folder / item) == _array_metadata(checkpoint.folder / item)
    assert written.norm_stats["trossen"].read_bytes() == checkpoint.norm_stats["trossen"].read_bytes()
    like = like_openpis(written, ema=VARIANTS[variant], frozen=lambda path: _frozen(variant, path))
    assert bytes_of(read_train_state(written, like)) == bytes_of(state)


def test_numpy_arrays_are_written_as_well(state: TrainState, tmp_path: Path, variant: str) -> None:
    with CheckpointStore(tmp_path) as store:
        store.save(1, state)
    written = open_checkpoint(tmp_path)
    like = like_openpis(written, ema=VARIANTS[variant], frozen=lambda path: _frozen(variant, path))
    assert bytes_of(read_train_state(written, like)) == bytes_of(state)


def test_both_layouts_are_read(golden_dir: Path) -> None:
    folder = golden_dir / "openpi_ckpt_tiny"
    plain, with_value = open_checkpoint(folder / "pi0_formula_pure_dict" / "params"), open_checkpoint(folder / "pi0" / "tiny")
    assert read_specs(plain) == read_specs(with_value)
    path = "PaliGemma/llm/layers/attn/q_einsum/w"
    # The formula that made them, from the notes beside the file.
    u = (np.random.RandomState(zlib.crc32(path.encode())).random_sample((4, 8, 64, 16)) * 2 - 1) * np.sqrt(3)
    assert np.array_equal(read_params(plain, paths={path: Wanted()})[path], (u / np.sqrt(64)).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "family", "experts", "lora"),
    [
        ("pi0", "pi0", ("gemma_2b", "gemma_300m"), (None, None)),
        ("pi05", "pi05", ("gemma_2b", "gemma_300m"), (None, None)),
        ("pi0_lora", "pi0", ("gemma_2b_lora", "gemma_300m_lora"), (16, 32)),
        ("pi05_lora", "pi05", ("gemma_2b_lora", "gemma_300m_lora"), (16, 32)),
        ("pi0_dummy", "pi0", ("dummy", "dummy"), (None, None)),
        ("pi05_dummy", "pi05", ("dummy", "dummy"), (None, None)),
        ("pi0_lora_paligemma_only", "pi0", ("gemma_2b_lora", "gemma_300m"), (16, None)),
        ("pi0_lora_expert_only", "pi0", ("gemma_2b", "gemma_300m_lora"), (None, 32)),
    ],
)
def test_the_architecture_is_inferred_from_shapes(
    golden_dir: Path, name: str, family: str, experts: tuple[str, str], lora: tuple[int | None, int | None]
) -> None:
    tree = json.loads((golden_dir / "param_trees" / f"param_tree_{name}.json").read_text())
    found = architecture_of({entry["path"]: entry["shape"] for entry in tree["params"]})
    assert (found.family, found.action_dim, found.vocabulary) == (family, 32, 257152)
    assert (found.paligemma.variant, found.action_expert.variant) == experts
    assert (found.paligemma.attention_lora_rank, found.action_expert.ffn_lora_rank) == lora
    assert (found.vision.width, found.vision.depth, found.vision.num_tokens, found.vision.num_heads) == (1152, 27, 256, 16)
    assert found.state_dim == (32 if family == "pi0" else None)


def _tree(item: Path) -> list[tuple[str, Any]]:
    return list(json.loads((item / "_METADATA").read_text())["tree_metadata"].items())


def _array_metadata(item: Path) -> list[Any]:
    listed = json.loads((item / "array_metadatas" / "process_0").read_text())["array_metadatas"]
    return sorted(listed, key=lambda entry: entry["array_metadata"]["param_name"])
