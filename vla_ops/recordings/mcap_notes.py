"""What an MCAP file says beside its messages: metadata records, the task, joint names, and the list of video attachments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.attachments import AttachedVideo
from vla_ops.recordings.base import Int64
from vla_ops.recordings.mcap_index import McapIndex
from vla_ops.recordings.mcap_scan import AttachmentPlace, attachment_place, read_metadata

# rosbag2 keeps kilobytes of YAML in one value; a person wants to see the beginning.
LONGEST_TEXT = 300
# AIRBOT: `/left/follow/arm/joint_state/position` belongs to the component `/left/follow`, whose `arm/joint_names` it is.
_JOINT_STATE = "/joint_state/"
# What AIRBOT's component_info says of which robot a component is.
_IDENTITY = ("product_type", "sn", "is_sim", "arm_types", "eef_types")


class McapNotes:
    """Everything in an MCAP file that is no message."""

    def __init__(self, index: McapIndex) -> None:
        self._index = index

    @cached_property
    def _records(self) -> dict[str, dict[str, str]]:
        """Metadata records by name; of two with one name, the later value of a key."""
        found: dict[str, dict[str, str]] = {}
        for index in self._index.contents.metadata:
            record = read_metadata(self._index.file, index)
            found.setdefault(record.name, {}).update({key: _plain(value) for key, value in record.metadata.items()})
        return found

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """`<record>.<key>` -> text, long values cut: the task first, then `component_info.<component>.<key>`, then all other records."""
        records = {f"{name}.{key}": value for name, values in self._records.items() for key, value in values.items()}
        task = {key: value for key, value in records.items() if key.startswith("task_info.")}
        return {key: _shortened(value) for key, value in {**task, **self._components, **records}.items()}

    @property
    def task(self) -> str | None:
        """The task's description or, where it is empty, its name."""
        info = self._records.get("task_info", {})
        return next((text for text in (info.get("task_description"), info.get("task_name")) if text and text.strip()), None)

    @cached_property
    def _attachments(self) -> list[AttachmentPlace]:
        return [attachment_place(self._index.file, index.offset) for index in self._index.contents.attachments]

    @cached_property
    def videos(self) -> dict[str, AttachedVideo]:
        """Video attachments by name."""
        places = [place for place in self._attachments if place.media_type.startswith("video/")]
        return {place.name: AttachedVideo(self._index.file, place, self._log_stamps) for place in places}

    def joint_names(self, topic: str, width: int) -> tuple[str, ...]:
        """The names that AIRBOT's component_info gives the joints of a topic; empty where it does not or the width differs."""
        component, _, part = topic.partition(_JOINT_STATE)[0].rpartition("/")
        info = self._component_info.get(component)
        names = info.get(f"{part}/joint_names") if isinstance(info, dict) and _JOINT_STATE in topic else None
        return tuple(map(str, names)) if isinstance(names, list) and len(names) == width else ()

    @property
    def _components(self) -> dict[str, str]:
        """What component_info says of which robot each component is."""
        return {
            f"component_info.{component}.{key}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for component, info in self._component_info.items()
            for key, value in (info.items() if isinstance(info, dict) else ())
            if key in _IDENTITY
        }

    @cached_property
    def _component_info(self) -> Mapping[str, Any]:
        value = self._json("component_info")
        return value if isinstance(value, dict) else {}

    @cached_property
    def _log_stamps(self) -> Int64 | None:
        value = self._json("log_stamps")
        is_stamps = isinstance(value, list) and all(isinstance(stamp, int) for stamp in value)
        return np.array(value, np.int64) if is_stamps else None

    def _json(self, name: str) -> Any:
        place = next((place for place in self._attachments if place.name == name), None)
        if place is None:
            return None
        try:
            return json.loads(self._index.file.read(place.start, place.size))
        except ValueError as error:
            raise RecordingFormatError("an attachment is not the JSON it should be", attachment=name) from error


def _plain(value: str) -> str:
    """Text as it is meant: newer AIRBOT collectors write every value as JSON, older ones as it is."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, str) else value


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
