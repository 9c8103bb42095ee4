"""Steps whose VLA_OPS_HOME is in a store: what they read is fetched before, and what they made is sent before Dagster hears of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg

from vla_ops.homes.at_home import at_home
from vla_ops.homes.robot_home import Wanted

type _Compute = Callable[[dg.AssetExecutionContext], Any]


def done_at_home(needs: Callable[[], Mapping[str, Wanted]]) -> Callable[[_Compute], _Compute]:
    """Decorate what an asset computes of Dagster's context alone; `needs` are asked when it runs."""

    def decorate(compute: _Compute) -> _Compute:
        @functools.wraps(compute)
        def computed(context: dg.AssetExecutionContext) -> Any:
            with at_home(needs(), context.log.info):
                return compute(context)

        @functools.wraps(compute)
        def yielded(context: dg.AssetExecutionContext) -> Iterator[Any]:
            events, failure = list[Any](), None
            with at_home(needs(), context.log.info):
                try:
                    events.extend(compute(context))
                # What the step found wrong; what it made is at home even so.
                except dg.Failure as error:
                    failure = error
            yield from events
            if failure is not None:
                raise failure

        return yielded if inspect.isgeneratorfunction(compute) else computed

    return decorate
