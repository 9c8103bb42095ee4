"""Recordings that are good alone but cannot be in one dataset with the others: a camera of another size, another video header.

The recordings that are in the store already decide; in a first run the majority does. Otherwise the first odd recording would keep
all others from becoming a dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import Plan
from vla_ops.episodes.pool import Lost
from vla_ops.episodes.store import EpisodeMeta, RobotStore

# Camera -> what all episodes of a dataset must share.
type _Shape = tuple[tuple[str, str], ...]


def find_misfits(store: RobotStore, plan: Plan, outcomes: Sequence[Conversion | Lost]) -> Iterator[Conversion]:
    """Yield those of `outcomes` whose videos cannot be joined to the others', with the reason in `quarantined`."""
    fresh = [o for o in outcomes if isinstance(o, Conversion) and o.quarantined is None]
    if not fresh:
        return
    shapes = {o.recording: [_shape(e.meta) for e in store.read_episodes(o.recording)] for o in fresh}
    usual = _stored_shape(store, plan) or _most_common(list(shapes.values()))
    for outcome in fresh:
        odd = next((shape for shape in shapes[outcome.recording] if shape != usual), None)
        if odd is not None and usual is not None:
            yield replace(outcome, quarantined=_reason(outcome.recording, odd, usual), episodes=[], frames=0, size=0)


def _shape(meta: EpisodeMeta) -> _Shape:
    return tuple(
        (camera, f"{video.width}x{video.height} {video.codec} {video.pix_fmt}{video.header and f' header {video.header}'}")
        for camera, video in sorted(meta.videos.items())
    )


def _stored_shape(store: RobotStore, plan: Plan) -> _Shape | None:
    for found in plan.found:
        episodes = store.read_episodes(found.file.id) if found.state == "converted" else []
        if episodes:
            return _shape(episodes[0].meta)
    return None


def _most_common(shapes: Sequence[Sequence[_Shape]]) -> _Shape | None:
    counted = Counter(shape for recording in shapes for shape in recording).most_common(1)
    return counted[0][0] if counted else None


def _reason(recording: str, odd: _Shape, usual: _Shape) -> str:
    camera, found, expected = next((c, a, b) for (c, a), (_, b) in zip(odd, usual, strict=True) if a != b)
    return (
        f"the videos cannot be joined to those of the other recordings [file {recording}, camera {camera}]; found {found}; "
        f"expected {expected}. Convert such recordings as a robot of their own (`recordings.pattern`), or record alike; videos that "
        "differ only in their header join if they are encoded anew (`video: {codec: av1}`)."
    )
