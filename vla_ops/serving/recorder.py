"""What the robot saw and was told, as recordings: a ROS 2 MCAP a connection and prompt, which `vla-ops convert` reads like any other.

Topics: `/state` and `/action` (sensor_msgs/JointState, names as in the YAML) and `/<camera>/image/compressed` (PNG: what came, bit for
bit). Stamps are those of this machine when the request came. Of each chunk the actions are written that were due, at the robot's rate,
before it asked again. A YAML for them has `clock: log` and the sources `/state.position`, `/action.position` and the images' topics.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vla_ops.files import replacing
from vla_ops.policies import Observation
from vla_ops.serving.service import PolicyService, Reply

_TIME = "\n" + "=" * 80 + "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
_HEADER = "\n" + "=" * 80 + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n" + _TIME
_JOINT_STATE = "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n" + _HEADER
_COMPRESSED_IMAGE = "std_msgs/Header header\nstring format\nuint8[] data\n" + _HEADER
_MOST_WAITING = 64
# Fast: a request a second or ten is to be written beside the model.
_PNG_LEVEL = 1


class Recorder(Protocol):
    """What a server tells of its requests; it returns at once."""

    def answered(self, session: int, stamp_ns: int, message: Any, reply: Reply) -> None:
        """A request of a connection that was answered."""
        ...

    def ended(self, session: int) -> None:
        """The connection is over."""
        ...


@dataclass(frozen=True, eq=False)
class _Chunk:
    """What the robot was told at a moment."""

    stamp_ns: int
    actions: np.ndarray[Any, Any]


class McapRecorder:
    """Writes recordings in a thread of its own; a context. Where the disk is slower than the requests, some are left out and counted."""

    def __init__(self, folder: Path, service: PolicyService, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.service, self.say = folder, service, say
        self.left_out = 0
        self._events: queue.Queue[tuple[Any, ...] | None] = queue.Queue(_MOST_WAITING)
        self._files: dict[int, _File] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._write, name="vla_ops recorder")
        self._thread.start()

    def __enter__(self) -> McapRecorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._events.put(None)
        self._thread.join()

    def answered(self, session: int, stamp_ns: int, message: Any, reply: Reply) -> None:
        """See Recorder."""
        try:
            self._events.put_nowait((session, stamp_ns, message, reply))
        except queue.Full:
            self.left_out += 1

    def ended(self, session: int) -> None:
        """See Recorder."""
        # Blocks only while the queue is full; a file that stays open until the server stops is no loss.
        try:
            self._events.put_nowait((session,))
        except queue.Full:
            self.left_out += 1

    def _write(self) -> None:
        while (event := self._events.get()) is not None:
            self._try(event)
        for session in list(self._files):
            self._try((session,))

    def _try(self, event: tuple[Any, ...]) -> None:
        try:
            self._take(event)
        # Neither a full disk nor an odd image may stop the robot.
        except Exception as error:
            self.left_out += 1
            self.say(f"not recorded: {error}")

    def _take(self, event: tuple[Any, ...]) -> None:
        session, *request = event
        if not request:
            self._end(session)
            return
        stamp_ns, message, reply = request
        seen = self.service.requests.read(message)
        file = self._files.get(session)
        prompt = seen.prompt if isinstance(seen.prompt, str) else None
        if file is not None and file.prompt != prompt:
            # A recording has one task.
            self._end(session)
            file = None
        if file is None:
            file = self._files[session] = self._begun(session, prompt, stamp_ns)
        file.add(stamp_ns, seen, np.asarray(reply.values["actions"]))

    def _begun(self, session: int, prompt: str | None, stamp_ns: int) -> _File:
        at = datetime.fromtimestamp(stamp_ns / 1e9, UTC)
        path = self.folder / f"{at:%Y%m%d-%H%M%S-%f}-{session}.mcap"
        told = self.service.metadata
        return _File(path, prompt, {"robot": str(told["robot"]), "policy": str(told["policy"])}, self.service)

    def _end(self, session: int) -> None:
        file = self._files.pop(session, None)
        if file is not None:
            file.close()
            self.say(f"recorded {file.path}")


class _File:
    """A recording that is being written; it gets its name when it is whole."""

    def __init__(self, path: Path, prompt: str | None, about: Mapping[str, str], service: PolicyService) -> None:
        from mcap_ros2.writer import Writer

        self.path, self.prompt = path, prompt
        policy = service.policy
        self._state = [dim.name for dim in policy.state_dims]
        self._action = [dim.name for dim in policy.action_dims]
        self._step_ns = round(1e9 / float(policy.spec.timeline.rate_hz))
        self._last: _Chunk | None = None
        with ExitStack() as held:
            file = held.enter_context(open(held.enter_context(replacing(path)), "wb"))
            self._writer = Writer(file)
            self._writer.add_metadata("task_info", {"task_description": prompt or ""})
            self._writer.add_metadata("vla_ops", dict(about))
            self._joints = self._writer.register_msgdef("sensor_msgs/msg/JointState", _JOINT_STATE)
            self._image = self._writer.register_msgdef("sensor_msgs/msg/CompressedImage", _COMPRESSED_IMAGE)
            self._held = held.pop_all()

    def add(self, stamp_ns: int, seen: Observation, actions: np.ndarray[Any, Any]) -> None:
        """A request and its reply."""
        self._carried_out(until_ns=stamp_ns)
        self._numbers("/state", stamp_ns, self._state, seen.state)
        for camera, image in seen.images.items():
            self._put(f"/{camera}/image/compressed", self._image, stamp_ns, camera, {"format": "png", "data": _png(image)})
        self._last = _Chunk(stamp_ns, actions)

    def close(self) -> None:
        """Write the end. Of the last chunk nobody knows how much was carried out: its first action is written."""
        with self._held:
            if self._last is not None:
                self._carried_out(until_ns=self._last.stamp_ns + 1)
            self._writer.finish()

    def _carried_out(self, *, until_ns: int) -> None:
        """The actions of the last chunk that were due before a moment."""
        if self._last is None:
            return
        for k, action in enumerate(self._last.actions):
            stamp_ns = self._last.stamp_ns + k * self._step_ns
            if stamp_ns >= until_ns:
                return
            self._numbers("/action", stamp_ns, self._action, action)

    def _numbers(self, topic: str, stamp_ns: int, names: list[str], values: np.ndarray[Any, Any]) -> None:
        body = {"name": names, "position": values.astype(np.float64).tolist(), "velocity": [], "effort": []}
        self._put(topic, self._joints, stamp_ns, "", body)

    def _put(self, topic: str, schema: Any, stamp_ns: int, frame: str, body: Mapping[str, Any]) -> None:
        stamp = {"sec": stamp_ns // 1_000_000_000, "nanosec": stamp_ns % 1_000_000_000}
        message = {"header": {"stamp": stamp, "frame_id": frame}, **body}
        self._writer.write_message(topic, schema, message, log_time=stamp_ns, publish_time=stamp_ns)


def _png(image: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, "png", compress_level=_PNG_LEVEL)
    return out.getvalue()
