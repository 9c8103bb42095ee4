"""A conversion worker: one job a line of JSON on stdin, events as lines of JSON on stdout. Started by `workers.local`.

A separate program, not a fork: a worker that crashes or is killed costs its recording alone, and nothing of the parent
(Dagster, a notebook, open sockets, threads) is copied into it. It ends with its parent, in the middle of a recording too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from vla_ops.curation import Trims
from vla_ops.episodes.convert import Conversion, ConversionJob, convert_recording
from vla_ops.errors import StoreError
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot import RobotSpec

# Called with the camera frames that are newly done, and the part of the recording that is done, 0 to 1.
type Report = Callable[[int, float], None]

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
    try:
        result = convert_job(job, lambda frames, fraction: _tell(events, event="frames", frames=frames, fraction=fraction))
    except StoreError as error:
        _tell(events, event="store_error", said=str(error))
        return
    _tell(events, event="done", conversion=asdict(result))


def convert_job(job: Mapping[str, Any], report: Report, *, cache: Path | None = None) -> Conversion:
    """Convert the recording of a job as it comes by JSON; what is fetched of a remote one is kept in `cache`, by default the store's.

    `report` is called every half second at most. Raise StoreError.
    """
    progress = _Progress(report)
    file, store = RecordingFile(**job["file"]), Path(job["store"])
    spec, trims = RobotSpec.model_validate(job["spec"]), Trims.model_validate(job["trims"])
    made = ConversionJob(file.id, file.uri, job["source_version"], spec, store, job["cores"], file.uri, trims, cache, file.stamp)
    result = convert_recording(made, progress.add)
    progress.send()
    return result


def _tell(events: TextIO, **event: Any) -> None:
    """Send one event. With nobody to read it this process ends here: raised in a conversion, it would be the recording's fault."""
    try:
        print(json.dumps(event), file=events)
    except BrokenPipeError:
        os._exit(1)


class _Progress:
    """Collects frame counts from the camera threads and reports them now and then."""

    def __init__(self, report: Report) -> None:
        self.report, self.frames, self.fraction, self.sent_s = report, 0, 0.0, time.monotonic()

    def add(self, frames: int, fraction: float) -> None:
        self.frames += frames
        self.fraction = fraction
        if time.monotonic() - self.sent_s > _REPORT_EVERY_S:
            self.send()

    def send(self) -> None:
        frames, self.frames, self.sent_s = self.frames, 0, time.monotonic()
        self.report(frames, self.fraction)


if __name__ == "__main__":
    main()
