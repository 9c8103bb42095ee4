"""A process that decodes images for training: tasks as lines of JSON on stdin, answers on stdout, images into shared memory.

    python -m vla_ops.training.data.worker PARENT

A separate program, not a fork: nothing of the trainer (JAX, its threads, the GPU) is copied into it. It ends with its parent. Signals to
the whole group are for the trainer, which saves before it ends its workers.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, TextIO

import numpy as np

from vla_ops.errors import VlaOpsError
from vla_ops.training.data.decode import ImageReader, ImageRequest
from vla_ops.training.data.kept import FrameCache

_LOOK_AFTER_PARENT_EVERY_S = 0.5


def main(parent: int) -> None:
    """Serve tasks until stdin ends or the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, args=(parent,), daemon=True).start()
    # Libraries print to file descriptor 1 when they please; the answers get a private copy of it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    size = setup["size"]
    images = np.frombuffer(mmap.mmap(setup["images"], 0), np.uint8).reshape(-1, size, size, 3)
    reader = ImageReader(size, FrameCache(**setup["cache"]) if setup["cache"] else None, resize=setup["resize"])
    for line in sys.stdin:
        _answer(json.loads(line), reader, images, answers)


def _leave_with_parent(parent: int) -> None:
    """End this process when its parent has died."""
    while os.getppid() == parent:
        time.sleep(_LOOK_AFTER_PARENT_EVERY_S)
    os._exit(1)


def _answer(task: list[dict[str, Any]], reader: ImageReader, images: np.ndarray, answers: TextIO) -> None:
    try:
        for fields in task:
            request = ImageRequest(**fields)
            reader.read(request, images[request.into])
        answer: dict[str, Any] = {}
    except VlaOpsError as error:
        said = {"what": error.what, "found": error.found, "expected": error.expected, "todo": error.todo, "where": error.where}
        answer = {"refused": json.loads(json.dumps(said, default=str)), "type": type(error).__name__}
    except Exception:  # A mistake of ours: the trainer ends with where it was.
        answer = {"failed": traceback.format_exc()}
    try:
        print(json.dumps(answer), file=answers)
    except BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
