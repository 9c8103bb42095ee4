"""The trainer of a checkpoint asset: `python -m vla_ops.lineage.train_in_pipes RUN_JSON` trains and tells Dagster how it goes.

It is `vla_ops.training.main` with one more place that curves and pictures go to: messages to the Dagster step that launched this process.
"""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster_pipes import PipesContext, open_dagster_pipes

from vla_ops.training import main as trainer

# `kind` of the custom Pipes messages, under this key: {"vla_ops": "metrics", "step": ..., "metadata": {...}}.
MESSAGE = "vla_ops"


def command(run_json: Path) -> list[str]:
    """The command line that trains in the folder of this run.json."""
    return [sys.executable, "-m", "vla_ops.lineage.train_in_pipes", str(run_json)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the run.json says; return the exit code."""
    with open_dagster_pipes() as pipes:
        return trainer.main(arguments, sinks=[PipesSink(pipes)])


class PipesSink:
    """Messages to the Dagster step that launched this process, each ready to become metadata while the run goes on."""

    def __init__(self, context: PipesContext) -> None:
        """`context` stays open: whoever opened it closes it."""
        self.context = context

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        # Dagster's numbers are JSON's.
        numbers = {name: {"raw_value": value, "type": "float"} for name, value in values.items() if math.isfinite(value)}
        self._send("metrics", step, {"step": {"raw_value": step, "type": "int"}, **numbers})
        said = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if "mae/" not in name)
        self.context.log.info(f"step {step}: {said}")

    def picture(self, step: int, name: str, file: Path) -> None:
        """See Sink."""
        shown = base64.b64encode(file.read_bytes()).decode()
        self._send("picture", step, {name: {"raw_value": f"![{name}, step {step}](data:image/png;base64,{shown})", "type": "md"}})

    def close(self, error: BaseException | None) -> None:
        """See Sink: Dagster is told of an error by the exit code."""

    def _send(self, kind: str, step: int, metadata: Mapping[str, Any]) -> None:
        self.context.report_custom_message({MESSAGE: kind, "step": step, "metadata": dict(metadata)})


if __name__ == "__main__":
    sys.exit(main())
