"""Pictures of an episode for a person: a contact sheet of its cameras and plots of its state and action."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.episodes.store import Episode

if TYPE_CHECKING:
    from PIL.Image import Image

CONTACT_SHEET = "contact_sheet.jpg"
PLOT = "vectors.png"
_COLUMNS = 6
_THUMBNAIL_WIDTH = 160
_LABEL_HEIGHT = 14


def write_pictures(folder: Path, episode: Episode) -> None:
    """Write contact_sheet.jpg (if there are cameras) and vectors.png of `episode` to `folder`."""
    if episode.meta.videos:
        (folder / CONTACT_SHEET).write_bytes(contact_sheet(episode))
    (folder / PLOT).write_bytes(plot_vectors(episode))


def contact_sheet(episode: Episode) -> bytes:
    """JPEG: a row of evenly spaced frames for each camera, labelled with camera and time."""
    from PIL import Image, ImageDraw

    chosen = np.unique(np.linspace(0, episode.meta.length - 1, _COLUMNS).astype(int))
    rows = [(name, [_thumbnail(i) for i in _frames(episode.video(name), chosen)]) for name in episode.meta.videos]
    height = max(thumb.height for _, row in rows for thumb in row) + _LABEL_HEIGHT
    sheet = Image.new("RGB", (len(chosen) * _THUMBNAIL_WIDTH, len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (name, row) in enumerate(rows):
        for x, (frame, thumb) in enumerate(zip(chosen, row, strict=True)):
            label = f"{name}  " if x == 0 else ""
            draw.text((x * _THUMBNAIL_WIDTH + 2, y * height + 1), f"{label}{frame / episode.meta.rate_hz:.2f} s", fill="black")
            sheet.paste(thumb, (x * _THUMBNAIL_WIDTH, y * height + _LABEL_HEIGHT))
    return _encoded(sheet)


def _frames(path: Path, chosen: np.ndarray) -> list[Image]:
    import av

    images: list[Image] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.time_base is None or stream.average_rate is None:
            raise ValueError(f"{path} has no frame rate")
        step = 1 / (stream.average_rate * stream.time_base)
        for frame in chosen:
            wanted = round(int(frame) * step)
            container.seek(wanted, stream=stream, backward=True)
            images.append(next(f for f in container.decode(stream) if f.pts is not None and f.pts >= wanted).to_image())
    return images


def _thumbnail(image: Image) -> Image:
    return image.resize((_THUMBNAIL_WIDTH, max(1, round(image.height * _THUMBNAIL_WIDTH / image.width))))


def _encoded(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def plot_vectors(episode: Episode) -> bytes:
    """PNG: a lane for each dimension, state and action of the same name together, against seconds; its range stands at the right.

    One pair of axes for all: with a pair each, drawing takes longer than copying the videos.
    """
    from matplotlib.figure import Figure

    lanes = _lanes(episode)
    figure = Figure(figsize=(9, 0.7 + 0.42 * len(lanes)), dpi=80)
    axes = figure.add_axes((0.16, 0.4 / figure.get_figheight(), 0.66, 1 - 0.6 / figure.get_figheight()))
    seconds = np.arange(episode.meta.length) / episode.meta.rate_hz
    ranges = []
    for lane, series in enumerate(lanes.values()):
        low, high = min(map(np.nanmin, series.values())), max(map(np.nanmax, series.values()))
        for label, style in _STYLES.items():
            if label in series:
                axes.plot(seconds, lane + 0.42 - 0.84 * _within(series[label], low, high), style, linewidth=0.8)
        ranges.append(f"{low:.4g} .. {high:.4g}")
    axes.set(ylim=(len(lanes) - 0.5, -0.5), xlim=(0, seconds[-1]), xlabel="s")
    axes.set_yticks(range(len(lanes)), lanes)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(lanes)), ranges)
    for each in (axes, right):
        each.tick_params(labelsize=7, length=0)
    axes.legend(axes.lines[:2], _STYLES, loc="lower right", bbox_to_anchor=(1, 1), fontsize=7, ncols=2, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


_STYLES = {"state": "C0-", "action": "C1--"}


def _lanes(episode: Episode) -> dict[str, dict[str, np.ndarray]]:
    """Dimension -> its state and action over time, as far as there is one of this name."""
    import pyarrow.parquet as pq

    table = pq.read_table(episode.frames, columns=["observation.state", "action"])
    lanes: dict[str, dict[str, np.ndarray]] = {}
    for label, column, names in (("state", "observation.state", episode.meta.state_names), ("action", "action", episode.meta.action_names)):
        values = table[column].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        for name, series in zip(names, values.T, strict=True):
            lanes.setdefault(name, {})[label] = series
    return lanes


def _within(series: np.ndarray, low: float, high: float) -> np.ndarray:
    """`series` scaled to 0..1; a constant lies in the middle."""
    return (series - low) / (high - low) if high > low else np.full(len(series), 0.5)
