from __future__ import annotations

import jax
import pytest
from jax.sharding import PartitionSpec

from vla_ops.errors import TrainingError
from vla_ops.training.mesh import check_batch, cut, make_mesh


@pytest.mark.parametrize(
    ("shape", "ways", "expected"),
    [
        ((1024, 1024), 2, PartitionSpec("fsdp", None)),
        ((18, 2048, 16384), 4, PartitionSpec(None, None, "fsdp")),
        ((18, 2049, 16383), 2, PartitionSpec("fsdp", None, None)),
        ((1023, 1025), 2, PartitionSpec()),
        ((1024, 1023), 2, PartitionSpec()),
        ((2_000_000,), 2, PartitionSpec()),
        ((1024, 1024), 1, PartitionSpec()),
    ],
)
def test_of_arrays_of_four_mebibytes_the_largest_divisible_axis_is_cut(shape: tuple[int, ...], ways: int, expected: PartitionSpec) -> None:
    assert cut(shape, 4, ways) == expected


def test_devices_and_batches_that_cannot_be_cut_are_refused() -> None:
    devices = len(jax.devices())
    with pytest.raises(TrainingError, match=f"divisor of the {devices} devices"):
        make_mesh(devices + 1)
    with pytest.raises(TrainingError, match="multiple of"):
        check_batch(make_mesh(), batch_size=4 * devices + 1, accumulate=2)
