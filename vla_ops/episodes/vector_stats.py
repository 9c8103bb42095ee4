"""LeRobot's per-episode statistics of a vector feature, exact where LeRobot approximates.

Mean and std are float64 (LeRobot's E[x^2] - E[x]^2 in float32 loses a held joint's std). A quantile is the value of rank
`ceil(q * n)`, which is what LeRobot's 5,000-bin histogram approaches: the two differ by at most one bin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import QualityError

QUANTILES: dict[str, float] = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
STATS: tuple[str, ...] = ("min", "max", "mean", "std", "count", *QUANTILES)


def vector_stats(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Return {min, max, mean, std, count, q01, q10, q50, q90, q99} of `values` [n, d] as lists of d (count: of 1).

    Raise QualityError for no rows, and for NaN or Inf, naming the dimension and the frame.
    """
    if values.ndim != 2 or values.shape[0] == 0:
        raise QualityError("no statistics of an empty vector feature", found=f"shape {values.shape}", expected="[n >= 1, d]")
    _refuse_nonfinite(values)
    exact = values.astype(np.float64)
    ordered = np.sort(exact, axis=0)
    stats: dict[str, Any] = {
        "min": ordered[0].tolist(),
        "max": ordered[-1].tolist(),
        "mean": exact.mean(axis=0).tolist(),
        "std": exact.std(axis=0).tolist(),
        "count": [len(values)],
    }
    for name, q in QUANTILES.items():
        # The product as LeRobot rounds it: 0.1 * 30 is just above 3, so the fourth value is taken, not the third.
        rank = max(int(np.ceil(q * len(values))), 1)
        stats[name] = ordered[rank - 1].tolist()
    return stats


def _refuse_nonfinite(values: npt.NDArray[Any]) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        frame, dimension = (int(k) for k in np.argwhere(~finite)[0])
        raise QualityError(
            "a value is not finite, so the episode has no statistics",
            found=f"{values[frame, dimension]} ({int((~finite).sum())} such values)",
            dimension=dimension,
            frame=frame,
            todo="Leave quality.nonfinite_values at `quarantine`, or repair the recording.",
        )
