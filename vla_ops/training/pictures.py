"""Pictures of a run as PNG: what the model sees, what it predicts, how the loss falls. No display and no global state of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vla_ops.training.validation import ActionPlot

_PANEL_INCHES, _DPI = 2.2, 80
# Beyond that a picture is too small to read and too large for an event log.
_MOST_SAMPLES, _MOST_DIMS = 4, 32


def camera_views(inputs: Mapping[str, Any], *, prompts: Sequence[str] = (), places: Sequence[str] = ()) -> bytes:
    """Draw the images of a batch as the model is given them, a sample a row and a camera slot a column; masked slots say so.

    `inputs` has `image` {slot: [B, H, W, 3] uint8, or floats -1 .. 1} and `image_mask` {slot: bool [B]}.
    """
    slots = list(inputs["image"])
    count = min(_MOST_SAMPLES, len(inputs["image"][slots[0]]))
    figure = _figure(_PANEL_INCHES * len(slots), (_PANEL_INCHES + 0.35) * count)
    panels = figure.subplots(count, len(slots), squeeze=False)
    for row in range(count):
        for column, slot in enumerate(slots):
            panel = panels[row][column]
            panel.set_axis_off()
            panel.imshow(_pixels(np.asarray(inputs["image"][slot][row])))
            if row == 0:
                panel.set_title(slot, fontsize=8)
            if not bool(np.asarray(inputs["image_mask"][slot])[row]):
                panel.text(0.5, 0.5, "masked", color="white", ha="center", transform=panel.transAxes)
        said = " - ".join(text[row] for text in (places, prompts) if row < len(text))
        panels[row][0].text(0, -0.04, said, fontsize=7, va="top", transform=panels[row][0].transAxes, parse_math=False)
    return _png(figure)


def action_plots(plots: Sequence[ActionPlot], *, title: str = "") -> bytes:
    """Draw predicted against recorded actions, a chunk a column and a dimension a row, in robot units; what is past the end is dashed."""
    dims = plots[0].dims[:_MOST_DIMS]
    figure = _figure(3.2 * len(plots), 1.1 * len(dims) + 0.6)
    panels = figure.subplots(len(dims), len(plots), squeeze=False, sharex="col")
    for column, plot in enumerate(plots):
        panels[0][column].set_title(plot.title, fontsize=8, parse_math=False)
        panels[-1][column].set_xlabel("s", fontsize=7)
        for k in range(len(dims)):
            _draw_chunk(panels[k][column], plot, k)
    for k, (name, unit) in enumerate(dims):
        panels[k][0].set_ylabel(f"{name}\n{unit}", fontsize=7, parse_math=False)
    panels[0][0].legend(fontsize=6, loc="best")
    figure.suptitle(title, fontsize=9)
    return _png(figure)


def curves(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """Draw metrics by step, each of `names` in a panel of its own; lines without it are left out."""
    figure = _figure(3.6 * len(names), 2.6)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        panel.plot([step for step, _ in points], [value for _, value in points], linewidth=1, marker="." if len(points) < 20 else None)
        panel.set_title(name, fontsize=8)
        panel.set_xlabel("step", fontsize=7)
        panel.tick_params(labelsize=6)
    return _png(figure)


def _draw_chunk(panel: Any, plot: ActionPlot, k: int) -> None:
    panel.tick_params(labelsize=6)
    for values, label, colour in ((plot.recorded, "recorded", "black"), (plot.predicted, "predicted", "tab:red")):
        there = int((~plot.is_pad).sum())
        panel.plot(plot.time_s[:there], values[:there, k], color=colour, linewidth=1, label=label)
        # From the last real step on, so that the line is whole.
        panel.plot(plot.time_s[max(there - 1, 0) :], values[max(there - 1, 0) :, k], color=colour, linewidth=0.8, linestyle=":")


def _pixels(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return image if image.dtype == np.uint8 else np.clip((image + 1) * 127.5, 0, 255).astype(np.uint8)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
