"""Which device holds what: batches are cut over all devices, large arrays over `fsdp_devices` of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vla_ops.errors import TrainingError

DATA, FSDP = "batch", "fsdp"
# Smaller arrays are copied: cutting them costs more than it saves (as in openpi).
_SMALLEST_CUT = 4 << 20


def make_mesh(fsdp_devices: int = 1) -> Mesh:
    """All devices of all hosts as data x fsdp. Raise TrainingError for a number that does not divide them."""
    devices = jax.devices()
    if len(devices) % fsdp_devices:
        raise TrainingError(
            "the devices cannot be cut so",
            found=f"fsdp_devices {fsdp_devices}",
            expected=f"a divisor of the {len(devices)} devices",
            todo="Set fsdp_devices to one of them, or start on another number of devices.",
        )
    return Mesh(np.array(devices).reshape(-1, fsdp_devices), (DATA, FSDP))


def check_batch(mesh: Mesh, *, batch_size: int, accumulate: int) -> None:
    """Raise TrainingError unless every device gets the same number of samples in each part of a batch."""
    if batch_size % (accumulate * mesh.size):
        raise TrainingError(
            "a batch cannot be cut so",
            found=f"batch_size {batch_size} in {accumulate} parts on {mesh.size} devices",
            expected=f"a multiple of {accumulate * mesh.size}",
            todo="Change batch_size or accumulate.",
        )


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a tree of arrays or shapes."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, cut(leaf.shape, leaf.dtype.itemsize, mesh.shape[FSDP])), tree)


def sharded(tree: Any, mesh: Mesh) -> Any:
    """The tree with every leaf as a shape that has a dtype and its sharding."""
    return jax.tree.map(lambda leaf, how: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=how), tree, shardings(tree, mesh))


def cut(shape: tuple[int, ...], itemsize: int, ways: int) -> PartitionSpec:
    """Of an array of at least 4 MiB and two axes the largest axis that `ways` divides; nothing of others."""
    if ways > 1 and len(shape) > 1 and math.prod(shape) * itemsize >= _SMALLEST_CUT:
        for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
            if shape[axis] % ways == 0:
                return PartitionSpec(*(FSDP if k == axis else None for k in range(len(shape))))
    return PartitionSpec()


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_batch(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def put_batch(inputs: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Put this host's part of a batch onto its devices: arrays of the whole batch, cut over all devices."""
    how = of_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(inputs), how)
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(how, np.asarray(part)), dict(inputs))
