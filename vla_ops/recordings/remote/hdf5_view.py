"""A remote file as h5py wants one, without the two ways in which h5py's Python files end a process.

h5py calls such a file while it holds its one lock, and frees its objects under that lock, too. If Python's garbage collector frees one
in a thread that fetches, that thread waits for the lock, whose holder waits for the bytes: nobody goes on. So while such a file is open
the collector runs in threads that read only, when they hold no lock (`collect`). And an error that goes through h5py holds h5py's objects
in its traceback, these hold the Python file where no collector sees it, and the file holds the error as why the place failed: such a ring
lives until the process ends, and then crashes it. So the file says only that it failed, and lets go of the place when it is closed.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import BinaryIO, cast

from vla_ops.recordings.byte_file import ByteFile, FileView, forget_frames

_lock = threading.Lock()
_open_files = 0
_was_enabled = True


class _View(FileView):
    def let_go(self) -> None:
        del self._file

    def readinto(self, buffer: object) -> int:
        try:
            return super().readinto(buffer)
        except Exception as error:
            said = str(error)
            forget_frames(error)
        raise OSError(f"not fetched: {said}")


def hdf5_view(file: ByteFile) -> tuple[BinaryIO, Callable[[], None]]:
    """The file, and what is to be called when h5py has closed it."""
    global _open_files, _was_enabled  # noqa: PLW0603 - the collector is one for the whole process
    with _lock:
        if _open_files == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _open_files += 1
    opened = _View(file, 0, file.size)
    return cast("BinaryIO", opened), lambda: _release(opened)


def _release(opened: _View) -> None:
    global _open_files  # noqa: PLW0603
    opened.let_go()
    # What is left of the file goes in this thread.
    gc.collect()
    with _lock:
        _open_files -= 1
        if _open_files == 0 and _was_enabled:
            gc.enable()


def collect() -> None:
    """Collect what is young, if nobody else does."""
    if _open_files:
        gc.collect(1)
