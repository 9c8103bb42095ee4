"""A conversion worker: one job a line of JSON on stdin, events as lines of JSON on stdout. Started by `vla_ops.episodes.pool`.

A separate program, not a fork: a worker that crashes or is killed costs its recording alone, and nothing of the parent
(Dagster, a notebook, open sockets, threads) is copied into it. It ends with its parent, in the middle of a recording too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from vla_ops.curation import Trims
from vla_ops.episodes.convert import ConversionJob, convert_recording, out_of_reach
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import StoreError
from vla_ops.recordings.discover import RecordingFile, local_copy
from vla_ops.robot import RobotSpec

_REPORT_EVERY_S = 0.5
_LOOK_AFTER_PARENT_EVERY_S = 0.5


def main() -> None:
    """Serve jobs until stdin ends or the parent is gone."""
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    # Libraries print to file descriptor 1 when they please; the events get a private copy of it.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        _serve(json.loads(line), events)


def _leave_with_parent(parent: int) -> None:
    """End this process when its parent has died, in the middle of a recording: what it would write nobody waits for."""
    while os.getppid() == parent:
        time.sleep(_LOOK_AFTER_PARENT_EVERY_S)
    os._exit(1)


def _serve(job: dict[str, Any], events: TextIO) -> None:
    progress = _Progress(events)
    file, store = RecordingFile(**job["file"]), Path(job["store"])
    spec, trims = RobotSpec.model_validate(job["spec"]), Trims.model_validate(job["trims"])
    try:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(local_copy(file, store / "cache"))
            except StoreError:
                raise
            except Exception as error:  # Every file system has errors of its own.
                result = out_of_reach(RobotStore(store), file.id, job["source_version"], error)
            else:
                made = ConversionJob(file.id, str(path), job["source_version"], spec, store, job["cores"], file.uri, trims)
                result = convert_recording(made, progress.add)
    except StoreError as error:
        _tell(events, event="store_error", said=str(error))
        return
    progress.send()
    _tell(events, event="done", conversion=asdict(result))


def _tell(events: TextIO, **event: Any) -> None:
    """Send one event. With nobody to read it this process ends here: raised in a conversion, it would be the recording's fault."""
    try:
        print(json.dumps(event), file=events)
    except BrokenPipeError:
        os._exit(1)


class _Progress:
    """Collects frame counts from the camera threads and sends them now and then."""

    def __init__(self, events: TextIO) -> None:
        self.events, self.frames, self.fraction, self.sent_s = events, 0, 0.0, time.monotonic()

    def add(self, frames: int, fraction: float) -> None:
        self.frames += frames
        self.fraction = fraction
        if time.monotonic() - self.sent_s > _REPORT_EVERY_S:
            self.send()

    def send(self) -> None:
        frames, self.frames, self.sent_s = self.frames, 0, time.monotonic()
        _tell(self.events, event="frames", frames=frames, fraction=self.fraction)


if __name__ == "__main__":
    main()
