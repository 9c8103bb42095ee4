"""CheckpointStore: a run's checkpoints, saved asynchronously and atomically by Orbax, with a keep policy.

While it is written a checkpoint is called `<step>.orbax-checkpoint-tmp`; the rename to `<step>` is the commit. A killed process leaves
the checkpoints that were committed, and unfinished folders which the next store of the run removes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals, Future

from vla_ops.checkpoints.integrity import write_checksums
from vla_ops.checkpoints.layout import (
    ASSETS,
    BEST_FILE,
    OURS,
    PARAMS,
    STATE_FILE,
    TRAIN_STATE,
    UNFINISHED,
    latest_step,
    metric_of,
    steps_in,
)
from vla_ops.checkpoints.space import Keep, checkpoint_bytes, require_space
from vla_ops.checkpoints.trees import TrainState, params_tree, train_state_item
from vla_ops.errors import StoreError, VlaOpsError
from vla_ops.files import discard, holder, only_one, sweep, write_json

# A checkpoint of a large model on a slow network file system takes a while; Orbax's own limit is ten minutes.
_TIMEOUT_S = 7200


class _FilesHandler(ocp.AsyncCheckpointHandler):
    """An item of a checkpoint that is a folder of small files."""

    async def async_save(self, directory: epath.Path, args: _Files) -> list[Future]:
        # Orbax makes the folder meanwhile; awaiting its signals is waiting for that.
        return [CommitFutureAwaitingContractedSignals(_write(directory, args.files))] if _is_primary() else []

    def save(self, directory: epath.Path, args: _Files) -> None:
        if _is_primary():
            _write_files(directory, args.files)

    def restore(self, directory: epath.Path, *_: Any, **__: Any) -> dict[str, bytes]:
        folder = Path(directory)
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


async def _write(directory: epath.Path, files: Mapping[str, bytes]) -> None:
    _write_files(directory, files)


def _write_files(directory: epath.Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@ocp.args.register_with_handler(_FilesHandler, for_save=True, for_restore=True)
class _Files(ocp.args.CheckpointArgs):
    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        # Orbax makes one without any to restore with.
        self.files = files or {}


class _StepHandler(ocp.CompositeCheckpointHandler):
    """A whole checkpoint; its checksums are written when all files are there and before it gets its name."""

    def __init__(self) -> None:
        trees = {name: ocp.PyTreeCheckpointHandler() for name in (PARAMS, TRAIN_STATE)}
        items: dict[str, Any] = {**trees, ASSETS: _FilesHandler(), OURS: _FilesHandler()}
        super().__init__(**items)

    def finalize(self, directory: epath.Path) -> None:
        super().finalize(directory)
        write_checksums(Path(directory))


@ocp.args.register_with_handler(_StepHandler, for_save=True, for_restore=True)
class _Step(ocp.args.Composite):
    pass


class CheckpointStore:
    """The checkpoints of one run; a context that holds its folder against other processes.

    With several processes all of them open it and call it at the same steps, on a folder that they share.
    """

    def __init__(self, run: Path, *, keep: Keep | None = None, waiting: Callable[[str], None] | None = None) -> None:
        """`waiting(who)` is called while another process holds the folder; without it that is an error."""
        self.run, self.keep = Path(run).absolute(), keep or Keep()
        self._waiting = waiting or self._refuse
        self._held = ExitStack()
        self._saving: int | None = None
        self._checkpointer: ocp.AsyncCheckpointer | None = None

    def __enter__(self) -> Self:
        with ExitStack() as held:
            if _is_primary():
                held.enter_context(only_one(self.run, self._waiting))
                self._remove_unfinished()
            options = ocp.options.AsyncOptions(timeout_secs=_TIMEOUT_S)
            self._checkpointer = ocp.AsyncCheckpointer(_StepHandler(), async_options=options)
            held.callback(self._checkpointer.close)
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._held:
            try:
                self.wait()
            except VlaOpsError as lost:
                if error is None:
                    raise
                error.add_note(str(lost))
            if _is_primary():
                self._remove_unfinished()

    @property
    def steps(self) -> list[int]:
        """The steps that there are checkpoints of."""
        return steps_in(self.run)

    @property
    def latest_step(self) -> int | None:
        """The last step that there is a checkpoint of."""
        return latest_step(self.run)

    @property
    def best_step(self) -> int | None:
        """The best step by the keep policy's metric."""
        return self.keep.best(self._values())

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        assets: Mapping[str, bytes] | None = None,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start saving a checkpoint; when this returns the arrays may be changed or donated.

        `assets` are files by their names in assets/, `extra` is what JSON can hold of the run's own state, `metrics` are what the best
        checkpoint is found by. Waits for the checkpoint before. Raise StoreError for a step that is there already, for a disk that
        will not hold it, and for a checkpoint before that failed.
        """
        self.wait()
        if (self.run / str(step)).exists():
            todo = "Call discard_after(step) when going on from an earlier step."
            raise StoreError("there is a checkpoint of that step already", file=self.run / str(step), todo=todo)
        require_space(self.run, checkpoint_bytes(state))
        ours = {"step": step, "metrics": dict(metrics or {}), "extra": dict(extra or {})}
        arguments = {
            PARAMS: ocp.args.PyTreeSave(params_tree(state.served)),
            TRAIN_STATE: ocp.args.PyTreeSave(train_state_item(state)),
            ASSETS: _Files(assets or {}),
            OURS: _Files({STATE_FILE: json.dumps(ours, indent=1).encode()}),
        }
        self._saving = step
        self._or_fail(lambda: self._open.save(epath.Path(self.run / str(step)), args=_Step(**arguments)))

    def wait(self) -> None:
        """Wait for the checkpoint that is being saved, then remove those that the policy does not keep. Raise StoreError if it failed."""
        self._or_fail(self._open.wait_until_finished)
        if self._saving is not None and _is_primary():
            self._prune()
        self._saving = None

    def discard_after(self, step: int) -> list[int]:
        """Remove the checkpoints after a step, to go on from there; return their steps."""
        self.wait()
        after = [later for later in self.steps if later > step]
        if _is_primary():
            for later in after:
                discard(self.run / str(later))
            self._mark_best()
        return after

    @property
    def _open(self) -> ocp.AsyncCheckpointer:
        if self._checkpointer is None:
            raise StoreError("the run's checkpoints are not open", file=self.run, todo="Use `with CheckpointStore(run) as store:`.")
        return self._checkpointer

    def _or_fail(self, do: Callable[[], Any]) -> None:
        try:
            do()
        except VlaOpsError:
            raise
        # Orbax raises what the file system, TensorStore or a barrier raised.
        except Exception as error:
            step, self._saving = self._saving, None
            if _is_primary():
                self._remove_unfinished()
            todo = "The checkpoints before it are whole. Free space or mend the disk, and resume."
            raise StoreError(f"the checkpoint of step {step} could not be saved: {error}", file=self.run, todo=todo) from error

    def _prune(self) -> None:
        values = self._values()
        for step in sorted(set(values) - self.keep.of(values)):
            discard(self.run / str(step))
        self._mark_best()

    def _mark_best(self) -> None:
        values = self._values()
        best = self.keep.best(values)
        if best is not None:
            mark = {"step": best, "metric": self.keep.metric, "value": values[best], "lower_is_better": self.keep.lower_is_better}
            write_json(self.run / BEST_FILE, mark)

    def _values(self) -> dict[int, float | None]:
        metric = self.keep.metric
        return {step: None if metric is None else metric_of(self.run / str(step), metric) for step in self.steps}

    def _remove_unfinished(self) -> None:
        sweep(self.run)
        for left in [path for path in self.run.iterdir() if UNFINISHED in path.name]:
            discard(left)

    def _refuse(self, who: str) -> None:
        if holder(self.run) is None:
            # Somebody only asked who holds it, or has ended just now.
            return
        todo = "Wait for it, or stop it."
        raise StoreError("another training writes to this run", file=self.run, found=who or "an unknown process", todo=todo)


def _is_primary() -> bool:
    return jax.process_index() == 0
