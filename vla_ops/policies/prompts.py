r"""Prompts in the forms that pi0 and pi0.5 were trained with, as token ids of a fixed length.

pi0: BOS, the text, then "\n" tokenized on its own. pi0.5: BOS and `Task: {text}, State: {numbers};\nAction: `, the numbers being the
normalised state before it is padded, in 256 steps from -1 to 1. With `discrete_state: false` pi0.5 has the form of pi0 and is told
nothing of the state at all, as openpi's pi05_libero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import PromptError
from vla_ops.policies.steps import Bools, Floats
from vla_ops.policies.tokenizer import PAD_ID, Tokenizer

type Int32 = npt.NDArray[np.int32]
type Int64 = npt.NDArray[np.int64]

_STEPS = 256


@dataclass(frozen=True)
class Prompts:
    """How a prompt becomes tokens."""

    tokenizer: Tokenizer
    max_token_len: int
    # Whether the state is in the text (pi0.5).
    discrete_state: bool
    # What is said where nothing is.
    default: str | None = None
    # Cut what is too long, as openpi does in silence. Of pi0.5 that is the end of the state and the word `Action`.
    truncate: bool = False

    def text(self, prompt: str | None, state: Floats) -> str:
        """What is tokenized, of pi0 without the final newline. `state` [d] is normalised and not padded."""
        said = self._said(prompt)
        if not said:
            # openpi's repacking drops a prompt that its structure does not list, and trains on without one.
            raise PromptError(
                "there is no prompt", found=repr(prompt), todo="Give the task's text with each observation, or a default prompt."
            )
        if not self.discrete_state:
            return said
        return f"Task: {said}, State: {' '.join(map(str, discretise(state)))};\nAction: "

    def tokens(self, prompt: str | None, state: Floats) -> tuple[Int32, Bools]:
        """Token ids and their mask, each [max_token_len], for one `state` [d].

        Raise PromptError for no prompt, and for one that is too long unless `truncate`.
        """
        ids = self._encode(self.text(prompt, state))
        if len(ids) > self.max_token_len and not self.truncate:
            raise self._too_long(prompt, len(ids))
        ids = ids[: self.max_token_len]
        tokens = np.full(self.max_token_len, PAD_ID, np.int32)
        tokens[: len(ids)] = ids
        return tokens, np.arange(self.max_token_len) < len(ids)

    def tokens_needed(self, prompt: str, state_width: int) -> int:
        """The most tokens that this prompt can need with any state, to be held against max_token_len before training begins."""
        if not self.discrete_state:
            return len(self._encode(self.text(prompt, np.zeros(state_width))))
        # The number that takes most tokens, in every place.
        middles = (np.arange(-1, _STEPS) + 0.5) * 2 / _STEPS - 1
        costly = max(middles, key=lambda value: len(self._encode(" ".join([str(int(discretise(np.array([value]))[0]))] * 3))))
        return len(self._encode(self.text(prompt, np.full(state_width, costly))))

    def check_length(self, prompt: str, state_width: int) -> None:
        """Raise PromptError if the prompt can need more tokens than there are."""
        needed = self.tokens_needed(prompt, state_width)
        if needed > self.max_token_len and not self.truncate:
            raise self._too_long(prompt, needed)

    def describe(self) -> Mapping[str, Any]:
        """Everything that determines the tokens, as JSON."""
        settings = {name: getattr(self, name) for name in ("max_token_len", "discrete_state", "default", "truncate")}
        return {"tokenizer": self.tokenizer.fingerprint} | settings

    def _said(self, prompt: str | None) -> str:
        return next((text for text in (clean(prompt), clean(self.default)) if text.strip()), "")

    def _encode(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text, bos=True)
        return ids if self.discrete_state else ids + self.tokenizer.encode("\n")

    def _too_long(self, prompt: str | None, count: int) -> PromptError:
        what = "the prompt with the state in it has" if self.discrete_state else "the prompt has"
        return PromptError(
            f"{what} more tokens than the model takes",
            found=f"{count} tokens for {self._said(prompt)!r}",
            expected=f"at most {self.max_token_len} (max_token_len)",
            todo="Shorten the task text, raise the model's max_token_len, or ask for truncation.",
        )


def clean(prompt: str | None) -> str:
    """The prompt as openpi cleans it: `_` and line ends are spaces, none around it; its case is kept."""
    return (prompt or "").strip().replace("_", " ").replace("\n", " ")


def discretise(state: Floats) -> Int64:
    """Normalised numbers as steps 0 .. 255 of -1 .. 1. Above they are 255; below -1 (not 0), as pi0.5 was trained."""
    return np.digitize(state, np.linspace(-1, 1, _STEPS + 1)[:-1]) - 1
