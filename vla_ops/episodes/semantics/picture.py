"""A picture of what the actions are: each beside the state it belongs to, and how well the two fit at each lead."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.episodes.semantics.actions import LONGEST_LAG_S, correlation_at, partner
from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.episodes.semantics.verdict import Verdict, contradictions
from vla_ops.robot import RobotSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

_EXCERPT_S = 6.0
_COLOURS = {"agrees": "black", "cannot tell": "grey", "contradicts": "red"}


@dataclass(frozen=True)
class _Lane:
    """One action dimension: an excerpt in which it moves, and its correlation with the state at each lead, both float64 [n]."""

    name: str
    action: Float64
    state: Float64 | None
    correlations: Float64 | None


def draw_actions(seen: Seen, spec: RobotSpec, verdicts: Sequence[Verdict]) -> bytes:
    """PNG: a lane for each action dimension. Left: action and state where they move most. Right: their correlation over the lead."""
    from matplotlib.figure import Figure

    rate_hz = spec.timeline.rate_hz
    lanes = _lanes(seen.sample, spec)
    figure = Figure(figsize=(9, 1.0 + 0.42 * len(lanes)), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    for place, lane in enumerate(lanes):
        _draw_excerpt(left, place, lane, rate_hz)
        if lane.correlations is not None:
            _draw_correlations(right, place, lane.correlations, rate_hz)
    left.set(ylim=(len(lanes) - 0.5, -0.5), xlabel="s", title="state (solid) and action (dashed)")
    right.set(xlabel="lead of the action, ms", title="correlation with the state")
    right.axvline(0, color="lightgrey", linewidth=0.6, zorder=0)
    left.set_yticks(range(len(lanes)), [lane.name for lane in lanes])
    _colour_labels(left.get_yticklabels(), lanes, verdicts)
    for axes in (left, right):
        axes.tick_params(labelsize=7, length=0)
        axes.title.set_fontsize(8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_excerpt(axes: Axes, place: int, lane: _Lane, rate_hz: float) -> None:
    known = [values for values in (lane.state, lane.action) if values is not None]
    low, high = min(values.min() for values in known), max(values.max() for values in known)
    for values, style in ((lane.state, "C0-"), (lane.action, "C1--")):
        if values is not None:
            axes.plot(np.arange(len(values)) / rate_hz, place + 0.4 - 0.8 * (values - low) / (high - low or 1), style, linewidth=0.8)


def _draw_correlations(axes: Axes, place: int, correlations: Float64, rate_hz: float) -> None:
    """Between its own lowest and highest value, or a slow motion's would be flat; the largest stands beside its dot."""
    low, high = correlations.min(), correlations.max()
    heights = place + 0.4 - 0.8 * (correlations - low) / (high - low or 1)
    longest = len(correlations) // 2
    leads_ms = np.arange(-longest, longest + 1) * 1000 / rate_hz
    best = int(np.argmax(np.abs(correlations)))
    axes.plot(leads_ms, heights, "C2-", linewidth=0.8)
    axes.plot(leads_ms[best], heights[best], "C2.", markersize=5)
    axes.annotate(f"{correlations[best]:.3f}", (1.01, place), xycoords=("axes fraction", "data"), fontsize=7, va="center")


def _colour_labels(labels: Sequence[Text], lanes: Sequence[_Lane], verdicts: Sequence[Verdict]) -> None:
    answers = {verdict.subject: verdict.answer for verdict in verdicts}
    answers |= {verdict.subject: verdict.answer for verdict in contradictions(verdicts)}
    for label, lane in zip(labels, lanes, strict=True):
        label.set_color(_COLOURS[answers.get(f"action {lane.name}", "agrees")])


def _lanes(sample: Sequence[Series], spec: RobotSpec) -> list[_Lane]:
    state_dims, action_dims, rate_hz = spec.state_dims, spec.action_dims, spec.timeline.rate_hz
    lanes = []
    for k, dim in enumerate(action_dims):
        pair = partner(k, action_dims, state_dims)
        episode, start = _liveliest(sample, k, round(_EXCERPT_S * rate_hz))
        cut = slice(start, start + round(_EXCERPT_S * rate_hz))
        state = None if pair is None else episode.state[cut, pair]
        curve = None if pair is None else _curve(sample, k, pair, round(LONGEST_LAG_S * rate_hz))
        lanes.append(_Lane(dim.name, episode.action[cut, k], state, curve))
    return lanes


def _liveliest(sample: Sequence[Series], k: int, frames: int) -> tuple[Series, int]:
    """The episode and frame at which action `k` moves through most in the next `frames`, looked at every quarter of them."""
    places = [(episode, start) for episode in sample for start in range(0, max(1, len(episode.action) - frames), max(1, frames // 4))]
    return max(places, key=lambda place: float(np.ptp(place[0].action[place[1] : place[1] + frames, k])))


def _curve(sample: Sequence[Series], k: int, pair: int, longest: int) -> Float64:
    """Correlation of action and state at each lead from -longest to longest frames, [2 * longest + 1]."""
    return np.array([correlation_at(sample, k, pair, lead) for lead in range(-longest, longest + 1)])
