"""What a trainer tells through Dagster Pipes, as observations of its checkpoint while it runs."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg

from vla_ops.lineage.train_in_pipes import MESSAGE
from vla_ops.training.metrics import CURVES, read_metrics
from vla_ops.training.run import Run

# An event costs milliseconds and stays for ever: at most a few hundred of numbers, and some dozens of drawn curves, however long the
# run. Seconds, and a share of the time that the run has taken.
_NUMBERS, _CURVES = (2.0, 0.005), (20.0, 0.05)
_MARKDOWN = "md"
_LOOK_EVERY_S = 0.05


class Messages(dg.PipesFileMessageReader):
    """Messages of one process, by a file. Dagster's own property warns whoever trains that it is a preview."""

    def _reader_thread(self, handler: Any, is_resource_complete: Event) -> None:
        # Dagster's own takes a line that is still being written for a whole one, and reads no more.
        try:
            for line in whole_lines(self._path, is_resource_complete.is_set):
                handler.handle_message(json.loads(line))
        except Exception:
            handler.report_pipes_framework_exception("the reader of messages", sys.exc_info())
            raise

    @property
    def expected_writer_count(self) -> int:
        """One: other hosts of a run tell nothing."""
        return 1


def whole_lines(path: str, is_over: Callable[[], bool]) -> Iterator[str]:
    """Each line of a file that grows, once it is whole, until it is over; what a killed process has left unfinished is left out."""
    begun = ""
    with Path(path).open(encoding="utf-8") as file:
        while True:
            # Asked first: what was written before it was over is read.
            over = is_over()
            part = file.readline()
            if part.endswith("\n"):
                yield begun + part
                begun = ""
            elif part:
                begun += part
            elif over:
                return
            else:
                time.sleep(_LOOK_EVERY_S)


class Observations:
    """Reads the messages that have come and writes events of them; `tell` is called again and again."""

    def __init__(self, context: dg.AssetExecutionContext, key: dg.AssetKey, run: Run, messages: Callable[[], Sequence[Any]]) -> None:
        """`messages` returns all that have come so far."""
        self._context, self._key, self._run, self._messages, self._clock = context, key, run, messages, time.monotonic
        self._read, self._waiting = 0, dict[str, Any]()
        self._began = self._said = self._drew = self._clock()

    def tell(self, *, last: bool = False) -> None:
        """Write an event if something has come and one is due; a picture always is."""
        messages = self._messages()
        pictures = False
        for message in messages[self._read :]:
            pictures = self._take(message) or pictures
        self._read = len(messages)
        if self._waiting and (pictures or last or self._due(self._said, _NUMBERS)):
            self._write()

    def _take(self, message: Any) -> bool:
        if not isinstance(message, Mapping) or MESSAGE not in message:
            return False
        # One line a dimension is for the table at the end.
        told = {name: value for name, value in message["metadata"].items() if "/mae/" not in name}
        self._waiting |= {name: _metadata(value) for name, value in told.items()}
        self._waiting["step"] = int(message["step"])
        return message[MESSAGE] == "picture"

    def _write(self) -> None:
        if "curves" not in self._waiting and self._due(self._drew, _CURVES):
            # The trainer draws them at validations, which not every training has.
            drawn = drawn_curves(self._run)
            self._waiting |= {"curves": drawn} if drawn is not None else {}
        if "curves" in self._waiting:
            self._drew = self._clock()
        step, steps = self._waiting["step"], self._run.recipe.training.steps
        metadata = {"run": self._run.folder.name, **self._waiting, **_time_left(self._waiting, steps - 1 - step)}
        self._context.log_event(dg.AssetObservation(self._key, metadata=metadata, description=f"step {step} of {steps}"))
        self._waiting, self._said = {}, self._clock()

    def _due(self, since: float, every: tuple[float, float]) -> bool:
        now = self._clock()
        return now - since >= max(every[0], every[1] * (now - self._began))


def drawn_curves(run: Run) -> dg.MarkdownMetadataValue | None:
    """The curves of a run so far; None before its first line."""
    from vla_ops.training.pictures import curves

    lines = read_metrics(run.folder)
    names = [name for name in CURVES if any(line.get(name) is not None for line in lines)]
    if not names:
        return None
    return dg.MetadataValue.md(f"![curves](data:image/png;base64,{base64.b64encode(curves(lines, names)).decode()})")


def rounded(value: float) -> float:
    """With as many digits as anybody reads."""
    return float(f"{value:.5g}")


def _metadata(told: Mapping[str, Any]) -> Any:
    """A value as Pipes tells it."""
    value = told["raw_value"]
    if told["type"] == _MARKDOWN:
        return dg.MetadataValue.md(value)
    return rounded(value) if isinstance(value, float) else value


def _time_left(told: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Minutes until the last step, as fast as the last steps were."""
    speed = told.get("steps_per_s")
    return {"minutes_left": round(steps / 60 / speed, 1)} if speed else {}
