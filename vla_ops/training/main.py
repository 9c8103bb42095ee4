"""The process that launchers start: `python -m vla_ops.training.main RUN_JSON` trains, or goes on, in that run's folder.

Exit codes: 0 the run is finished, 1 it failed, 2 it is refused, 143 SIGTERM and 130 SIGINT: stopped with a checkpoint, to be started
again with the same command. On several hosts start one process each with the same RUN_JSON on a folder that they share, and
`--coordinator HOST:PORT --processes N --process K`; under Slurm and Open MPI, `--distributed` finds these out.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ops.errors import SpecError, VlaOpsError
from vla_ops.training.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vla_ops.training.metrics import Sink

FINISHED, FAILED, REFUSED = 0, 1, 2
# JAX takes 0.75 of a GPU's memory unless it is told otherwise, which is less than the larger models need of 80 GB.
_MEMORY = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")


def trainer_command(run_json: Path) -> list[str]:
    """The command line that trains in the folder of this run.json."""
    return [sys.executable, "-m", "vla_ops.training.main", str(run_json)]


def main(arguments: Sequence[str] | None = None, *, sinks: Sequence[Sink] = ()) -> int:
    """Train as the run.json says; return the exit code. `sinks` are told how it goes, besides those that the run.json asks for."""
    asked = _parser().parse_args(arguments)
    # From here on a signal leaves a checkpoint, also while libraries are loaded.
    with Stopping(_say) as stopping:
        try:
            return _train(asked, stopping, sinks)
        except SpecError as error:
            _say(f"vla-ops: {error}")
            return REFUSED
        except VlaOpsError as error:
            _say(f"vla-ops: {error}")
            return FAILED


def _train(asked: argparse.Namespace, stopping: Stopping, sinks: Sequence[Sink]) -> int:
    # JAX reads it when it opens the device.
    os.environ.setdefault(*_MEMORY)
    import jax

    from vla_ops.backends.jax import train
    from vla_ops.training.run import read_run

    run = read_run(asked.run_json)
    if asked.coordinator:
        jax.distributed.initialize(asked.coordinator, num_processes=asked.processes, process_id=asked.process)
    elif asked.distributed:
        jax.distributed.initialize()
    say = _say if jax.process_index() == 0 else lambda _: None
    trained = train(run.recipe, home=run.home, run=run.folder.name, say=say, check=not asked.no_check, stopping=stopping, sinks=sinks)
    return 128 + trained.signal if trained.how == "stopped by a signal" else FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vla_ops.training.main", description="Train, or go on, in the folder of a run.json.")
    parser.add_argument("run_json", type=Path)
    parser.add_argument("--no-check", action="store_true", help="leave out the checks before the start")
    parser.add_argument("--distributed", action="store_true", help="several hosts, found out from the environment")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="several hosts: where process 0 listens")
    parser.add_argument("--processes", type=int, metavar="N")
    parser.add_argument("--process", type=int, metavar="K")
    return parser


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
