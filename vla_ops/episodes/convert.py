"""One recording -> its episode folders, or a reason in quarantine. The unit of all conversion.

Everything is made in a work folder and renamed into place at the end, so that a killed conversion leaves nothing behind.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vla_ops.curation import Trims
from vla_ops.episodes.align import Timeline, align
from vla_ops.episodes.episode import EpisodeSource, write_episode
from vla_ops.episodes.identity import check_identity, said_by
from vla_ops.episodes.pictures import write_pictures
from vla_ops.episodes.read import read_span
from vla_ops.episodes.store import RECORDING, Episode, EpisodeMeta, RobotStore
from vla_ops.episodes.trim import kept_frames, made_with
from vla_ops.errors import AlignmentError, OutOfReachError, StoreError, VlaOpsError
from vla_ops.files import replacing
from vla_ops.recordings import open_recording
from vla_ops.recordings.base import Recording, Span
from vla_ops.recordings.place import Place, as_place, saying_failure
from vla_ops.robot import RobotSpec

# Called with the number of camera frames that are newly done, and the part of the recording that is done, 0 to 1.
type Progress = Callable[[int, float], None]

# A file that is not reachable now, or a machine that is out of something: the recording itself is not to blame.
_NOT_ITS_FAULT = frozenset(
    {
        errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM,
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED,
    }
)  # fmt: skip

# Of an outcome: facts of the run that made it, not of what was made.
_PASSING = frozenset({"seconds", "fetched_bytes", "remote_bytes"})


@dataclass(frozen=True)
class ConversionJob:
    """One recording to convert. `path` may be a URI; `store` is the robot's folder under VLA_OPS_HOME.

    `cores` is how many it may keep busy, by default all that the process may run on. What is fetched of a URI is kept in `cache`,
    by default the store's; `stamp` is what the listing said of a remote file's content.
    """

    recording: str
    path: str
    source_version: str
    spec: RobotSpec
    store: Path
    cores: int | None = None
    # Where the recording itself is, if `path` is a copy.
    uri: str = ""
    trims: Trims = field(default_factory=Trims)
    cache: Path | None = None
    stamp: str = ""

    @property
    def fingerprint(self) -> str:
        """Of what it is converted with."""
        return made_with(self.spec, self.trims)


@dataclass(frozen=True)
class Rejected:
    """An episode that is not in the dataset, and why."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """What became of one recording. `quarantined` is the reason if none of it is in the dataset."""

    recording: str
    source_version: str
    # Empty: not the recording's fault, the next run tries it again.
    spec_fingerprint: str
    episodes: list[int] = field(default_factory=list)
    frames: int = 0
    size: int = 0
    # How long it took; 0 of one that was converted by an earlier run.
    seconds: float = 0.0
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quarantined: str | None = None
    # Only in quarantine files, for a defect of ours or of a library.
    traceback: str | None = None
    # What the recording says of itself, where some of it is usable.
    says: dict[str, str] = field(default_factory=dict)
    # What it should have said of itself, where that alone is why it is in quarantine.
    must_say: dict[str, str] | None = None
    # Of a remote recording: what was fetched in this conversion, and its size. 0 of a local one, and of one of an earlier run.
    fetched_bytes: int = 0
    remote_bytes: int = 0

    @property
    def fetched(self) -> str:
        """`12.3 MB of 480.0 MB`; empty for a local recording."""
        return f"{self.fetched_bytes / 1e6:.1f} MB of {self.remote_bytes / 1e6:.1f} MB" if self.remote_bytes else ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Conversion:
        """The inverse of `asdict`."""
        return cls(**{**value, "rejected": [Rejected(**r) for r in value["rejected"]]})


def convert_recording(job: ConversionJob, progress: Progress | None = None) -> Conversion:
    """Convert one recording and store its episodes; quarantine what cannot be used. Only StoreError is raised."""
    store = RobotStore(job.store)
    try:
        place = as_place(job.path, cache=job.cache or job.store / "cache", stamp=job.stamp)
    except StoreError:
        raise
    except VlaOpsError as error:
        return out_of_reach(store, job.recording, job.source_version, error)
    with closing(place):
        result = _converted(job, place, store, progress)
    if place.is_remote:
        result = replace(result, fetched_bytes=place.fetched_bytes, remote_bytes=place.size_bytes)
    remember(store, result)
    return result


def _converted(job: ConversionJob, place: Place, store: RobotStore, progress: Progress | None) -> Conversion:
    result, started = Conversion(job.recording, job.source_version, job.fingerprint), time.monotonic()
    try:
        with replacing(store.recording_folder(job.recording)) as work:
            work.mkdir()
            conversion = _RecordingConversion(job, place, work, progress)
            with saying_failure(place):
                conversion.run()
            conversion.draw()
            result = replace(conversion.outcome(result), seconds=round(time.monotonic() - started, 3))
            (work / RECORDING).write_text(json.dumps(_lasting(result), indent=2), encoding="utf-8")
    except StoreError:
        raise
    except _NothingUsableError as none:
        result = replace(result, quarantined=none.reason, rejected=none.rejected, notes=none.notes)
    except _MisplacedError as misplaced:
        result = replace(result, quarantined=_said(misplaced.error, job), must_say=job.spec.recordings.must_say)
    except VlaOpsError as error:
        result = _blamed(replace(result, quarantined=_said(error, job)), error)
    except Exception as error:  # A damaged file can break a library in ways nobody listed; it must not stop the others.
        said = traceback.format_exception_only(error)[-1].strip()
        reason = f"unexpected {said} [file {job.recording}]. Probably a defect here: report it with the traceback in the quarantine file."
        result = _blamed(replace(result, quarantined=reason, traceback=traceback.format_exc()), error)
    return result


def _lasting(result: Conversion) -> dict[str, Any]:
    """What recording.json holds: all but how long it took and what was fetched, which differ from run to run and machine to machine."""
    return {key: value for key, value in asdict(result).items() if key not in _PASSING}


def out_of_reach(store: RobotStore, recording: str, source_version: str, error: Exception) -> Conversion:
    """Quarantine a recording that could not be fetched from where it is; the next run tries it again."""
    found = f"found {error}" if isinstance(error, VlaOpsError) else f"found {type(error).__name__}: {error}"
    said = f"the recording could not be fetched [file {recording}]; {found}"
    result = Conversion(recording, source_version, "", quarantined=f"{said}. The next run tries it again.")
    remember(store, result)
    return result


def _blamed(result: Conversion, error: BaseException) -> Conversion:
    """Let the next run try it again where the cause is a file that is out of reach for now, or a machine that is out of memory."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | OutOfReachError) or (isinstance(cause, OSError) and cause.errno in _NOT_ITS_FAULT):
            return replace(result, spec_fingerprint="", quarantined=f"{result.quarantined} The next run tries it again.")
        cause = cause.__cause__
    return result


def _said(error: VlaOpsError, job: ConversionJob) -> str:
    """The error's message, with the recording by its id: a reader knows it by its path, which may be that of a copy."""
    if error.where.get("file") == job.path:
        del error.where["file"]
    return str(error.at(file=job.recording))


def remember(store: RobotStore, result: Conversion) -> None:
    """Write or clear the quarantine entry; the episodes of a recording that is no longer usable are removed."""
    if result.quarantined is not None:
        shutil.rmtree(store.recording_folder(result.recording), ignore_errors=True)
    if result.quarantined is None and not result.rejected:
        store.quarantine_file(result.recording).unlink(missing_ok=True)
        return
    store.write_quarantine(result.recording, asdict(result))


class _NothingUsableError(Exception):
    """Every episode was rejected; raised so that the work folder is not kept. The rejections name the file already."""

    def __init__(self, rejected: list[Rejected], notes: list[str]) -> None:
        self.rejected, self.notes = rejected, notes
        reasons = "; ".join(r.reason for r in rejected[:3])
        more = f"; and {len(rejected) - 3} more" if len(rejected) > 3 else ""
        self.reason = reasons if len(rejected) == 1 else f"none of {len(rejected)} episodes is usable: {reasons}{more}"
        super().__init__(self.reason)


class _MisplacedError(Exception):
    """The recording is not one of those its folder or the YAML says."""

    def __init__(self, error: VlaOpsError) -> None:
        self.error = error
        super().__init__(str(error))


@dataclass
class _Done:
    """How far the conversion of a recording is: `frames` of `expected` camera frames in span number `span` of `spans`."""

    span: int = 0
    spans: int = 1
    frames: int = 0
    expected: int = 0

    @property
    def fraction(self) -> float:
        """0 to 1, taking the spans for equally long."""
        return (self.span + min(1.0, self.frames / max(1, self.expected))) / self.spans


class _RecordingConversion:
    """The conversion of one recording in progress: what is kept and what is rejected so far."""

    def __init__(self, job: ConversionJob, place: Place, work: Path, progress: Progress | None) -> None:
        self.job, self.place, self.work, self.progress = job, place, work, progress
        self.kept: list[EpisodeMeta] = []
        self.rejected: list[Rejected] = []
        self.notes: list[str] = []
        self.says: dict[str, str] = {}
        self.count = 0
        self.done = _Done()

    def run(self) -> None:
        job = self.job
        with open_recording(self.place, job.spec.recordings.format, job.spec.open_options) as recording:
            spans = recording.spans()
            if not spans:
                raise AlignmentError("the recording is empty", found="no episode", expected="at least one")
            self.says = said_by(recording, spans)
            self._refuse_misplaced()
            self._refuse_clock_jumps(spans)
            self.notes += recording.notes()
            for k, span in enumerate(spans):
                with self._rejecting(span):
                    self.done = _Done(k, len(spans))
                    self._span(recording, span)

    def outcome(self, result: Conversion) -> Conversion:
        """What became of the recording. Raise _NothingUsableError if nothing of it is left."""
        if not self.kept:
            raise _NothingUsableError(self.rejected, self.notes)
        return replace(
            result,
            episodes=[meta.index for meta in self.kept],
            frames=sum(meta.length for meta in self.kept),
            size=sum(f.stat().st_size for f in self.work.rglob("*") if f.is_file()),
            rejected=self.rejected,
            notes=self.notes,
            says=self.says,
        )

    def draw(self) -> None:
        """Pictures of the first usable episode, for the UI."""
        if self.kept:
            write_pictures(self.work, Episode(self.work / str(self.kept[0].index), self.kept[0]))

    def _span(self, recording: Recording, span: Span) -> None:
        streams = read_span(recording, span, self.job.spec)
        alignment = align(list(streams.clocks.values()), self.job.spec.timeline)
        self.notes += [f"episode {span.name}: {note}" for note in [*streams.notes, *alignment.notes]]
        metadata = dict(recording.metadata())
        self.done.expected = sum(timeline.frames for timeline in alignment.timelines) * max(1, len(streams.cameras))
        uri = self.job.uri or self.job.path
        for timeline in alignment.timelines:
            index = self.count
            with self._rejecting(span):
                source = EpisodeSource(
                    recording=self.job.recording,
                    index=index,
                    span=span,
                    streams=streams,
                    untrimmed=timeline,
                    kept=self._kept(timeline, span),
                    metadata=metadata,
                    source_version=self.job.source_version,
                    fingerprint=self.job.fingerprint,
                    uri=uri,
                )
                meta = write_episode(self.work / str(index), source, self.job.spec, cores=self.job.cores, progress=self._advance)
                self.kept.append(meta)
            self.count = index + 1

    def _kept(self, timeline: Timeline, span: Span) -> slice:
        """What curation.yaml keeps of it."""
        trim = self.job.trims.of(self.count)
        if trim is None:
            return slice(0, timeline.frames)
        kept = kept_frames(timeline, trim, self.job.spec)
        cut_off = timeline.frames - (kept.stop - kept.start)
        self.notes.append(f"episode {span.name}: trimmed to {trim}, {cut_off} of {timeline.frames} frames cut off")
        return kept

    def _advance(self, frames: int) -> None:
        self.done.frames += frames
        if self.progress is not None:
            self.progress(frames, self.done.fraction)

    @contextmanager
    def _rejecting(self, span: Span) -> Iterator[None]:
        """An episode that cannot be used is rejected with its reason; the others of the recording go on."""
        try:
            yield
        except StoreError:
            raise
        except VlaOpsError as error:
            if self.place.failure is not None:
                raise  # Nothing is wrong with the episode: the rest of the recording cannot be had now.
            shutil.rmtree(self.work / str(self.count), ignore_errors=True)
            self.rejected.append(Rejected(self.count, span.name, _said(error.at(episode=span.name), self.job)))
            self.count += 1

    def _refuse_misplaced(self) -> None:
        try:
            check_identity(self.says, self.job.recording, self.job.spec.recordings.must_say)
        except VlaOpsError as error:
            raise _MisplacedError(error) from error

    def _refuse_clock_jumps(self, spans: list[Span]) -> None:
        jumps = [span.clock_jump for span in spans if span.clock_jump]
        if jumps and self.job.spec.timeline.on_clock_jump == "quarantine":
            raise AlignmentError(
                f"the clock jumps back {len(jumps)} time(s)",
                found=jumps[0],
                expected="stamps that do not decrease",
                todo="`timeline: {on_clock_jump: split}` begins an episode at each jump, if these are several runs in one file.",
            )
