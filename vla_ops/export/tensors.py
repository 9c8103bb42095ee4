"""safetensors files written tensor by tensor: the header first, then each tensor's bytes in their place, in whatever order they come.

The format (documentation of the library `safetensors`): eight bytes with the header's length, the header as JSON, and the bytes of all
tensors without a gap. The library's own writer wants all tensors in memory at once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from vla_ops.checkpoints.reading import dtype_named
from vla_ops.errors import CheckpointError

_CODES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}
_PART = 64 << 20


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype (float32 or bfloat16) of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of it in the file."""
        return math.prod(self.shape) * _CODES[self.dtype][1]


class SafetensorsWriter:
    """A file of these tensors; a context that ends with an error unless each was written once, or said to be zeros."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], *, metadata: Mapping[str, str] | None = None) -> None:
        self.path, self.specs = path, dict(specs)
        self._header, self._starts = _header(specs, metadata or {})
        self._left = set(specs)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self._header) + sum(spec.nbytes for spec in self.specs.values())

    def __enter__(self) -> Self:
        self._file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        # What is never written reads as zeros, and takes no room on most disks.
        os.ftruncate(self._file, self.nbytes)
        self._put(self._header, 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)
        if error is None and self._left:
            raise CheckpointError("tensors of the file were not written", file=self.path, array=", ".join(sorted(self._left)[:4]))

    def write(self, name: str, array: Any) -> None:
        """Write a tensor, cast to its dtype in the file. Raise CheckpointError for another shape."""
        spec = self._take(name)
        if tuple(array.shape) != spec.shape:
            raise CheckpointError(
                "a tensor has another shape than the file's header says", array=name, found=array.shape, expected=spec.shape
            )
        # Cast in the order that it lies in, then brought into the file's: a cast across a large matrix misses every cache line.
        cast = np.ascontiguousarray(array.astype(dtype_named(spec.dtype), order="K", copy=False))
        self._put(memoryview(cast.reshape(-1).view(np.uint8)), self._starts[name])

    def leave_zero(self, name: str) -> None:
        """Say that a tensor is all zeros."""
        self._take(name)

    def _take(self, name: str) -> TensorSpec:
        if name not in self._left:
            raise CheckpointError("a tensor is written twice, or is not in the file's header", file=self.path, array=name)
        self._left.remove(name)
        return self.specs[name]

    def _put(self, content: bytes | memoryview, start: int) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._file, view[:_PART], start)
            view, start = view[written:], start + written


def _header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The header's bytes, and where in the file each tensor begins: wide dtypes first, so that all are aligned."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    starts, end = {}, 0
    for name in sorted(specs, key=lambda name: (-_CODES[specs[name].dtype][1], name)):
        spec = specs[name]
        starts[name], end = end, end + spec.nbytes
        entries[name] = {"dtype": _CODES[spec.dtype][0], "shape": list(spec.shape), "data_offsets": [starts[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + start for name, start in starts.items()}
