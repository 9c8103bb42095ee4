from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_ops.episodes.semantics.leave_out import LeaveOut


@given(st.data())
def test_what_is_left_is_as_numpy_has_it(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 3))
    values = data.draw(arrays(np.float64, (rows, columns), elements=st.integers(-3, 3).map(float)))
    left_out = data.draw(st.lists(st.integers(0, rows - 1), unique=True, max_size=rows - 1))
    kept = np.delete(values, left_out, axis=0)
    without, places = LeaveOut(values), np.array(left_out, dtype=np.intp)
    np.testing.assert_array_equal(without.median(places), np.median(kept, axis=0))
    low, high = without.extremes(places)
    np.testing.assert_array_equal(low, kept.min(axis=0))
    np.testing.assert_array_equal(high, kept.max(axis=0))
