"""The exception tree: one branch for each thing an operator can act on.

::

    VlaOpsError
    ├── SpecError              a robot's YAML is wrong                   -> edit robots/<name>/defs.yaml
    ├── RecordingError         a raw file cannot be used as it is        -> look at the file, or the robot's collector
    │   ├── RecordingFormatError    not that format, truncated, corrupt
    │   ├── StreamNotFoundError     a mapped topic, dataset or field is not there
    │   ├── UnknownEncodingError    a message or image encoding nobody here can read
    │   ├── UnsafePathError         a link or archive entry that leaves the recording
    │   └── OutOfReachError         it cannot be fetched from its store now   -> look at the network and the credentials; tried again
    ├── AlignmentError         streams do not fit one timeline           -> look at clocks, rates and gaps
    ├── SchemaMismatchError    dimensions or resolutions differ from the spec, or change midway
    ├── QualityError           an episode crosses a threshold set to `quarantine`
    ├── DatasetError           a dataset view cannot be made or read
    ├── StatsMismatchError     norm stats that do not fit the data
    ├── CheckpointError        a checkpoint is damaged, or of another model
    ├── ParityError            a model converted for PyTorch does not compute what the trained one does: there is no export of it
    ├── PromptError            a prompt that is missing, or has more tokens than the model takes
    ├── LoaderError            batches for training cannot be loaded: a process that decodes images died, settings that do not fit
    ├── PolicyError            a checkpoint cannot be run as asked, or does not compute what was trained
    ├── RequestError           a client's message cannot be answered     -> send what the message says is expected
    ├── TrainingError          a training cannot start or go on as asked: a loss that is not a number, another recipe than the run's
    ├── PublishError           something cannot be published, or what was published is not what its manifest says
    ├── FetchError             a file from elsewhere cannot be had, or is not the one that was asked for
    ├── StoreError             VLA_OPS_HOME cannot be written
    ├── HomeError              VLA_OPS_HOME in a store, and this machine's copy of it, cannot be brought together
    └── ClusterError           the machines that are to convert cannot be used -> look at `conversion` in the YAML, and at the cluster
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


class OutOfReachError(RecordingError):
    """A recording in a remote store cannot be fetched now, or changed meanwhile: nothing is wrong with what is in it."""


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


class ParityError(VlaOpsError):
    """An exported model does not compute what the trained one does."""


class PromptError(VlaOpsError, ValueError):
    """A prompt is missing, or has more tokens than the model takes."""


class LoaderError(VlaOpsError, RuntimeError):
    """Batches for training cannot be loaded: a process that decodes images has died, or settings do not fit one another."""


class TrainingError(VlaOpsError, RuntimeError):
    """A training cannot start or go on as asked: its loss is not a number any more, the recipe is not the run's, devices do not fit."""


class PolicyError(VlaOpsError, RuntimeError):
    """A checkpoint cannot be run as asked, or what it computes is not what was trained and evaluated."""


class RequestError(VlaOpsError, ValueError):
    """A client's message is none, is too large, or cannot be answered now."""


class PublishError(VlaOpsError):
    """Something cannot be published, or what was published is not what its manifest says."""


class FetchError(VlaOpsError, OSError):
    """A file from elsewhere (a tokenizer, norm stats, a checkpoint) cannot be had, or is not the one that was asked for."""


class CheckpointError(VlaOpsError, ValueError):
    """A checkpoint is damaged, or of another model."""


class HomeError(VlaOpsError):
    """What is here and what is in the home in a store cannot be brought together."""


class StoreError(VlaOpsError, OSError):
    """The store under VLA_OPS_HOME cannot be read or written."""


class ClusterError(VlaOpsError):
    """A cluster cannot be reached, or its nodes cannot do the work."""
