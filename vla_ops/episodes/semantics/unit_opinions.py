"""What a rule found of the unit of one part: that it is right, wrong in some or all episodes, or not to be told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.parts import Ranges
from vla_ops.episodes.semantics.verdict import Answer

type Mask = npt.NDArray[np.bool_]

# Two turns each way: some wrists turn so far, and nothing in radians that is not a wheel goes further.
FURTHEST_RAD = 13.0


@dataclass(frozen=True)
class Opinion:
    """`about` [d] and `episodes` [e] are what it is of; `todo` is the YAML to write where `writes`, else what to do."""

    answer: Answer
    about: Mask
    episodes: Mask
    why: str = ""
    todo: str = ""
    writes: bool = True


def agrees(ranges: Ranges, why: str = "") -> Opinion:
    """The values are what the unit would have them."""
    return Opinion("agrees", *_all(ranges), why)


def unknown(ranges: Ranges, why: str) -> Opinion:
    """The values may be in this unit or in another."""
    return Opinion("cannot tell", *_all(ranges), why)


def wrong(ranges: Ranges, episodes: Mask | np.bool, why: str, todo: str, *, about: Mask | None = None, writes: bool = True) -> Opinion:
    """No robot has such values in this unit."""
    return Opinion("contradicts", _all(ranges)[0] if about is None else about, np.atleast_1d(episodes), why, todo, writes)


def _all(ranges: Ranges) -> tuple[Mask, Mask]:
    return np.ones(ranges.low.shape[1], bool), np.ones(len(ranges.low), bool)
