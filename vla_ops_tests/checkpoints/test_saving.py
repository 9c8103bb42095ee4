"""A run's checkpoints: asynchronous, atomic, kept by a policy, and whole after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.checkpoints import saving, space
from vla_ops.checkpoints.layout import best_step, latest_step, marked_best, norm_stats_asset, open_checkpoint, read_state, steps_in
from vla_ops.checkpoints.reading import read_params, read_train_state
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.space import Keep, checkpoint_bytes, require_space
from vla_ops.errors import CheckpointError, StoreError
from vla_ops_tests.checkpoints.small import FROZEN, abstract, bytes_of, map_state, saved, small_state


@pytest.mark.parametrize(("ema", "frozen"), [(True, ()), (False, FROZEN)])
def test_a_train_state_comes_back_to_the_bit(tmp_path: Path, *, ema: bool, frozen: tuple[str, ...]) -> None:
    state = small_state(ema=ema, frozen=frozen)
    saved(tmp_path, state)
    checkpoint = open_checkpoint(tmp_path)
    read = read_train_state(checkpoint, abstract(state))
    assert bytes_of(read) == bytes_of(state)
    assert type(read.opt_state[1][0]) is type(state.opt_state[1][0])
    served = read_params(checkpoint)
    assert all(np.array_equal(served[path], array) for path, array in (state.ema_params or state.params).items())


def test_a_restored_state_has_the_shardings_that_are_asked_for(tmp_path: Path) -> None:
    state = small_state(ema=True)
    saved(tmp_path, state)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    like = map_state(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding if len(leaf.shape) > 1 else replicated), state
    )
    read = read_train_state(open_checkpoint(tmp_path), like)
    assert {array.sharding for array in read.params.values()} == {sharding, replicated}
    assert bytes_of(read) == bytes_of(state)


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path: Path) -> None:
    state = map_state(jnp.asarray, small_state(ema=True))
    expected = bytes_of(state)
    overwrite = jax.jit(lambda arrays: jax.tree.map(lambda array: array * 0 - 7, arrays), donate_argnums=0)
    with CheckpointStore(tmp_path) as store:
        store.save(1, state)
        overwrite((state.params, state.opt_state, state.ema_params))
    assert bytes_of(read_train_state(open_checkpoint(tmp_path), abstract(state))) == expected


def test_what_openpi_does_not_know_lies_where_it_does_not_look(tmp_path: Path) -> None:
    step = saved(tmp_path, small_state(), assets=norm_stats_asset("lab/arm", "{}"), extra={"position": [3, 1]}, metrics={"flow_loss": 0.5})
    assert read_state(step) == {"step": 1, "metrics": {"flow_loss": 0.5}, "extra": {"position": [3, 1]}}
    assert open_checkpoint(step).norm_stats == {"lab/arm": step / "assets/lab/arm/norm_stats.json"}
    assert {inner.name for inner in step.iterdir() if inner.is_dir()} == {"params", "train_state", "assets", "vla_ops"}


def test_an_item_of_files_is_saved_and_restored_also_without_waiting_for_it(tmp_path: Path) -> None:
    files = {"arm/norm_stats.json": b"{}", "state.json": b"[1]"}
    checkpointer = ocp.Checkpointer(saving._FilesHandler())
    checkpointer.save(epath.Path(tmp_path / "item"), args=saving._Files(files))
    restored = checkpointer.restore(epath.Path(tmp_path / "item"))
    assert {name: restored[name] for name in files} == files


def test_the_policy_keeps_the_last_every_nth_and_the_best(tmp_path: Path) -> None:
    losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: float("nan"), 60: 4.0}
    with CheckpointStore(tmp_path, keep=Keep(latest=1, period=30, metric="loss")) as store:
        for step, loss in losses.items():
            store.save(step, small_state(step), metrics={"loss": loss})
        store.wait()
        assert store.steps == [20, 30, 60]
        assert (store.latest_step, store.best_step, marked_best(tmp_path)) == (60, 20, 20)
    assert best_step(tmp_path, "loss") == 20
    assert best_step(tmp_path, "loss", lower_is_better=False) == 60
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 20, "metric": "loss", "value": 1.0, "lower_is_better": True}


@given(
    values=st.dictionaries(st.integers(0, 50), st.none() | st.floats(-5, 5) | st.just(float("nan")), min_size=1),
    latest=st.integers(1, 4),
    period=st.none() | st.integers(1, 9),
    lower=st.booleans(),
)
def test_any_policy_keeps_the_last_ones_and_the_best(
    values: dict[int, float | None], latest: int, period: int | None, *, lower: bool
) -> None:
    kept = Keep(latest, period, "loss", lower).of(values)
    steps = sorted(values)
    assert set(steps[-latest:]) <= kept <= set(steps)
    known = {step: value for step, value in values.items() if value is not None and value == value}  # noqa: PLR0124
    if known:
        assert known[min(known, key=lambda step: (known[step] if lower else -known[step], step))] in [known.get(step) for step in kept]
    if period:
        assert {step for step in steps if step % period == 0} <= kept


def test_unfinished_checkpoints_are_no_checkpoints_and_are_removed(tmp_path: Path) -> None:
    saved(tmp_path, small_state(), step=5)
    for name in ("9.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-1700000000", "7.tmp-999999999-ab-host"):
        (tmp_path / name / "params").mkdir(parents=True)
        (tmp_path / name / "params" / "_METADATA").write_text("{}")
    (tmp_path / "8" / "params").mkdir(parents=True)
    (tmp_path / "007").mkdir()
    assert (steps_in(tmp_path), latest_step(tmp_path)) == ([5], 5)
    with CheckpointStore(tmp_path) as store:
        assert store.latest_step == 5
    # Work of another machine may still go on; that of Orbax cannot, as the folder is held.
    assert sorted(path.name for path in tmp_path.iterdir() if "orbax" in path.name) == []


def test_a_second_training_of_a_run_is_refused(tmp_path: Path) -> None:
    with (
        CheckpointStore(tmp_path),
        pytest.raises(StoreError, match=rf"another training writes to this run .*process {os.getpid()}"),
        CheckpointStore(tmp_path),
    ):
        pass


def test_a_step_is_not_written_twice_and_can_be_gone_back_to(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, keep=Keep(latest=5, metric="loss")) as store:
        for step in (1, 2, 3):
            store.save(step, small_state(step), metrics={"loss": -step})
        with pytest.raises(StoreError, match="a checkpoint of that step already"):
            store.save(2, small_state())
        assert store.discard_after(1) == [2, 3]
        assert (store.steps, marked_best(tmp_path)) == ([1], 1)
        store.save(2, small_state())
    assert steps_in(tmp_path) == [1, 2]


def test_a_checkpoint_that_fails_is_told_of_and_those_before_it_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with CheckpointStore(tmp_path, keep=Keep(latest=5)) as store:
        store.save(1, small_state())
        store.wait()
        monkeypatch.setattr(saving, "write_checksums", no_space)
        store.save(2, small_state())
        with pytest.raises(StoreError, match=r"checkpoint of step 2 could not be saved: .*No space left"):
            store.wait()
        monkeypatch.undo()
        assert (store.steps, [path.name for path in tmp_path.iterdir() if "tmp" in path.name]) == ([1], [])
        store.save(2, small_state())
    assert steps_in(tmp_path) == [1, 2]


def test_a_disk_that_will_not_hold_it_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = small_state(ema=True)
    needed = checkpoint_bytes(abstract(state))
    assert needed == checkpoint_bytes(state)
    assert needed > sum(file.stat().st_size for file in saved(tmp_path, state).rglob("*"))
    usage = space.shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage)
    with CheckpointStore(tmp_path) as store, pytest.raises(StoreError, match="the disk will not hold the next checkpoint"):
        store.save(2, state)
    assert steps_in(tmp_path) == [1]
    with pytest.raises(StoreError, match=r"the run's 3 checkpoints .*found 0\.\d\d GB free; expected 0\.\d\d GB"):
        require_space(tmp_path / "not" / "yet", needed, checkpoints=3)


def test_the_most_checkpoints_that_lie_there_at_once_are_known() -> None:
    # The last, the periodic ones at 5000, ..., 30000, the best, and the one being written.
    assert Keep(latest=1, period=5000, metric="loss").most(steps=30_000, save_every=1000) == 1 + 6 + 1 + 1
    assert Keep().most(steps=30_000, save_every=1000) == 2
    assert Keep(latest=10).most(steps=2000, save_every=1000) == 3


def test_a_train_state_of_another_training_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, small_state(ema=True))
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"params/.*: not in the training"):
        read_train_state(checkpoint, abstract(small_state(ema=False)))
    with pytest.raises(CheckpointError, match=r"bfloat16\[64, 16\] in the training|not in the training"):
        read_train_state(checkpoint, abstract(small_state(ema=True, frozen=FROZEN)))


_SAVE_UNTIL_KILLED = """
import sys
from pathlib import Path
import numpy as np
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.space import Keep
from vla_ops.checkpoints.trees import TrainState
big = {f"layer_{k}/kernel": np.random.default_rng(k).standard_normal((512, 512)).astype(np.float32) for k in range(12)}
with CheckpointStore(Path(sys.argv[1]), keep=Keep(latest=2)) as store:
    first = (store.latest_step or 0) + 1
    for step in range(first, first + 1000):
        params = {path: array + np.float32(step) for path, array in big.items()}
        store.save(step, TrainState(np.asarray(step, np.int32), params, None, params), extra={"step": step})
        print(step, flush=True)
"""


def test_a_kill_in_the_middle_of_a_save_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    said = _killed(tmp_path, saves=2, unfinished=True)
    assert any("orbax-checkpoint-tmp" in path.name for path in tmp_path.iterdir())
    _require_whole(tmp_path, said)
    with CheckpointStore(tmp_path):
        assert not any("tmp" in path.name for path in tmp_path.iterdir())


@pytest.mark.slow
def test_kills_at_any_moment_of_a_run_that_is_resumed_each_time_leave_whole_checkpoints(tmp_path: Path) -> None:
    for k in range(6):
        _require_whole(tmp_path, _killed(tmp_path, saves=2, wait_s=0.02 * k))
    assert len(steps_in(tmp_path)) <= 3


def _require_whole(run: Path, said: int) -> None:
    """The last checkpoint is the one before the step that was said to have begun, or later, and all of it is there by its checksums."""
    step = latest_step(run)
    assert step is not None
    assert said - 1 <= step <= said + 1
    params = read_params(open_checkpoint(run))
    assert {float(array.mean().round()) for array in params.values()} == {float(step)}
    assert read_state(run / str(step))["extra"] == {"step": step}


def _killed(run: Path, *, saves: int, wait_s: float = 0.0, unfinished: bool = False) -> int:
    """Kill a process that saves, or only while a checkpoint is unfinished; the last step that it said it had begun."""
    with subprocess.Popen([sys.executable, "-c", _SAVE_UNTIL_KILLED, str(run)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(saves)]
        time.sleep(wait_s)
        _stop(process)
        while unfinished and not any("orbax-checkpoint-tmp" in path.name for path in run.iterdir()):
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
            _stop(process)
        process.send_signal(signal.SIGKILL)
        return [*said, *map(int, process.stdout.read().split())][-1]


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop it, and wait until each of its threads has: until then one may give a checkpoint its name."""
    process.send_signal(signal.SIGSTOP)
    while any(_state(task) not in "TZ" for task in Path(f"/proc/{process.pid}/task").iterdir()):
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
