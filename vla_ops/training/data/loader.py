"""Batches ahead of the training step: the same ones whatever the number of workers, from any place, on every host its part."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import numpy as np

from vla_ops.episodes.pipe import Pipe, Stopped
from vla_ops.errors import LoaderError, VlaOpsError
from vla_ops.training.data.batch import Batch, UInt8, numbers_of
from vla_ops.training.data.crew import Crew, InProcess, Processes, SharedImages
from vla_ops.training.data.decode import ImageRequest, Resize
from vla_ops.training.data.frames import Bools, Frames, Int64
from vla_ops.training.data.kept import Cache, FrameCache, open_cache
from vla_ops.training.data.order import Order, state_of, used_by
from vla_ops.training.data.stills import open_stills

# Images in one task: few enough that workers end a batch together, enough that handing them over costs nothing.
_A_TASK = 24


@dataclass(frozen=True, eq=False)
class Loaded[T]:
    """A batch and what was made of it."""

    # What `transform(batch)` gave; the batch itself where there is no transform.
    inputs: T
    batch: Batch
    # As JSON: a loader that is given it goes on with the batch after this one.
    state: dict[str, int]


@dataclass(frozen=True, eq=False)
class _Flying:
    """A batch whose images are being decoded."""

    slot: int
    used: int
    rows: Int64
    valid: Bools
    parts: list[Future[None]]


class _How(TypedDict):
    size: int
    resize: Resize
    cache: FrameCache | None


class Loader[T]:
    """Iterate over it; close it, or use it as a context. It begins to load when it is made."""

    def __init__(
        self,
        frames: Frames,
        order: Order,
        *,
        batch_size: int,
        horizon: int,
        size: int = 224,
        resize: Resize = "exact",
        workers: int = 2,
        prefetch: int = 2,
        transform: Callable[[Batch], T] | None = None,
        cache: Cache | None = None,
        state: Mapping[str, Any] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """`batch_size` is that of all hosts together; this one gets rows `process_index * b` on, b = batch_size / process_count.

        With `workers` 0 images are decoded in this process. `prefetch` batches are loaded ahead. `resize` is told of in `decode.py`.
        Raise LoaderError, DatasetError or StoreError.
        """
        if batch_size % process_count or not 0 <= process_index < process_count or min(batch_size, horizon, prefetch) < 1 or workers < 0:
            raise LoaderError(
                "a batch cannot be cut so",
                found=f"batch size {batch_size}, horizon {horizon}, prefetch {prefetch}, workers {workers}, "
                f"process {process_index} of {process_count}",
                expected="a batch size that the number of processes divides, and all above 0",
            )
        self.frames, self.order, self.horizon, self.size, self.transform = frames, order, horizon, size, transform
        self.batch_size, self.rows_here = batch_size, batch_size // process_count
        self._first = process_index * self.rows_here
        # Seconds that the consumer waited for batches, and the batches it got.
        self.waited_s, self.batches = 0.0, 0
        self._used = used_by(order, state) if state is not None else 0
        self._failed: BaseException | None = None
        self._slots = prefetch if workers else 1
        cache = cache or Cache()
        self._stills = open_stills(frames, cache)
        self._cache = open_cache(cache, frames, size, resize=resize)
        self._images = SharedImages(self._slots * len(frames.cameras) * self.rows_here, size)
        how: _How = {"size": size, "resize": resize, "cache": self._cache}
        self._crew: Crew = Processes(workers, self._images, **how) if workers else InProcess(self._images, **how)
        self._pieces = max(1, 2 * workers)
        self._stop = threading.Event()
        # With workers it is they who are ahead.
        self._pipe: Pipe[Loaded[T]] = Pipe(1 if workers else prefetch, self._stop)
        self._ready = iter(self._pipe)
        self._thread = threading.Thread(target=self._pipe.fill, args=(self._loaded(self._used),), daemon=True, name="vla_ops batches")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Loaded[T]]:
        return self

    def __next__(self) -> Loaded[T]:
        """The next batch. Raise DatasetError naming file, episode, camera and frame, and LoaderError for a worker that died."""
        if self._failed is not None:
            raise self._failed
        began = time.perf_counter()
        try:
            loaded = next(self._ready)
        except StopIteration:
            raise
        except Stopped as error:
            self._failed = LoaderError("the loader was closed")
            raise self._failed from error
        except BaseException as error:
            # Asked again, a pipe that has failed looks like one at its end.
            self._failed = error
            raise
        self.waited_s += time.perf_counter() - began
        self.batches += 1
        self._used = loaded.state["epoch"] * self.order.frames + loaded.state["position"]
        return loaded

    @property
    def state(self) -> dict[str, int]:
        """The `state` of the last batch that was given out."""
        return state_of(self.order, self._used)

    def close(self) -> None:
        """End the workers and give the memory back."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._crew.close()
        self._thread.join()
        if self._cache is not None:
            self._cache.close()
        self._images.close()

    def _loaded(self, used: int) -> Iterator[Loaded[T]]:
        """Yield the batches from sample `used` on."""
        flying: deque[_Flying] = deque()
        for number, (at, rows) in enumerate(self._batches(used)):
            flying.append(self._send(number % self._slots, at, rows))
            if len(flying) == self._slots:
                yield self._land(flying.popleft())
        while flying:
            yield self._land(flying.popleft())

    def _batches(self, used: int) -> Iterator[tuple[int, Int64]]:
        while not self.order.ends or used < self.order.frames:
            rows = self.order.rows(used, self.batch_size)
            used += len(rows)
            yield used, rows

    def _send(self, slot: int, used: int, rows: Int64) -> _Flying:
        """Have the images of this host's part of a batch decoded. Missing rows of the last one are filled up with its last."""
        valid = np.arange(self.batch_size) < len(rows)
        here = slice(self._first, self._first + self.rows_here)
        rows = np.concatenate([rows, np.repeat(rows[-1:], self.batch_size - len(rows))])[here]
        requests = list(self._requests(slot, rows))
        count = max(1, min(_A_TASK, -(-len(requests) // self._pieces)))
        parts = [self._crew.submit(requests[k : k + count]) for k in range(0, len(requests), count)]
        return _Flying(slot, used, rows, valid[here], parts)

    def _requests(self, slot: int, rows: Int64) -> Iterator[ImageRequest]:
        """The images to decode, neighbours in a video side by side."""
        frames = self.frames
        places = frames.place_of(rows)
        for number, (camera, feature) in enumerate(frames.cameras.items()):
            there = frames.camera_masks.get(camera)
            stills = self._stills.get(camera)
            for k in np.argsort(rows, kind="stable").tolist():
                row, place = int(rows[k]), frames.places[places[k]]
                if there is not None and not there[row]:
                    continue
                yield ImageRequest(
                    into=(slot * len(frames.cameras) + number) * self.rows_here + k,
                    row=row,
                    camera=number,
                    stream=camera,
                    path=str(stills.path if stills else place.videos[feature].path),
                    episode=place.index,
                    frame=row - int(frames.starts[places[k]]),
                    length=place.length,
                    from_s=0.0 if stills else place.videos[feature].from_s,
                    fps=frames.fps,
                    span=stills.span(row) if stills else None,
                )

    def _land(self, flying: _Flying) -> Loaded[T]:
        for part in flying.parts:
            part.result()
        numbers = numbers_of(self.frames, flying.rows, horizon=self.horizon, valid=flying.valid)
        images = {camera: self._copied(flying.slot, k, numbers["image_masks"][camera]) for k, camera in enumerate(self.frames.cameras)}
        batch = Batch(images=images, **numbers)
        return Loaded(self._transformed(batch), batch, state_of(self.order, flying.used))

    def _copied(self, slot: int, camera: int, there: Bools) -> UInt8:
        first = (slot * len(self.frames.cameras) + camera) * self.rows_here
        images = self._images.pixels[first : first + self.rows_here].copy()
        images[~there] = 0
        return images

    def _transformed(self, batch: Batch) -> Any:
        if self.transform is None:
            return batch
        try:
            return self.transform(batch)
        except VlaOpsError as error:
            raise _of_one_row(self.transform, batch) or error from error


def _of_one_row(transform: Callable[[Batch], object], batch: Batch) -> VlaOpsError | None:
    """The error of the first sample that the transform refuses alone, named."""
    for k, place in enumerate(batch.places()):
        try:
            transform(batch.row(k))
        except VlaOpsError as error:
            episode, frame = place.split(" frame ")
            return error.at(episode=episode, frame=frame)
    return None
