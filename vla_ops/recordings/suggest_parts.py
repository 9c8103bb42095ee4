"""Guess from names and widths which streams are state, action and cameras. A guess that may be wrong says so in `decide`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vla_ops.recordings.base import StreamInfo

_GRIPPER = re.compile(r"grip|claw|finger|jaw|(?<![a-z])eef(?=/joint)|_eef/joint|clamp", re.IGNORECASE)
# Dimension names that a spec takes only with `kind: gripper`.
_GRIPPER_NAME = re.compile(r"grip|claw|finger|jaw", re.IGNORECASE)
_ROTATION = re.compile(r"(?<![a-z])(quat|quaternion|orientation|rot|rotation|axis|axisangle|rot_?vec|rot_?6d|rpy|euler)(?![a-z])")
_ACTION = frozenset({"action", "actions", "lead", "leader", "master", "command", "commands", "cmd", "target"})
# Never a state, though not what an action is best read from.
_COMMAND = _ACTION | {"targets", "control", "controls", "ctrl", "desired", "setpoint", "setpoints", "leading"}
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STATE = frozenset(
    {"qpos", "state", "follow", "follower", "puppet", "joint", "joints", "proprio", "eef", "tcp", "pose", "gripper", "position"}
)
# Recorded beside the state and no part of it.
_BESIDE = frozenset(
    {"velocity", "vel", "qvel", "effort", "torque", "torques", "force", "wrench", "reward", "rewards", "done", "dones", "advantage"}
    | {"timestamp", "timestamps", "time", "stamp", "stamps", "counter", "counters", "sync", "error", "next", "prev", "initial", "rela"}
    | {"mask", "demo", "info", "intervention", "interventions", "user", "teleop", "keypoint", "keypoints", "object", "env", "base"}
)
# (joint columns an arm, arms) of vectors that hold arms with one gripper column each, by width.
_ARMS = {7: (6, 1), 8: (7, 1), 14: (6, 2), 16: (7, 2)}
_ROLES = (
    ("base", re.compile(r"high|env|front|agentview|base|top|head|exterior|external|third|overhead|scene|main|side")),
    ("right_wrist", re.compile(r"right|camera1(?!\d)|robot1")),
    ("left_wrist", re.compile(r"left|wrist|hand|gripper|follow|camera0(?!\d)|robot0")),
)
_NO_CAMERA_NAME = frozenset(
    {"observations", "observation", "obs", "images", "image", "image_raw", "color", "rgb", "raw", "compressed", "video"}
    | {"data", "camera", "cameras", "robot", "sensors"}
)


@dataclass(frozen=True)
class Part:
    """One entry of `state` or `action`."""

    source: str
    names: tuple[str, ...]
    unit: str
    kind: str
    joints: tuple[str, ...] = ()
    decide: str = ""


@dataclass(frozen=True)
class Camera:
    """One entry of `cameras`."""

    name: str
    source: str
    role: str | None
    decide: str = ""


def words(name: str) -> list[str]:
    """The words of a stream's name: `/left/follow/arm/joint_state/position` -> left, follow, arm, joint, state, position."""
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def vector_parts(streams: Sequence[StreamInfo], *, is_demo: bool) -> tuple[list[Part], list[Part]]:
    """State and action parts. An empty state means that none is there by its name; an empty action means the next state."""
    numbers = [s for s in streams if s.kind == "numbers"]
    usable = [s for s in numbers if _BESIDE.isdisjoint(words(s.name))]
    commands = _most_exact([s for s in usable if _ACTION & set(words(s.name))])
    others = [s for s in usable if not _is_command(s.name)]
    action = _parts(commands, columns_of_demo=is_demo)
    state = _parts(_best_states(others), columns_of_demo=False) or _stand_in(others)
    return [part for part in state if not _is_command(part.source)], action


def cameras_of(streams: Sequence[StreamInfo]) -> list[Camera]:
    """The colour cameras, with roles guessed from their names; each role is given once."""
    sources = [s.name for s in streams if s.kind == "images" and "depth" not in s.name.lower()]
    cameras: list[Camera] = []
    for name, source in zip(_unique([_camera_name(s) for s in sources]), sources, strict=True):
        role = next((role for role, pattern in _ROLES if pattern.search(name.lower())), None)
        if role is None and len(sources) == 1:
            role = "base"
        holder = next((c.name for c in cameras if role is not None and c.role == role), None)
        if holder is not None:
            cameras.append(Camera(name, source, None, f"{holder} has role {role} already; without a role no pi0 model sees this camera"))
        else:
            cameras.append(Camera(name, source, role, "" if role else "a role: base, left_wrist or right_wrist"))
    return cameras


def _is_command(name: str) -> bool:
    """True for what was told to the robot: as a state it would teach a model to copy its input."""
    return not _COMMAND.isdisjoint(word.rstrip("0123456789") for word in words(_CAMEL_CASE.sub("_", name)))


def _most_exact(streams: list[StreamInfo]) -> list[StreamInfo]:
    """The one stream called `action`, or all that look like commands, joint positions rather than poses."""
    exact = [s for s in streams if s.name.strip("/").removeprefix("data/") in ("action", "actions")]
    return exact[:1] or _joint_positions(streams) or streams


def _best_states(streams: list[StreamInfo]) -> list[StreamInfo]:
    """One vector that holds the whole state, else joint positions and grippers, else poses and grippers."""
    for last in ("qpos", "state", "proprio", "agent_pos"):
        whole = [s for s in streams if re.split(r"[/.]", s.name)[-1] == last]
        if whole:
            return whole[:1]
    candidates = [s for s in streams if _STATE & set(words(s.name)) and not s.name.endswith("states")] or [
        s for s in streams if _STATE & set(words(s.name))
    ]
    return _joint_positions(candidates) or candidates


def _joint_positions(streams: list[StreamInfo]) -> list[StreamInfo]:
    joints = [s for s in streams if {"joint", "joints"} & set(words(s.name)) and not {"cos", "sin", "pose"} & set(words(s.name))]
    if not any(not _GRIPPER.search(s.name) for s in joints):
        return []
    return joints + [s for s in streams if s not in joints and _GRIPPER.search(s.name) and "pose" not in words(s.name)]


def _parts(streams: list[StreamInfo], *, columns_of_demo: bool) -> list[Part]:
    groups = {s.name: _group(s.name) for s in streams}
    prefixed = len(set(groups.values())) > 1
    parts: list[tuple[tuple[object, ...], Part]] = []
    for stream in streams:
        prefix = f"{groups[stream.name]}_" if prefixed and groups[stream.name] else ""
        for k, part in enumerate(_parts_of(stream, columns_of_demo=columns_of_demo)):
            order = (groups[stream.name], _ORDER.index(part.kind), stream.name, k)
            parts.append((order, replace(part, names=tuple(prefix + n for n in part.names))))
    # Within one vector the columns keep their order; across streams: left before right, joints before the gripper.
    ordered = [part for _, part in (parts if len(streams) == 1 else sorted(parts, key=lambda p: p[0]))]
    names = iter(_unique([n for part in ordered for n in part.names]))
    return [replace(part, names=tuple(next(names) for _ in part.names)) for part in ordered]


_ORDER = ("joint", "position", "quaternion_xyzw", "quaternion_wxyz", "rotation_vector", "rotation_rpy", "rotation_6d", "other", "gripper")


def _group(name: str) -> str:
    found = re.search(r"(?<![a-z])(left|right|(?:robot|arm)_?\d+)(?![a-z])", name.lower())
    return found[1] if found else ""


def _parts_of(stream: StreamInfo, *, columns_of_demo: bool) -> list[Part]:
    source, width = _source(stream), _width(stream)
    if stream.joint_names:
        return _named_joints(source, stream.joint_names)
    if columns_of_demo:
        return _controller(source, width)
    if width == 7 and re.search(r"Pose(Stamped|InFrame)?$", stream.schema):
        return [
            Part(f"{source}[0:3]", ("x", "y", "z"), "m", "position"),
            Part(f"{source}[3:7]", ("qx", "qy", "qz", "qw"), "1", "quaternion_xyzw"),
        ]
    if len(stream.fields) > 1 and not _positions_field(stream):
        return _each_field(stream)
    part = _by_name(stream, source, width)
    if part is not None:
        return [part]
    return _arms(source, width) if width in _ARMS else [_unknown(stream, "what these columns are, and their unit")]


def _by_name(stream: StreamInfo, source: str, width: int) -> Part | None:
    """The part where the stream's name says what it holds."""
    said = set(words(stream.name))
    is_joint = bool({"joint", "joints"} & said)
    if _GRIPPER.search(stream.name):
        names = ("gripper",) if width == 1 else _numbered("gripper_", width)
        return Part(source, names, "m", "gripper", decide="the unit" if width == 1 else f"the unit; whether all {width} columns are wanted")
    if width in (3, 4, 6) and _ROTATION.search(stream.name.lower()):
        return _rotation(stream.name.lower(), source, width)
    if width == 3 and {"pos", "position", "eef", "tcp", "xyz"} & said and not is_joint:
        return Part(source, ("x", "y", "z"), "m", "position")
    return Part(source, _numbered("j", width), "rad", "joint") if is_joint else None


def _rotation(name: str, source: str, width: int) -> Part:
    """The form of a rotation that its name says, else the usual one of that width and what else it may be."""
    if width == 4:
        if "wxyz" in name:
            return Part(source, ("qw", "qx", "qy", "qz"), "1", "quaternion_wxyz")
        decide = "" if "xyzw" in name else "quaternion_wxyz (and the names in that order) if w comes first"
        return Part(source, ("qx", "qy", "qz", "qw"), "1", "quaternion_xyzw", decide=decide)
    if width == 6:
        decide = "" if "6d" in name else "rotation_6d if these are two columns of a rotation matrix"
        return Part(source, _numbered("r", width), "1", "other" if decide else "rotation_6d", decide=decide)
    if re.search(r"rpy|euler", name):
        return Part(source, ("roll", "pitch", "yaw"), "rad", "rotation_rpy")
    decide = "" if re.search(r"axis|rot_?vec", name) else "rotation_rpy if these are roll, pitch and yaw; and the unit"
    return Part(source, ("rx", "ry", "rz"), "rad", "rotation_vector", decide=decide)


def _named_joints(source: str, joints: tuple[str, ...]) -> list[Part]:
    """Select by name, since messages need not keep an order. `gripper` beside `gripper_finger` is the arm's last joint in some stations."""
    grippers = [j for j in joints if _GRIPPER.search(j)]
    arm = [j for j in joints if j not in grippers]
    parts = [Part(source, tuple(map(_safe, arm)), "rad", "joint", joints=tuple(arm))] if arm else []
    for gripper in grippers:
        decide = "the unit" if len(grippers) == 1 else "which of these is the gripper; the others may be arm joints under a misleading name"
        parts.append(Part(source, (_safe(gripper),), "m", "gripper", joints=(gripper,), decide=decide))
    return parts


def _arms(source: str, width: int) -> list[Part]:
    joints, arms = _ARMS[width]
    parts = []
    for k in range(arms):
        start, side = k * (joints + 1), ("" if arms == 1 else ("left_", "right_")[k])
        stop = start + joints
        guess = f"guessed from the width {width}: {'arm' if arms == 1 else 'left arm first'}, {joints} joints, then its gripper"
        parts.append(Part(f"{source}[{start}:{stop}]", tuple(side + n for n in _numbered("j", joints)), "rad", "joint", decide=guess))
        parts.append(
            Part(f"{source}[{stop}:{stop + 1}]", (f"{side}gripper",), "m", "gripper", decide="the unit: m, or ratio if it is 0..1")
        )
    return parts


def _controller(source: str, width: int) -> list[Part]:
    """Actions of robosuite's OSC_POSE controllers: six deltas and a gripper an arm, or six without one."""
    if width % 7 and width != 6:
        return [Part(source, _numbered("a", width), "1", "other", decide="what these columns are")]
    arms, parts = max(1, width // 7), []
    for k in range(arms):
        start, prefix = 7 * k, "" if arms == 1 else f"arm{k}_"
        names = tuple(f"{prefix}{n}" for n in ("dx", "dy", "dz", "drx", "dry", "drz"))
        guess = "guessed to be OSC_POSE deltas, scaled to -1..1"
        parts.append(Part(f"{source}[{start}:{start + 6}]", names, "1", "other", decide=guess))
        if width % 7 == 0:
            parts.append(Part(f"{source}[{start + 6}:{start + 7}]", (f"{prefix}gripper",), "1", "gripper"))
    return parts


def _unknown(stream: StreamInfo, decide: str) -> Part:
    base = re.sub(r"[^a-z0-9]+", "_", stream.name.strip("/").rpartition("/")[2].lower()).strip("_") or "value"
    kind = "gripper" if _GRIPPER_NAME.search(base) else "other"
    return Part(_source(stream), _numbered(f"{base}_", _width(stream)), "1", kind, decide=decide)


def _stand_in(streams: list[StreamInfo]) -> list[Part]:
    """The simulator's whole state, else the first stream that could be one; nothing where there is none."""
    measured = [s for s in streams if s.dtype != "bool"]
    stream = next((s for s in measured if words(s.name)[-1:] == ["states"]), next(iter(measured), None))
    if stream is None:
        return []
    decide = "no state was found by name; this one is a stand-in"
    if len(stream.fields) > 1 and not _positions_field(stream):
        return [replace(part, decide=decide) for part in _each_field(stream)]
    return [_unknown(stream, decide)]


def _each_field(stream: StreamInfo) -> list[Part]:
    """One part for each field of messages whose fields are single numbers; of others only the first, and a person must say."""
    if len(stream.fields) == _width(stream):
        return [_field_part(stream, field, "which fields are wanted, and their units") for field in stream.fields]
    return [_field_part(stream, stream.fields[0], f"a field, and one name for each of its values; there are: {', '.join(stream.fields)}")]


def _field_part(stream: StreamInfo, field: str, decide: str) -> Part:
    name = _safe(field)
    return Part(f"{stream.name}.{field}", (name,), "1", "gripper" if _GRIPPER_NAME.search(name) else "other", decide=decide)


def _source(stream: StreamInfo) -> str:
    """The stream, with the field that holds positions where its messages have several."""
    field = _positions_field(stream)
    return f"{stream.name}.{field}" if field and len(stream.fields) > 1 else stream.name


def _positions_field(stream: StreamInfo) -> str | None:
    return next((f for f in ("position", "positions", "values", "data") if f in stream.fields), None)


def _width(stream: StreamInfo) -> int:
    width = 1
    for n in stream.shape:
        width *= n
    return max(1, width)


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}{k + 1}" for k in range(count))


def _camera_name(source: str) -> str:
    parts = [p for p in re.split(r"[/.]", source) if p and p.lower() not in _NO_CAMERA_NAME]
    name = parts[-1] if parts else "camera"
    return _safe(re.sub(r"_(rgb|image|img|color)$", "", name)) or "camera"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "joint"


def _unique(names: Iterable[str]) -> list[str]:
    """Make names differ by a number where they do not."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
