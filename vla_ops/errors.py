"""The exception tree: one branch for each thing an operator can act on.

::

    VlaOpsError
    ├── SpecError              a robot's YAML is wrong                   -> edit robots/<name>/defs.yaml
    ├── RecordingError         a raw file cannot be used as it is        -> look at the file, or the robot's collector
    │   ├── RecordingFormatError    not that format, truncated, corrupt
    │   ├── StreamNotFoundError     a mapped topic, dataset or field is not there
    │   ├── UnknownEncodingError    a message or image encoding nobody here can read
    │   └── UnsafePathError         a link or archive entry that leaves the recording
    ├── AlignmentError         streams do not fit one timeline           -> look at clocks, rates and gaps
    ├── SchemaMismatchError    dimensions or resolutions differ from the spec, or change midway
    ├── QualityError           an episode crosses a threshold set to `quarantine`
    ├── DatasetError           a dataset view cannot be made or read
    ├── StatsMismatchError     norm stats that do not fit the data
    └── StoreError             VLA_OPS_HOME cannot be written
"""

from __future__ import annotations

from typing import Self

_ORDER = ("file", "episode", "stream", "dimension", "frame")


class VlaOpsError(Exception):
    """Say what is wrong, where, the two values that disagree, and what to do.

    `where` is filled in by whoever knows it: a reader knows the stream, its caller the file. `at` adds
    what is still missing as the error travels up and never overwrites what was said closer to the cause.
    """

    def __init__(
        self,
        what: str,
        *,
        found: object = None,
        expected: object = None,
        todo: str | None = None,
        **where: object,
    ) -> None:
        self.what, self.found, self.expected, self.todo = what, found, expected, todo
        self.where: dict[str, object] = {k: v for k, v in where.items() if v is not None}
        super().__init__(what)

    def __reduce__(self) -> tuple[object, ...]:
        # Conversion workers hand errors back by pickle, which by default calls cls(*args) and loses keywords.
        return (_rebuild, (type(self), self.__dict__.copy()))

    def at(self, **where: object) -> Self:
        """Add context that is not there yet and return the same error: `raise error.at(file=path)`."""
        self.where = {**{k: v for k, v in where.items() if v is not None}, **self.where}
        return self

    def __str__(self) -> str:
        keys = sorted(self.where, key=lambda k: _ORDER.index(k) if k in _ORDER else len(_ORDER))
        place = ", ".join(f"{key} {self.where[key]}" for key in keys)
        parts = [self.what if not place else f"{self.what} [{place}]"]
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        text = "; ".join(parts)
        return f"{text}. {self.todo}" if self.todo else text


def _rebuild(cls: type[VlaOpsError], state: dict[str, object]) -> VlaOpsError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (state["what"],)
    return error


class SpecError(VlaOpsError, ValueError):
    """A robot's YAML is wrong."""


class RecordingError(VlaOpsError):
    """A recording cannot be used as it is."""


class RecordingFormatError(RecordingError, ValueError):
    """A file is not of the format it claims, or ends too early."""


class StreamNotFoundError(RecordingError, LookupError):
    """A mapped topic, dataset, array, field or joint name is not in the recording."""


class UnknownEncodingError(RecordingError, ValueError):
    """A message, image or compressor encoding that no decoder here knows."""


class UnsafePathError(RecordingError, ValueError):
    """A link or archive entry that points out of the recording."""


class AlignmentError(VlaOpsError):
    """Streams cannot be brought onto one timeline."""


class SchemaMismatchError(VlaOpsError, ValueError):
    """Dimensions, names or resolutions differ from the spec or change midway."""


class QualityError(VlaOpsError):
    """An episode crosses a quality threshold whose level is `quarantine`."""


class DatasetError(VlaOpsError):
    """A dataset view cannot be made, or what is on disk is not one."""


class StatsMismatchError(VlaOpsError, ValueError):
    """Norm stats do not belong to this data."""


class StoreError(VlaOpsError, OSError):
    """The store under VLA_OPS_HOME cannot be read or written."""
