"""The processes that decode images, seen from the trainer: each is fed by a thread, and takes the next task when it is done with one."""

from __future__ import annotations

import json
import mmap
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import IO, Any, Protocol

import numpy as np

from vla_ops import errors
from vla_ops.errors import LoaderError, VlaOpsError
from vla_ops.training.data.batch import UInt8
from vla_ops.training.data.decode import ImageReader, ImageRequest, Resize
from vla_ops.training.data.kept import FrameCache, unnamed_file


class SharedImages:
    """Memory for so many images that processes share; without a name, so that nothing is left of it, and of no mount's size."""

    def __init__(self, count: int, size: int) -> None:
        self.descriptor = unnamed_file("vla_ops_batches")
        os.ftruncate(self.descriptor, max(1, count) * size * size * 3)
        self._memory = mmap.mmap(self.descriptor, 0)
        self.pixels: UInt8 = np.frombuffer(self._memory, np.uint8).reshape(-1, size, size, 3)

    def close(self) -> None:
        """Give the memory back."""
        os.close(self.descriptor)
        self.pixels = self.pixels[:0].copy()
        del self._memory


class Crew(Protocol):
    """Whoever decodes."""

    def submit(self, requests: Sequence[ImageRequest]) -> Future[None]:
        """Decode these into shared memory; the future has the error, if there is one."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class InProcess:
    """Decodes in the thread that asks."""

    def __init__(self, images: SharedImages, *, size: int, resize: Resize, cache: FrameCache | None) -> None:
        self.images, self.reader = images, ImageReader(size, cache, resize=resize)
        # Closing a video that is being read ends the process.
        self._lock = threading.Lock()

    def submit(self, requests: Sequence[ImageRequest]) -> Future[None]:
        """Decode at once."""
        done: Future[None] = Future()
        try:
            with self._lock:
                for request in requests:
                    self.reader.read(request, self.images.pixels[request.into])
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)
        return done

    def close(self) -> None:
        """Close the videos, once what is being read has been."""
        with self._lock:
            self.reader.close()


type Task = tuple[str, Future[None]]

# Each image takes a few pieces of about a megabyte, and gives them back: the C library is to keep them, not to have the system make and
# clear the pages anew, which is a third of the time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


class Processes:
    """So many worker processes."""

    def __init__(self, count: int, images: SharedImages, *, size: int, resize: Resize, cache: FrameCache | None) -> None:
        setup = {"size": size, "resize": resize, "images": images.descriptor, "cache": cache.describe() if cache else None}
        inherited = (images.descriptor, *(cache.descriptors if cache else ()))
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._feeders = [_Feeder(self._tasks, json.dumps(setup), inherited) for _ in range(count)]
        for feeder in self._feeders:
            feeder.start()

    @property
    def pids(self) -> list[int]:
        """Ids of the processes."""
        return [feeder.process.pid for feeder in self._feeders]

    def submit(self, requests: Sequence[ImageRequest]) -> Future[None]:
        """Decode in the process that is free first."""
        done: Future[None] = Future()
        line = json.dumps([asdict(request) for request in requests])
        with self._lock:
            if self._closed:
                done.set_exception(_closed())
            else:
                self._tasks.put((line, done))
        return done

    def close(self) -> None:
        """End the processes. They are killed rather than asked: they hold nothing that has to be finished."""
        with self._lock:
            self._closed = True
        for feeder in self._feeders:
            feeder.closing = True
            feeder.process.kill()
            self._tasks.put(None)
        for feeder in self._feeders:
            feeder.join()
        while not self._tasks.empty():
            if (task := self._tasks.get()) is not None:
                task[1].set_exception(_closed())


def _closed() -> LoaderError:
    return LoaderError("the loader was closed")


class _Feeder(threading.Thread):
    """Feeds one process."""

    def __init__(self, tasks: queue.SimpleQueue[Task | None], setup: str, inherited: tuple[int, ...]) -> None:
        super().__init__(daemon=True, name="vla_ops image decoding")
        self.tasks, self.setup, self.closing = tasks, setup, False
        self.process = _start(inherited)

    def run(self) -> None:
        stdin, stdout = _pipes(self.process)
        first = self.setup + "\n"
        try:
            while (task := self.tasks.get()) is not None:
                line, done = task
                try:
                    stdin.write(first + line + "\n")
                    stdin.flush()
                    first, answer = "", stdout.readline()
                except (BrokenPipeError, ValueError):
                    answer = ""
                if not answer:
                    done.set_exception(self._lost())
                elif error := _error_of(json.loads(answer)):
                    done.set_exception(error)
                else:
                    done.set_result(None)
        finally:
            self._end(stdin, stdout)

    def _lost(self) -> LoaderError:
        code = self.process.wait()
        if self.closing:
            return _closed()
        return LoaderError(
            "a process that decodes images for training has died",
            found=f"exit code {code}",
            todo="-9 is often too little memory: use fewer workers. Resumed from its last checkpoint the run reads the same batches.",
        )

    def _end(self, stdin: IO[str], stdout: IO[str]) -> None:
        self.process.kill()
        self.process.wait()
        stdout.close()
        try:
            stdin.close()
        except BrokenPipeError:
            return  # What was not written nobody waits for.


def _error_of(answer: dict[str, Any]) -> Exception | None:
    if refused := answer.get("refused"):
        kind = getattr(errors, answer["type"], VlaOpsError)
        return kind(refused["what"], found=refused["found"], expected=refused["expected"], todo=refused["todo"], **refused["where"])
    if failed := answer.get("failed"):
        return LoaderError(f"decoding images failed:\n{failed}")
    return None


def _start(inherited: tuple[int, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vla_ops.training.data.worker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=inherited,
        env=_KEEP_MEMORY | os.environ,
        text=True,
        encoding="utf-8",
    )


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a worker was started without pipes")
    return process.stdin, process.stdout
