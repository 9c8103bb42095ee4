"""The nodes of a Ray cluster: one task a recording, tried once.

A task that is lost with its worker or node costs its recording alone; one that had not begun yet is handed to another node.
What a node makes goes into the store directly where it is shared, else by way of a staging folder (`staging`).
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from vla_ops.curation import Curation
from vla_ops.episodes.convert import Conversion, remember
from vla_ops.episodes.pool import Event, Frames, Lost
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers.ray_cluster import connected
from vla_ops.episodes.workers.ray_remote import conversion_task, mailbox_actor
from vla_ops.episodes.workers.same_code import made_with
from vla_ops.episodes.workers.staging import IncompleteError, Staging
from vla_ops.errors import ClusterError, StoreError
from vla_ops.files import discard_work, marked
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot import RobotSpec
from vla_ops.spec import RayConversion

_LOOK_EVERY_S = 0.3
_HEARTBEAT_EVERY_S = 1.0
# Downloads from the staging folder at once.
_TAKEN_AT_ONCE = 4
# A task that never began was not its recording's fault; one that never begins anywhere is.
_MOST_STARTS = 3
# How long a cancelled task may take to end.
_CANCELLED_WITHIN_S = 30.0


@dataclass(frozen=True)
class RayWorkers:
    """The nodes of the cluster that `settings` name."""

    settings: RayConversion

    def convert(
        self, files: Sequence[tuple[RecordingFile, str]], *, spec: RobotSpec, store: Path, curation: Curation | None = None
    ) -> Generator[Event]:
        """See `vla_ops.episodes.pool.Workers`."""
        if not files:
            return
        with ExitStack() as stack:
            ray = stack.enter_context(connected(self.settings))
            common: dict[str, Any] = {
                "spec": spec.model_dump(mode="json", by_alias=True),
                "store": str(store),
                "cores": self.settings.cpus,
                "made_with": made_with(),
                "mark": None,
                "staging": None,
            }
            staging = None
            if self.settings.store == "shared":
                common["mark"] = str(stack.enter_context(marked(store)))
            else:
                staging = _staging(self.settings.store, store)
                stack.callback(staging.clear)
                common["staging"] = staging.uri
            run = _Run(ray, self.settings, RobotStore(store), common, curation or Curation(), staging)
            yield from run.events(files)


def _staging(uri: str, store: Path) -> Staging:
    """A folder of this store alone, emptied: whoever holds the store knows that what lies there is of a run that was killed."""
    owner = hashlib.sha256(f"{socket.gethostname()}:{store}".encode()).hexdigest()[:8]
    staging = Staging(f"{uri}/{store.name}-{owner}")
    staging.check()
    staging.clear()
    return staging


@dataclass
class _Task:
    """One recording on the cluster. `name` is one of its own for each time it is handed over."""

    file: RecordingFile
    version: str
    name: str = ""
    starts: int = 0
    # Host and process of the worker that has begun it, and the camera frames it told of so far.
    node: str = ""
    frames: int = 0


@dataclass
class _Run:
    """One conversion of many recordings in progress."""

    ray: ModuleType
    settings: RayConversion
    store: RobotStore
    common: dict[str, Any]
    curation: Curation
    staging: Staging | None
    waiting: deque[_Task] = field(default_factory=deque)
    # Ray's references of what is handed over, and of what is being taken from the staging folder.
    handed: dict[Any, _Task] = field(default_factory=dict)
    taken: dict[Future[None], tuple[_Task, Conversion]] = field(default_factory=dict)
    # Ray's reference of what the mailbox was asked for and has not answered yet.
    asked: Any = None
    # Since when no node of the cluster has enough cores.
    too_small_since_s: float | None = None

    def events(self, files: Sequence[tuple[RecordingFile, str]]) -> Iterator[Event]:
        """Everything that happens, until each of `files` has its outcome."""
        self.waiting.extend(_Task(file, version) for file, version in files)
        self.shared = self.ray.put(self.common)
        self.mailbox = mailbox_actor(self.ray)
        self.task = conversion_task(self.ray, cpus=self.settings.cpus)
        with ThreadPoolExecutor(_TAKEN_AT_ONCE, thread_name_prefix="staging") as self.pool:
            try:
                yield from self._all()
            finally:
                self._cancel()

    def _all(self) -> Iterator[Event]:
        said_s = time.monotonic()
        while self.waiting or self.handed or self.taken:
            self._hand_over()
            for event in [*self._outcomes(), *self._progress(), *self._stored()]:
                said_s = time.monotonic()
                yield event
            if time.monotonic() - said_s >= _HEARTBEAT_EVERY_S:
                self._refuse_small_cluster()
                said_s = time.monotonic()
                yield Frames("", 0)

    def _hand_over(self) -> None:
        while self.waiting and len(self.handed) < self.settings.max_in_flight:
            task = self.waiting.popleft()
            task.name, task.node, task.frames, task.starts = secrets.token_hex(8), "", 0, task.starts + 1
            # Left by a run that was killed on another machine, whose processes cannot be seen from here.
            discard_work(self.store.recording_folder(task.file.id))
            trims = self.curation.trims(task.file.id).model_dump(mode="json")
            job = {"file": asdict(task.file), "source_version": task.version, "trims": trims, "name": task.name}
            self.handed[self.task.remote(job, self.shared, self.mailbox)] = task

    def _outcomes(self) -> Iterator[Event]:
        if not self.handed:
            time.sleep(_LOOK_EVERY_S)
            return
        ready, _ = self.ray.wait(list(self.handed), timeout=_LOOK_EVERY_S)
        if ready:
            yield from self._progress()
        for ref in ready:
            task = self.handed.pop(ref)
            try:
                answer = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                yield self._lost(task, f"the task failed: {str(error).strip().splitlines()[-1]}.")
            except self.ray.exceptions.RayError as error:
                yield from self._died(task, error)
            else:
                yield from self._answered(task, answer)

    def _died(self, task: _Task, error: Exception) -> Iterator[Event]:
        """Hand a task whose worker or node is gone to another one, if it had not begun yet."""
        if not task.node and task.starts < _MOST_STARTS:
            self.waiting.appendleft(task)
            return
        said = " ".join(str(error).split("\n")[0].split())
        on = f" on node {task.node}" if task.node else ""
        yield self._lost(task, f"the worker converting it{on} died ({type(error).__name__}: {said}).")

    def _lost(self, task: _Task, reason: str) -> Lost:
        discard_work(self.store.recording_folder(task.file.id))
        return Lost(task.file.id, f"{reason} The next run tries it again. [file {task.file.id}]")

    def _answered(self, task: _Task, answer: dict[str, Any]) -> Iterator[Event]:
        event = answer["event"]
        if event == "refused":
            raise ClusterError(answer["what"], found=answer["found"], todo=answer["todo"])
        if event == "store_error":
            raise StoreError(answer["said"])
        if event == "lost":
            yield self._lost(task, answer["said"])
            return
        # What has not come by the mailbox yet.
        yield Frames(task.file.id, answer["frames"] - task.frames, 1.0)
        made = Conversion.from_json(answer["conversion"])
        if self.staging is None:
            yield made
        elif made.quarantined is not None:
            remember(self.store, made)
            yield made
        else:
            target = self.store.recording_folder(task.file.id)
            self.taken[self.pool.submit(self.staging.take, task.name, target)] = (task, made)

    def _stored(self) -> Iterator[Event]:
        """The outcomes of recordings that have come from the staging folder into the store."""
        for future in [future for future in self.taken if future.done()]:
            task, made = self.taken.pop(future)
            try:
                future.result()
            except IncompleteError as error:
                yield self._lost(task, f"what its worker uploaded is not whole: {error}.")
            else:
                remember(self.store, made)
                yield made

    def _progress(self) -> Iterator[Event]:
        tasks = {task.name: task for task in self.handed.values()}
        for name, (node, frames, fraction) in self._letters().items():
            if name in tasks:
                tasks[name].node = node
                tasks[name].frames += frames
                yield Frames(tasks[name].file.id, frames, fraction)

    def _letters(self) -> dict[str, tuple[str, int, float]]:
        # What a late answer took out of the mailbox is nowhere else: it is waited for again.
        self.asked = self.asked or self.mailbox.take.remote()
        try:
            letters = self.ray.get(self.asked, timeout=_HEARTBEAT_EVERY_S)
        except self.ray.exceptions.GetTimeoutError:
            return {}
        except self.ray.exceptions.RayError:
            letters = {}  # It is being restarted on another node; outcomes do not go through it.
        self.asked = None
        return letters

    def _refuse_small_cluster(self) -> None:
        """Raise ClusterError if for too long no node has as many cores as a recording takes."""
        cores = sorted(node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"])
        if cores and cores[-1] >= self.settings.cpus:
            self.too_small_since_s = None
            return
        now_s = time.monotonic()
        self.too_small_since_s = self.too_small_since_s or now_s
        if now_s - self.too_small_since_s >= self.settings.wait_for_node_s:
            raise ClusterError(
                "no node of the Ray cluster has as many cores as a recording takes",
                address=self.settings.address or self.settings.resource,
                found=f"{len(cores)} node(s) of {', '.join(f'{c:g}' for c in cores)} cores" if cores else "no node",
                expected=f"one of {self.settings.cpus} at least",
                todo="Lower conversion.ray.cpus, add nodes, or raise conversion.ray.wait_for_node_s if they take longer to come.",
            )

    def _cancel(self) -> None:
        """End what runs. It is killed rather than asked: what it has not finished is only in its work folder."""
        for future in self.taken:
            future.cancel()
        for ref in self.handed:
            self.ray.cancel(ref, force=True)
        if self.handed:
            self.ray.wait(list(self.handed), num_returns=len(self.handed), timeout=_CANCELLED_WITHIN_S)
        for task in self.handed.values():
            discard_work(self.store.recording_folder(task.file.id))
