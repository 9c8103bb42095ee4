"""The whole way through LeRobot: raw observations, its processors, its policy, its processors, and what comes out in robot units."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import VlaOpsError
from vla_ops.export.lerobot_layout import STATE, LeRobotPolicy, camera_keys, load_lerobot, tokenizer_of
from vla_ops.export.parity import Float64, Row
from vla_ops.export.plan import Precision
from vla_ops.export.samples import Samples
from vla_ops.export.source import ExportSource

_TOKENS, _TOKEN_MASK = "observation.language.tokens", "observation.language.attention_mask"
# A state on the border between two of pi0.5's 256 steps may fall to either side in float32: one token of a prompt.
TOKENS_LIMIT = 1e-2


class AsTransformers:
    """A tokenizer of this project called as LeRobot calls one of transformers', for one that would have to be fetched."""

    def __init__(self, tokenizer: Any, *, splits_line_end: bool) -> None:
        self._tokenizer, self._splits = tokenizer, splits_line_end

    def __call__(self, texts: str | list[str], *, max_length: int, **_: Any) -> dict[str, Any]:
        """Ids and mask [B, max_length]; the last line end of pi0 is a token of its own."""
        import torch

        rows = [self._ids(text)[:max_length] for text in ([texts] if isinstance(texts, str) else texts)]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (max_length - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}

    def _ids(self, text: str) -> list[int]:
        from vla_ops.policies.prompts import clean

        if not self._splits:
            return self._tokenizer.encode(text, bos=True)
        return self._tokenizer.encode(clean(text), bos=True) + self._tokenizer.encode("\n")


def through_lerobot(loaded: LeRobotPolicy, source: ExportSource, samples: Samples, *, steps: int) -> tuple[Float64, Row]:
    """Chunks [B, H, a] in robot units as LeRobot gives them, and how many tokens are others than the model was trained with.

    A camera that is masked is not sent at all. Needs samples in robot units.
    """
    import torch

    chunks, differ, total = [], 0, 0
    for row, masked in enumerate(samples.masked_cameras()):
        one = samples.rows(row, row + 1)
        batch = loaded.preprocess(raw_observation(source, one, masked))
        expected, given = one.inputs["tokenized_prompt"], batch[_TOKENS].numpy()
        differ, total = differ + int((expected != given).sum()), total + int(one.inputs["tokenized_prompt_mask"].sum())
        differ += int((one.inputs["tokenized_prompt_mask"] != batch[_TOKEN_MASK].numpy()).sum())
        with torch.inference_mode():
            chunk = loaded.policy.predict_action_chunk(batch, noise=torch.from_numpy(one.noise), num_steps=steps)
        chunks.append(loaded.postprocess(chunk).double().numpy())
    precision: Precision = "float32" if loaded.policy.config.dtype == "float32" else "bfloat16"
    return np.concatenate(chunks), Row("tokens that differ, of all", precision, float(differ) / max(total, 1), 1.0, TOKENS_LIMIT)


def raw_observation(source: ExportSource, one: Samples, masked: tuple[str, ...]) -> dict[str, Any]:
    """What a robot's own loop hands LeRobot's preprocessor: images [3, H, W] from 0 to 1, the state in robot units, the task's text."""
    import torch

    if one.observation is None:
        raise VlaOpsError("made up observations have no robot units", todo="Give a dataset.")
    sent = {key: slot for slot, key in camera_keys(source).items() if slot not in masked}
    prompt = one.observation.prompt
    said = prompt if isinstance(prompt, str) else next(iter(prompt or [""]))
    default = source.transforms.prompts.default if source.transforms else None
    images = {key: torch.from_numpy(_image(one, slot)) for key, slot in sent.items()}
    return {**images, STATE: torch.from_numpy(np.asarray(one.observation.state[0], np.float32)), "task": said or default or ""}


def load_for_gate(folder: Any, source: ExportSource) -> tuple[LeRobotPolicy, str | None]:
    """Load an export; with this project's tokenizer, and a note of it, where the one it names cannot be had here."""
    try:
        return load_lerobot(folder), None
    # LeRobot raises ValueError for whatever goes wrong in the making of a step.
    except (OSError, ValueError) as error:
        tokenizer = tokenizer_of(source)
        if tokenizer is None or "tokenizer_processor" not in str(error):
            raise
        in_prompt = source.transforms is not None and source.transforms.prompts.discrete_state
        note = f"transformers' tokenizer could not be had here, so its ids were not compared: {str(error).splitlines()[0][:120]}"
        return load_lerobot(folder, tokenizer=AsTransformers(tokenizer, splits_line_end=not in_prompt)), note


def _image(one: Samples, slot: str) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(np.moveaxis(one.inputs["image"][slot][0], -1, 0)).astype(np.float32) / np.float32(255)
