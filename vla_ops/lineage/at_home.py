"""Steps whose VLA_OPS_HOME is in a store: what they read is fetched before, and what they made is sent before Dagster hears of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg

from vla_ops.homes.at_home import at_home
from vla_ops.homes.robot_home import Wanted


def done_at_home[**P, R](needs: Callable[[], Mapping[str, Wanted]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate what an asset computes; `needs` are asked when it runs. The first argument is Dagster's context."""

    def decorate(compute: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(compute)
        def computed(*args: P.args, **more: P.kwargs) -> R:
            with at_home(needs(), _say(args[0])):
                return compute(*args, **more)

        @functools.wraps(compute)
        def yielded(*args: P.args, **more: P.kwargs) -> Iterator[Any]:
            events, failure = list[Any](), None
            with at_home(needs(), _say(args[0])):
                try:
                    events.extend(compute(*args, **more))  # type: ignore[arg-type]
                # What the step found wrong; what it made is at home even so.
                except dg.Failure as error:
                    failure = error
            yield from events
            if failure is not None:
                raise failure

        return yielded if inspect.isgeneratorfunction(compute) else computed  # type: ignore[return-value]

    return decorate


def _say(context: Any) -> Callable[[str], None]:
    return context.log.info
