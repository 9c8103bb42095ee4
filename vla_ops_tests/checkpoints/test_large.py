"""Large arrays: memory while reading, and shardings other than those they were saved with. In processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vla_ops.checkpoints.trees import TrainState
from vla_ops_tests.checkpoints.small import saved

_PEAK_WHILE_READING = """
import sys
from pathlib import Path
from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import Wanted, read_params
checkpoint = open_checkpoint(Path(sys.argv[1]))
# Threads, codecs and modules are there before it is measured.
read_params(checkpoint, paths={"small/bias": Wanted("bfloat16")})
def memory(name):
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))
# The peak of a process begins with that of its parent; from here on it is its own.
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
read = read_params(checkpoint, dtype="bfloat16", check=True)
print(memory("VmHWM") - before, sum(array.nbytes for array in read.values()))
"""

_RESHARD = """
import sys
from pathlib import Path
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import Wanted, read_params, read_train_state
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import TrainState
array = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
def over(count):
    return NamedSharding(Mesh(np.array(jax.devices()[:count]).reshape(1, count), ("batch", "fsdp")), P("fsdp"))
one = jax.device_put(np.asarray(1, np.int32), NamedSharding(over(2).mesh, P()))
state = TrainState(one, {"a/kernel": jax.device_put(array, over(2))}, None)
with CheckpointStore(Path(sys.argv[1])) as store:
    store.save(1, state)
checkpoint = open_checkpoint(Path(sys.argv[1]))
read = read_params(checkpoint, paths={"a/kernel": Wanted("bfloat16", over(4))})["a/kernel"]
assert len(read.addressable_shards) == 4 and read.addressable_shards[0].data.shape == (16, 32)
assert np.array_equal(np.asarray(read, np.float32), array.astype(read.dtype).astype(np.float32))
assert np.array_equal(read_params(checkpoint)["a/kernel"], array)
like = TrainState(jax.ShapeDtypeStruct((), "int32", sharding=NamedSharding(over(4).mesh, P())),
                  {"a/kernel": jax.ShapeDtypeStruct((64, 32), "float32", sharding=over(4))}, None)
assert np.array_equal(read_train_state(checkpoint, like).params["a/kernel"], array)
"""


def _run(program: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.slow
def test_reading_takes_little_more_memory_than_the_result_and_the_largest_array(tmp_path: Path) -> None:
    largest = 96 << 20
    rng = np.random.default_rng(0)
    params = {f"layer_{k}/kernel": rng.standard_normal(largest // 4, dtype=np.float32) for k in range(6)}
    step = saved(tmp_path, TrainState(np.asarray(1, np.int32), params | {"small/bias": np.ones(4, np.float32)}, None))
    del params
    peak, result = map(int, _run(_PEAK_WHILE_READING, step).split())
    assert result == 6 * largest // 2 + 8
    # Compressed bytes and the decoded array are both there for a moment.
    assert peak <= result + 2 * largest + (32 << 20)


def test_a_checkpoint_is_restored_onto_another_number_of_devices(tmp_path: Path) -> None:
    _run(_RESHARD, tmp_path / "run", XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu")
