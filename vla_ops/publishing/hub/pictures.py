"""A small picture from each camera of a dataset, for its card."""

from __future__ import annotations

import io
from pathlib import Path

from vla_ops.publishing.package import Package

PICTURES = "card"
_WIDTH, _QUALITY = 320, 85


def pictures_of(package: Package) -> dict[str, bytes]:
    """JPEGs by their names in the repository: of the first frame of each camera, 320 pixels wide. Without videos there are none."""
    # LeRobot v3.0 has videos/<key>/chunk-000/..., v2.1 has videos/chunk-000/<key>/...
    first: dict[str, Path] = {}
    for name, path in sorted(package.files.items()):
        if package.kind == "dataset" and name.startswith("videos/") and name.endswith(".mp4"):
            key = next(part for part in name.split("/")[1:] if not part.startswith("chunk-"))
            first.setdefault(key.removeprefix("observation.images."), path)
    return {f"{PICTURES}/{camera}.jpg": _first_frame(path) for camera, path in first.items()}


def _first_frame(path: Path) -> bytes:
    import av

    content = io.BytesIO()
    with av.open(str(path)) as container:
        image = next(container.decode(video=0)).to_image()
        image.thumbnail((_WIDTH, _WIDTH))
        image.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
