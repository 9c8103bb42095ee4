"""Checkpoints in a store in memory, and compared."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import numpy as np

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.space import Keep
from vla_ops_tests.checkpoints.small import small_state


def upload(folder: Path) -> str:
    """Put a folder into fsspec's store in memory, and return its URL."""
    url = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").put(str(folder), url, recursive=True)
    return url


def same(first: Path, second: Path) -> bool:
    """Whether two checkpoints have the same parameters."""
    one, two = (read_params(open_checkpoint(path)) for path in (first, second))
    return one.keys() == two.keys() and all(np.array_equal(one[path], two[path]) for path in one)


def saved_run(folder: Path) -> Path:
    """A run with the checkpoints 5 and 10."""
    # With files of which two at least are large, however Orbax puts the arrays together.
    with CheckpointStore(folder, keep=Keep(latest=2)) as store:
        for step in (5, 10):
            store.save(step, small_state(step), assets={"trossen/norm_stats.json": b"{}".ljust(3000)})
    return folder
