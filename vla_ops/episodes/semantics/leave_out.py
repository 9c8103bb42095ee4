"""Median and extremes of a table's columns without some of its rows, for many choices of rows: sorted once, then a look a row left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.seen import Float64

type Places = npt.NDArray[np.intp]


class LeaveOut:
    """The columns of `values` [rows, d], each sorted."""

    def __init__(self, values: Float64) -> None:
        order = np.argsort(values, axis=0, kind="stable")
        self.sorted = np.take_along_axis(values, order, axis=0)
        # Where each row stands in the sorted column.
        self.rank = np.empty_like(order)
        np.put_along_axis(self.rank, order, np.arange(len(values))[:, None], axis=0)

    def median(self, rows: Places) -> Float64:
        """The median of each column without `rows`, [d]."""
        left = len(self.sorted) - len(rows)
        return (self._at((left - 1) // 2, rows) + self._at(left // 2, rows)) / 2

    def extremes(self, rows: Places) -> tuple[Float64, Float64]:
        """The lowest and the highest value of each column without `rows`, each [d]."""
        return self._at(0, rows), self._at(len(self.sorted) - len(rows) - 1, rows)

    def _at(self, place: int, rows: Places) -> Float64:
        """What stands at `place` of each sorted column when `rows` are taken out of it."""
        out = np.sort(self.rank[rows], axis=0)
        # A row left out moves the place by one if it stands before it.
        before = (out - np.arange(len(rows))[:, None] <= place).sum(axis=0)
        return self.sorted[place + before, np.arange(self.sorted.shape[1])]
