"""Draft a robot's YAML from what is in one of its recordings: with DECIDE where only a person can know, refused as long as that is so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.base import Source, StreamInfo
from vla_ops.recordings.inspect import Description
from vla_ops.recordings.place import is_uri
from vla_ops.recordings.suggest_parts import Camera, Part, cameras_of, vector_parts, words
from vla_ops.recordings.suggest_rates import guess_rate, is_demo

_TIME_WORDS = frozenset({"timestamp", "timestamps", "stamp", "stamps", "time"})
# What the schema refuses as a task text, so that no dataset is made with it.
_NO_TASK = "DECIDE: what the robot does, in one sentence"


def suggest_yaml(description: Description, robot_name: str) -> str:
    """The text of `robots/<robot_name>/defs.yaml` for recordings like this one.

    It loads as a RobotSpec once a state and a task are there; where the recording has none, they are DECIDE lines that the schema
    refuses. Raise RecordingFormatError where nothing in the recording can be converted.
    """
    description = replace(description, streams=tuple(s for s in description.streams if _can_be_named(s.name)))
    if not description.is_convertible:
        raise RecordingFormatError("nothing in it to convert", file=description.path, found="no numeric stream and no camera")
    state, action = vector_parts(description.streams, is_demo=is_demo(description))
    lines = [
        f"# Drafted from {Path(description.path).name}. Every DECIDE is a guess or an open question.",
        "type: vla_ops.RobotPipeline",
        "attributes:",
        *_recordings(description),
        *_timeline(description),
        *_state(state),
        *_action(action),
        *_cameras(description),
        *_task(description),
        f"  dataset: {{repo_id: my-lab/{_slug(robot_name)}}}  # DECIDE: owner/name on the Hugging Face Hub",
        *_norm_stats(state, action),
    ]
    # Comments quote names and tasks of the recording, which may hold characters that YAML does not allow.
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines) + "\n"


def _can_be_named(stream: str) -> bool:
    """False for names that `source:` cannot express: with brackets or line breaks."""
    try:
        Source.parse(stream)
    except ValueError:
        return False
    return True


def _recordings(description: Description) -> list[str]:
    path = Path(description.path)
    folder, name = str(path.resolve().parent), path.resolve().name
    if is_uri(description.path):
        folder, _, name = description.path.rstrip("/").rpartition("/")
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".zarr.zip") else path.suffix
    lines = [
        "  recordings:",
        f"    uri: {_quoted(folder)}  # DECIDE: the folder of all recordings, or s3:// gs:// hf://",
        f"    pattern: {_quoted(name if description.format == 'lerobot' else '**/*' + suffix)}",
        f"    format: {description.format}",
    ]
    if description.format in ("mcap", "lerobot"):
        return lines  # They say their own times.
    times, rate = _times(description.streams), guess_rate(description)
    if "*" not in times:
        lines.append(f"    source_rate_hz: {rate.hz:g}  # DECIDE: the rate it was recorded at; {rate.why}")
    if times:
        lines.append("    times:  # DECIDE: whose stamps are right; float32 seconds since 1970 are refused")
        lines += [f"      {_quoted(stream)}: {_quoted(source)}" for stream, source in times.items()]
    return lines


def _times(streams: tuple[StreamInfo, ...]) -> Mapping[str, str]:
    """Array of times for each stream: one named after a camera for that camera, the first other one for all the rest."""
    found: dict[str, str] = {}
    images = [s.name for s in streams if s.kind == "images"]
    for stream in streams:
        is_time = stream.kind == "numbers" and stream.shape in ((), (1,)) and stream.dtype in ("float64", "int64", "uint64")
        if not is_time or not _TIME_WORDS & set(words(stream.name)):
            continue
        last = stream.name.rpartition("/")[2]
        camera = next((name for name in images if name.rpartition("/")[2] == last), None)
        found.setdefault(camera or "*", stream.name)
    return dict(sorted(found.items()))


def _timeline(description: Description) -> list[str]:
    rate = guess_rate(description)
    offsets = ", ".join(f"{_quoted(name)}: start" for name in description.other_clocks)
    inside = f"rate_hz: {rate.whole_hz}" + (f", clock_offsets: {{{offsets}}}" if offsets else "")
    return [f"  timeline: {{{inside}}}  # DECIDE: {rate.why}"]


def _state(state: list[Part]) -> list[str]:
    if not state:
        return ["  state: []  # DECIDE: the streams of the state; none of the recording's is one by its name"]
    return ["  state:                                               # order here = order in the vector", *map(_part_line, state)]


def _part_line(part: Part) -> str:
    joints = f", joints: [{', '.join(map(_quoted, part.joints))}]" if part.joints else ""
    names = ", ".join(map(_quoted, part.names))
    body = f"source: {_quoted(part.source)}, names: [{names}]{joints}, unit: {_quoted(part.unit)}, kind: {part.kind}"
    return f"    - {{{body}}}" + (f"  # DECIDE: {part.decide}" if part.decide else "")


def _action(action: list[Part]) -> list[str]:
    if not action:
        return ["  action: {from: next_state}                           # no commands are recorded: the next state is the action"]
    return ["  action:", *map(_part_line, action)]


def _cameras(description: Description) -> list[str]:
    cameras = cameras_of(description.streams)
    if not cameras:
        return ["  cameras: {}                                          # none in the recording"]
    channels = any(s.kind == "images" and s.encoding.startswith("raw") for s in description.streams) and description.format != "mcap"
    note = "  # raw images are taken for RGB; DECIDE: `channels: bgr` if faces look blue" if channels else ""
    return ["  cameras:" + note, *map(_camera_line, cameras)]


def _camera_line(camera: Camera) -> str:
    role = f", role: {camera.role}" if camera.role else ""
    return f"    {camera.name}: {{source: {_quoted(camera.source)}{role}}}" + (f"  # DECIDE: {camera.decide}" if camera.decide else "")


def _task(description: Description) -> list[str]:
    if description.task:
        said = " ".join(description.task.split())
        return [f"  task: {{from: recording}}                              # here: {said if len(said) <= 70 else said[:67] + '...'}"]
    return [f"  task: {{text: {_quoted(_NO_TASK)}}}  # the prompt; or {{from: folder}}. The recording has none"]


def _norm_stats(state: list[Part], action: list[Part]) -> list[str]:
    """Deltas are of like from like: with other dimensions in the action than in the state they mean nothing."""
    if not action or not state or [n for p in action for n in p.names] == [n for p in state for n in p.names]:
        return []
    return [
        "  norm_stats: {action_space: absolute}                 # the action's dimensions are not the state's, so no delta can be taken"
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "my_robot"


def _quoted(text: str) -> str:
    """A YAML scalar; quoted unless it is plainly a string, also inside braces."""
    if re.fullmatch(r"[A-Za-z/_][A-Za-z0-9/_.-]*", text) and text.lower() not in ("null", "true", "false", "yes", "no", "on", "off"):
        return text
    import yaml

    return yaml.safe_dump(text, default_style='"', width=10**6, allow_unicode=text.isprintable()).strip()
