from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from vla_ops.errors import CheckpointError
from vla_ops.export.tensors import SafetensorsWriter, TensorSpec

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
SPECS = st.dictionaries(
    st.text(min_size=1, max_size=6), st.builds(TensorSpec, SHAPES, st.sampled_from(["float32", "bfloat16"])), max_size=6
)


@given(specs=SPECS.filter(lambda specs: "__metadata__" not in specs), seed=st.integers(0, 99))
def test_what_is_written_in_any_order_is_what_the_library_reads(
    specs: dict[str, TensorSpec], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("file") / "model.safetensors"
    rng = np.random.default_rng(seed)
    given_ = {name: rng.standard_normal(spec.shape).astype(np.float32) for name, spec in specs.items()}
    with SafetensorsWriter(file, specs, metadata={"format": "pt"}) as writer:
        names = list(specs)
        for k in rng.permutation(len(names)):
            writer.write(names[k], given_[names[k]])
    assert file.stat().st_size == writer.nbytes
    read = load_file(file)
    assert read.keys() == specs.keys()
    for name, spec in specs.items():
        assert read[name].dtype == getattr(torch, spec.dtype)
        as_stored = given_[name].astype(ml_dtypes.bfloat16).astype(np.float32) if spec.dtype == "bfloat16" else given_[name]
        assert np.array_equal(read[name].float().numpy(), as_stored)


def test_zeros_take_no_room_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with SafetensorsWriter(file, {"large": TensorSpec((1 << 24,), "float32")}) as writer:
        writer.leave_zero("large")
    assert file.stat().st_blocks * 512 < 1 << 20
    assert not load_file(file)["large"].any()


def test_a_tensor_that_was_forgotten_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"not written \[.*array b"),
        SafetensorsWriter(tmp_path / "m", dict.fromkeys("ab", TensorSpec((1,), "float32"))) as writer,
    ):
        writer.write("a", np.zeros(1))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match="another shape"),
        SafetensorsWriter(tmp_path / "m", {"a": TensorSpec((2, 3), "float32")}) as writer,
    ):
        writer.write("a", np.zeros((3, 2)))


def test_a_tensor_is_not_written_twice(tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path / "m", {"a": TensorSpec((1,), "float32")}) as writer:
        writer.write("a", np.zeros(1))
        with pytest.raises(CheckpointError, match="written twice"):
            writer.write("a", np.zeros(1))
