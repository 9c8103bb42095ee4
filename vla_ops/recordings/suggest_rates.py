"""Guess the rate of a recording: from its stamps, from what it says of itself, else from the layout that its arrays are in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vla_ops.recordings.inspect import Description, rate_of

_RATE_KEYS = frozenset({"control_freq", "fps", "rate", "rate_hz", "frequency", "control_frequency", "control_hz", "hz"})
# Attributes that are JSON, as robomimic's env_args.
_RATE_IN_JSON = re.compile(r'"(control_freq|fps)": ?([0-9.]+)')
_DEFAULT_HZ = 30


@dataclass(frozen=True)
class Rate:
    """A rate in Hz, and where it is from."""

    hz: float
    why: str

    @property
    def whole_hz(self) -> int:
        """The nearest rate that a timeline takes."""
        return max(1, min(1000, round(self.hz)))


def guess_rate(description: Description) -> Rate:
    """The rate that the recording's stamps have, that it names, or that is usual for its layout."""
    return _measured(description) or _said(description) or _usual(description) or Rate(_DEFAULT_HZ, "not in the file")


def is_demo(description: Description) -> bool:
    """True for robomimic files: their actions are a controller's, not joint targets."""
    return description.format == "hdf5" and any(s.name == "actions" for s in description.streams)


def _measured(description: Description) -> Rate | None:
    cameras = [rate for s in description.streams if s.kind == "images" and (rate := rate_of(s))]
    rates = cameras or [rate for s in description.streams if s.kind == "numbers" and (rate := rate_of(s))]
    return Rate(min(rates), f"the slowest {'camera' if cameras else 'stream'}'s rate; a lower one also works") if rates else None


def _said(description: Description) -> Rate | None:
    for key, value in description.metadata.items():
        name = key.rpartition(".")[2]
        rate = _number(value) if name in _RATE_KEYS else None
        if rate is not None:
            return Rate(rate, f"the file's {name}")
    for key, value in description.metadata.items():
        found = _RATE_IN_JSON.search(value)
        rate = _number(found[2]) if found else None
        if found and rate is not None:
            return Rate(rate, f"{found[1]} in the file's {key.rpartition('.')[2]}")
    return None


def _number(text: str) -> float | None:
    """A rate that a robot can have, in Hz."""
    try:
        rate = float(text)
    except ValueError:
        return None
    return rate if 0.1 <= rate <= 10_000 else None


def _usual(description: Description) -> Rate | None:
    names = {s.name for s in description.streams}
    if is_demo(description):
        return Rate(20, "not in the file; 20 is usual for robosuite, robomimic and LIBERO")
    if any("qpos" in name for name in names):
        return Rate(50, "not in the file; 50 is usual for ALOHA")
    if "data/camera0_rgb" in names:
        return Rate(60, "not in the file; UMI cameras run at 59.94")
    if {"data/keypoint", "data/n_contacts"} <= names:
        return Rate(10, "not in the file; 10 is usual for Push-T")
    return None
