"""What is written here is read by the libraries that openpi pins, called as openpi calls them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import leaves_of, params_tree, train_state_item
from vla_ops_tests.checkpoints.small import FROZEN, small_state
from vla_ops_tests.isolated import run_isolated

_PINNED = (
    "jax==0.5.3",
    "jaxlib==0.5.3",
    "orbax-checkpoint==0.11.13",
    "tensorstore==0.1.74",
    "ml-dtypes==0.4.1",
    "numpy==1.26.4",
    "protobuf<6",
    "setuptools",
)

_READ = """
import json, sys, zlib
from pathlib import Path
import jax, numpy as np, orbax.checkpoint as ocp

run = Path(sys.argv[1])

class Assets(ocp.AsyncCheckpointHandler):
    def save(self, directory, args): raise NotImplementedError
    async def async_save(self, directory, args): raise NotImplementedError
    def restore(self, directory, args=None): raise NotImplementedError

@ocp.args.register_with_handler(Assets, for_save=True)
class AssetsSave(ocp.args.CheckpointArgs): pass

@ocp.args.register_with_handler(Assets, for_restore=True)
class AssetsRestore(ocp.args.CheckpointArgs): pass

def crcs(tree):
    return {"/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): zlib.crc32(np.ascontiguousarray(leaf).tobytes())
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}

# Training resumes through a manager with a handler for each of three items ...
handlers = {"assets": Assets(), "train_state": ocp.PyTreeCheckpointHandler(), "params": ocp.PyTreeCheckpointHandler()}
options = ocp.CheckpointManagerOptions(max_to_keep=1, keep_period=5000, create=False)
manager = ocp.CheckpointManager(run, item_handlers=handlers, options=options)
assert tuple(manager.all_steps()) == (7,) and manager.latest_step() == 7, manager.all_steps()
# ... and serving through the params folder alone, asking for what its metadata lists.
with ocp.PyTreeCheckpointer() as reader:
    listed = {"params": reader.metadata(run / "7" / "params")["params"]}
    how = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(restore_type=np.ndarray), listed)
    params = reader.restore(run / "7" / "params", ocp.args.PyTreeRestore(item=listed, restore_args=how))
    state_listed = dict(reader.metadata(run / "7" / "train_state"))
# openpi restores into abstract arrays with shardings.
sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), (state_listed, listed))
restored = manager.restore(7, items={"train_state": like[0], "params": like[1]})
assert crcs(restored["params"]) == crcs(params)
assets = sorted(path.name for path in (run / "7/assets").rglob("*.json"))
found = {"params": crcs(params), "train_state": crcs(restored["train_state"]), "assets": assets}
Path(sys.argv[2]).write_text(json.dumps(found))
"""


@pytest.mark.services
@pytest.mark.parametrize(("ema", "frozen"), [(True, ()), (False, FROZEN)])
def test_openpis_libraries_read_a_checkpoint_written_here(tmp_path: Path, *, ema: bool, frozen: tuple[str, ...]) -> None:
    state = small_state(ema=ema, frozen=frozen)
    with CheckpointStore(tmp_path / "run") as store:
        store.save(7, state, assets={"trossen/norm_stats.json": b"{}"}, extra={"position": 3}, metrics={"loss": 1.0})
    run_isolated(_PINNED, _READ, tmp_path / "run", tmp_path / "found.json", JAX_PLATFORMS="cpu")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["params"] == _crcs(params_tree(state.served))
    assert found["train_state"] == _crcs(train_state_item(state))
    assert found["assets"] == ["norm_stats.json"]


def _crcs(tree: object) -> dict[str, int]:
    return {path: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for path, leaf in leaves_of(tree)}
