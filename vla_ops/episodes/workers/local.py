"""Worker processes of this machine, each fed one recording at a time and replaced when it dies."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_ops.curation import Curation
from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.pool import Event, Frames, Lost
from vla_ops.episodes.video import available_cores
from vla_ops.errors import SpecError, StoreError
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot import RobotSpec


def default_workers() -> int:
    """VLA_OPS_WORKERS, or one worker for every two cores: a worker's cameras already use several threads."""
    asked = os.environ.get("VLA_OPS_WORKERS", "")
    if asked and (not asked.isdecimal() or not int(asked)):
        raise SpecError("VLA_OPS_WORKERS is not a number of workers", found=asked, expected="1 or more")
    return int(asked or 0) or max(1, available_cores() // 2)


@dataclass(frozen=True)
class LocalWorkers:
    """So many worker processes (default: `default_workers()`), which share this process's cores out among them."""

    count: int | None = None

    def convert(
        self, files: Sequence[tuple[RecordingFile, str]], *, spec: RobotSpec, store: Path, curation: Curation | None = None
    ) -> Generator[Event]:
        """See `vla_ops.episodes.pool.Workers`."""
        todo: queue.SimpleQueue[tuple[RecordingFile, str]] = queue.SimpleQueue()
        for item in files:
            todo.put(item)
        events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        count = min(self.count or default_workers(), len(files))
        cores = max(1, available_cores() // max(1, count))
        common = {"spec": spec.model_dump(mode="json", by_alias=True), "store": str(store), "cores": cores}
        drivers = [_Driver(todo, events, common, curation or Curation()) for _ in range(count)]
        try:
            for driver in drivers:
                driver.start()
            yield from _outcomes_of(events, len(files))
        finally:
            for driver in drivers:
                driver.stop()


def _outcomes_of(events: queue.SimpleQueue[Event | BaseException], files: int) -> Generator[Event]:
    while files:
        try:
            event = events.get(timeout=1.0)
        except queue.Empty:
            # A heartbeat, so that whoever shows progress is called also while nothing finishes.
            yield Frames("", 0)
            continue
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Conversion | Lost):
            files -= 1
        yield event


class _Driver(threading.Thread):
    """Feeds one worker process and starts another when it dies."""

    def __init__(self, todo: queue.SimpleQueue[Any], events: queue.SimpleQueue[Any], common: dict[str, Any], curation: Curation) -> None:
        super().__init__(daemon=True)
        self.todo, self.events, self.common, self.curation = todo, events, common, curation
        self.process: subprocess.Popen[str] | None = None
        self.stopping = False

    def run(self) -> None:
        try:
            while not self.stopping:
                self._convert(*self.todo.get_nowait())
        except queue.Empty:
            pass
        except BaseException as error:
            self.events.put(error)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the worker. It is killed rather than asked: what it has not finished is only in its work folder."""
        self.stopping = True
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _convert(self, file: RecordingFile, version: str) -> None:
        if self.stopping:
            return
        process = self.process = self.process or _start_worker()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a worker was started without pipes")
        try:
            trims = self.curation.trims(file.id).model_dump(mode="json")
            process.stdin.write(json.dumps({"file": asdict(file), "source_version": version, "trims": trims, **self.common}) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "frames":
                    self.events.put(Frames(file.id, event["frames"], event["fraction"]))
                elif event["event"] == "store_error":
                    raise StoreError(event["said"])
                else:
                    self.events.put(Conversion.from_json(event["conversion"]))
                    return
        except BrokenPipeError:
            pass
        if not self.stopping:
            self._lost(file)

    def _lost(self, file: RecordingFile) -> None:
        code = self.process.wait() if self.process else None
        self.stop()
        self.stopping = False
        reason = f"the worker converting it died (exit code {code}; -9 is often too little memory). The next run tries it again."
        self.events.put(Lost(file.id, f"{reason} [file {file.id}]"))


def _start_worker() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vla_ops.episodes.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
