"""One batch as it is in the dataset: robot units, absolute actions, images of the model's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vla_ops.training.data.columns import episode_name
from vla_ops.training.data.frames import Bools, Float32, Frames, Int64

if TYPE_CHECKING:
    from vla_ops.policies.transforms import TrainingRow

type UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples; all arrays have a leading [B]."""

    # Camera -> [size, size, 3], black where its mask [] says that the frame's source has no such camera.
    images: Mapping[str, UInt8]
    image_masks: Mapping[str, Bools]
    # [d]
    state: Float32
    # [H, a] from the frame on; past the episode's end the last action again, where `action_is_pad` [H] is True.
    actions: Float32
    action_is_pad: Bools
    # Task texts; "" where the dataset has none.
    prompts: tuple[str, ...]
    # The episode's index, the frame in it, and the frame's index in the dataset.
    episode: Int64
    frame: Int64
    index: Int64
    # False in rows that only fill up the last batch of a validation set.
    valid: Bools
    # [d] and [a], of mixtures: what of the vectors the frame's source has.
    state_mask: Bools | None = None
    action_mask: Bools | None = None
    # Of mixtures: the name of each sample's source.
    source: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def row(self, k: int) -> Batch:
        """Sample k as a batch of one."""
        return Batch(**{field.name: _cut(getattr(self, field.name), k) for field in fields(self)})

    def places(self) -> list[str]:
        """Where each sample is from, for messages."""
        return [f"{episode_name(int(e))} frame {f}" for e, f in zip(self.episode, self.frame, strict=True)]

    def training_row(self) -> TrainingRow:
        """What `PolicyTransforms.forward_training` takes."""
        from vla_ops.policies.transforms import Observation, TrainingRow

        return TrainingRow(Observation(self.state, self.images, self.prompts, source=self.source), self.actions)


def numbers_of(frames: Frames, rows: Int64, *, horizon: int, valid: Bools) -> dict[str, Any]:
    """All of a batch but the images."""
    places = frames.place_of(rows)
    actions, is_pad = frames.chunk(rows, horizon)
    masks = {camera: frames.camera_masks[camera][rows] for camera in frames.cameras if camera in frames.camera_masks}
    return {
        "image_masks": {camera: masks.get(camera, np.ones(len(rows), bool)) for camera in frames.cameras},
        "state": frames.states[rows],
        "actions": actions,
        "action_is_pad": is_pad,
        "prompts": tuple(frames.texts[k] if k >= 0 else "" for k in frames.text_of[rows]),
        "episode": np.array([frames.places[k].index for k in places], np.int64),
        "frame": rows - frames.starts[places],
        "index": frames.index[rows],
        "valid": valid,
        "state_mask": None if frames.state_mask is None else frames.state_mask[rows],
        "action_mask": None if frames.action_mask is None else frames.action_mask[rows],
        "source": None if frames.source_of is None else tuple(frames.sources[k] for k in frames.source_of[rows]),
    }


def _cut(value: Any, k: int) -> Any:
    if value is None:
        return None
    return {name: part[k : k + 1] for name, part in value.items()} if isinstance(value, Mapping) else value[k : k + 1]
