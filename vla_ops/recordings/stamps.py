"""Int64 nanosecond stamps of formats whose samples carry none: counted from a rate, or read from an array of times."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from vla_ops.errors import RecordingError
from vla_ops.recordings.base import Float64, Int64

# Nanoseconds in each unit that times are stored in.
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
# Seconds since 1970 from 2001 to 2261, where int64 ns end. In other units these are other powers of ten, so that the size of
# a time since 1970 says its unit.
_EPOCH_S = (10**9, 92 * 10**8)
# Rates that a robot's streams have. Units are a factor of 1000 apart, so that between 2 and 500 Hz only one unit fits.
_RATES_HZ = (0.5, 2000.0)
# What would last longer than a day is in another unit.
_LONGEST_S = 86_400.0
# float32 seconds are usable while their step is below a millisecond: up to 2.3 h since the start, never since 1970.
_COARSEST_STEP_S = 1e-3
_UNIT_IN_NAME = re.compile(r"_(s|sec|ms|us|ns)$")
_EXPECTED = "s, ms, us or ns since 1970, or since any start at 0.5 to 2000 Hz; floats not since 1970 are seconds"


def stamps_from_rate(start: int, stop: int, rate_hz: float) -> Int64:
    """Stamps of samples start..stop, each at exactly round(k * 1e9 / rate_hz)."""
    return np.array([round(k * 1e9 / rate_hz) for k in range(start, stop)], dtype=np.int64)


def stamps_from_times(times: npt.NDArray[np.generic], name: str) -> Int64:
    """Convert an array of times [n] or [n, 1] to ns. Their unit is told by their size where they count from 1970, else by their rate.

    Floats that do not count from 1970 are seconds. A name that ends in `_s`, `_ms`, `_us` or `_ns` decides where the numbers leave
    it open. Raise RecordingError naming the array where the unit cannot be told, the precision is lost or a time is not finite.
    """
    if times.ndim == 2 and times.shape[1] == 1:
        times = times[:, 0]
    if times.ndim != 1 or times.dtype.kind not in "fiu":
        raise RecordingError(
            "not an array of times", stream=name, found=f"{times.dtype} {list(times.shape)}", expected="one number a sample"
        )
    if not len(times):
        return np.empty(0, np.int64)
    if times.dtype.kind == "f":
        return _from_floats(times, name)
    factor = _UNITS[_unit(times, name)]
    return times.astype(np.int64) * factor


def _from_floats(times: npt.NDArray[np.generic], name: str) -> Int64:
    values = times.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise RecordingError(f"{len(bad)} of {len(values)} times are not finite", stream=name, frame=int(bad[0]), found=values[bad[0]])
    _check_precision(times.dtype, float(np.abs(values).max()), name)
    factor = _UNITS[_unit(times, name)]
    if factor == 1:
        raise RecordingError(
            "floats this large are not exact",
            stream=name,
            found=f"{times.dtype} up to {float(values.max()):.6g}, as ns are",
            expected="seconds as float64, or ns as int64",
            todo="Store ns as int64: float64 cannot hold them exactly.",
        )
    # The whole and the fractional part apart: their product with 1e9 in one float64 would be off by up to 128 ns.
    whole = np.floor(values)
    return whole.astype(np.int64) * factor + np.rint((values - whole) * factor).astype(np.int64)


def _unit(times: npt.NDArray[np.generic], name: str) -> str:
    """The unit of an array of times. Raise RecordingError if it cannot be told."""
    fitting, since_1970, named = _fitting_units(times), _epoch_unit(times), _named_unit(name)
    told = _told(fitting, since_1970, is_float=times.dtype.kind == "f")
    if told is None and named in {*fitting, since_1970}:
        told = named
    if told is None or (named is not None and named != told):
        first, last = times[0], times[-1]
        what = "the unit of the times cannot be told" if told is None else f"the times are not in {named}, as their name says"
        raise RecordingError(
            what,
            stream=name,
            found=f"{times.dtype}, {len(times)} from {first} to {last}" + (f", which look like {told}" if told else ""),
            expected=_EXPECTED,
            todo="Store ns since 1970 as int64, or seconds as float64; or leave `times` out and set `recordings.source_rate_hz`.",
        )
    return told


def _told(fitting: list[str], since_1970: str | None, *, is_float: bool) -> str | None:
    """The unit where there is one answer: what counts from 1970 at a likely rate, or the only unit that gives one."""
    # ns of a machine that has run for weeks are as large as us since 1970; then the rate tells them apart.
    if since_1970 in fitting or (since_1970 and (is_float or not fitting)):
        return since_1970
    if is_float:
        return "s" if "s" in fitting else None
    return fitting[0] if len(fitting) == 1 and since_1970 is None else None


def _fitting_units(times: npt.NDArray[np.generic]) -> list[str]:
    """The units in which the times lie before 2261 and come at a likely rate, both in the middle and in the mean."""
    values: Float64 = times.astype(np.float64)
    possible = [unit for unit, ns in _UNITS.items() if np.abs(values).max() * ns <= _EPOCH_S[1] * 1e9]
    # From the exact values: float64 would round steps of ns since 1970 to 256.
    steps = np.abs(np.diff(times if times.dtype.kind == "f" else times.astype(np.int64)))
    moved = steps[steps > 0]
    if not len(moved):
        # One sample, or many at one time: seconds if floats, else unknown.
        return [unit for unit in possible if unit == "s" and times.dtype.kind == "f"]
    typical = (float(np.median(moved)), float(values.max() - values.min()) / len(moved))
    low, high = _RATES_HZ
    return [unit for unit in possible if all(low <= 1e9 / (step * _UNITS[unit]) <= high for step in typical if step)]


def _epoch_unit(times: npt.NDArray[np.generic]) -> str | None:
    """The unit in which all times lie between 2001 and 2261 and last at most a day, if there is one."""
    low, high = float(times.min()), float(times.max())  # pyright: ignore[reportArgumentType]
    for unit, ns in _UNITS.items():
        start_s, stop_s = low * ns / 1e9, high * ns / 1e9
        if _EPOCH_S[0] <= start_s and stop_s < _EPOCH_S[1] and stop_s - start_s <= _LONGEST_S:
            return unit
    return None


def _named_unit(name: str) -> str | None:
    found = _UNIT_IN_NAME.search(name.lower())
    return None if found is None else found[1].replace("sec", "s")


def _check_precision(dtype: np.dtype[np.generic], largest: float, name: str) -> None:
    if dtype.itemsize >= 8:
        return
    step = float(np.spacing(np.asarray(largest, dtype)))
    if step > _COARSEST_STEP_S:
        raise RecordingError(
            f"{dtype} cannot hold these times: neighbouring values are {step:.3g} s apart",
            stream=name,
            found=f"{dtype} up to {largest:.6g} s",
            expected="float64 seconds or int64 ns",
            todo="Record float64, name another array in `recordings.times`, or leave it out and set `recordings.source_rate_hz`.",
        )
