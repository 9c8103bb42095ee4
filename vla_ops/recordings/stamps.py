"""Int64 nanosecond stamps of formats whose samples carry none: counted from a rate, or read from an array of times."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vla_ops.errors import RecordingError
from vla_ops.recordings.base import Int64

# Integers below this as nanoseconds since 1970 would lie before 3 March 1973, and could be seconds, ms or us just as well.
_LEAST_EPOCH_NS = 10**14
# Beyond this, seconds are not seconds: the year 2286.
_MOST_EPOCH_S = 1e10
# float32 seconds are usable while their step is below a millisecond: up to 2.3 h since the start, never since 1970.
_COARSEST_STEP_S = 1e-3


def stamps_from_rate(start: int, stop: int, rate_hz: float) -> Int64:
    """Stamps of samples start..stop, each at exactly round(k * 1e9 / rate_hz)."""
    return np.array([round(k * 1e9 / rate_hz) for k in range(start, stop)], dtype=np.int64)


def stamps_from_times(times: npt.NDArray[np.generic], name: str) -> Int64:
    """Convert an array of times [n] or [n, 1] to ns: floats are seconds, integers from 1e14 on are ns.

    Raise RecordingError naming the array where the unit cannot be told, the precision is lost or a time is not finite.
    """
    if times.ndim == 2 and times.shape[1] == 1:
        times = times[:, 0]
    if times.ndim != 1 or times.dtype.kind not in "fiu":
        raise RecordingError(
            "not an array of times", stream=name, found=f"{times.dtype} {list(times.shape)}", expected="one number a sample"
        )
    if times.dtype.kind == "f":
        return _from_seconds(times, name)
    if len(times) and int(times.max()) < _LEAST_EPOCH_NS:
        raise RecordingError(
            "the unit of integer times cannot be told",
            stream=name,
            found=f"{times.dtype} from {times.min()} to {times.max()}",
            expected="ns since the epoch (1e14 or more) as integers, or seconds as float64",
            todo="Store the times in one of these two, or leave `times` out and set `recordings.source_rate_hz`.",
        )
    return times.astype(np.int64)


def _from_seconds(times: npt.NDArray[np.generic], name: str) -> Int64:
    seconds = times.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(seconds))
    if len(bad):
        raise RecordingError(f"{len(bad)} of {len(seconds)} times are not finite", stream=name, frame=int(bad[0]), found=seconds[bad[0]])
    largest = float(np.abs(seconds).max(initial=0.0))
    _check_precision(times.dtype, largest, name)
    if largest > _MOST_EPOCH_S:
        raise RecordingError(
            "floats this large are not seconds",
            stream=name,
            found=f"{times.dtype} up to {largest:.6g}",
            expected="seconds as float64, or ns as int64",
            todo="Store ns as int64: float64 cannot hold them exactly.",
        )
    # Whole and fractional seconds apart: their product with 1e9 in one float64 would be off by up to 128 ns.
    whole = np.floor(seconds)
    return whole.astype(np.int64) * 1_000_000_000 + np.rint((seconds - whole) * 1e9).astype(np.int64)


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
