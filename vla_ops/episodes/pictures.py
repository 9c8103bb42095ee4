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
    """PNG: one small plot a dimension, state and action of the same name together, against seconds."""
    import pyarrow.parquet as pq
    from matplotlib.figure import Figure

    table = pq.read_table(episode.frames, columns=["observation.state", "action"])
    lines: dict[str, dict[str, np.ndarray]] = {}
    for label, column, names in (("state", "observation.state", episode.meta.state_names), ("action", "action", episode.meta.action_names)):
        values = table[column].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        for name, series in zip(names, values.T, strict=True):
            lines.setdefault(name, {})[label] = series
    columns = min(4, len(lines))
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(2.6 * columns, 1.3 * rows), dpi=90, layout="constrained")
    seconds = np.arange(table.num_rows) / episode.meta.rate_hz
    for place, (name, series) in enumerate(lines.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        for label, style in (("state", "C0-"), ("action", "C1--")):
            if label in series:
                axes.plot(seconds, series[label], style, linewidth=0.9, label=label)
        axes.set_title(name, fontsize=7, pad=2)
        axes.tick_params(labelsize=6)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", fontsize=7, ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
