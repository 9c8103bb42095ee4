"""What every tokenizer must do, whatever it is made of."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_ops.policies.prompts import Prompts
from vla_ops.policies.tokenizer import BOS_ID, PAD_ID, Tokenizer

texts = st.text(st.characters(codec="utf-8"), max_size=60)
# Every subclass runs the same test with a tokenizer of its own: that is what the suite is for.
each = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class TokenizerContract:
    """Subclass, and give the fixture `tokenizer` (of the class: hypothesis uses it many times)."""

    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls) -> Tokenizer:
        raise NotImplementedError

    def test_it_is_one(self, tokenizer: Tokenizer) -> None:
        assert isinstance(tokenizer, Tokenizer)
        assert tokenizer.fingerprint
        assert tokenizer.vocab_size > BOS_ID

    @each
    @given(text=texts)
    def test_ids_are_in_the_vocabulary_and_never_padding(self, tokenizer: Tokenizer, text: str) -> None:
        ids = tokenizer.encode(text)
        assert all(PAD_ID < k < tokenizer.vocab_size and isinstance(k, int) for k in ids)
        assert ids == tokenizer.encode(text)

    @each
    @given(text=texts)
    def test_the_beginning_is_marked_once_and_only_where_it_is_asked_for(self, tokenizer: Tokenizer, text: str) -> None:
        assert tokenizer.encode(text, bos=True) == [BOS_ID, *tokenizer.encode(text)]
        assert BOS_ID not in tokenizer.encode(text)

    def test_texts_of_robots_are_told_apart(self, tokenizer: Tokenizer) -> None:
        said = ["pick up the cube", "pick up the cup", "Pick up the cube", "pick up the cube.", "pick up  the cube", "\n", ""]
        assert len({tuple(tokenizer.encode(text)) for text in said}) >= 5
        assert tokenizer.encode("\n")
        assert tokenizer.encode("") == []

    @pytest.mark.parametrize("text", ["拿起红色方块", "Würfel aufheben", "🤖", "a\u0301", "\x00\x7f"])
    def test_a_text_in_any_script_has_ids(self, tokenizer: Tokenizer, text: str) -> None:
        assert tokenizer.encode(text)

    def test_another_process_has_the_same(self, tokenizer: Tokenizer) -> None:
        there = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301
        assert there.fingerprint == tokenizer.fingerprint
        assert there.encode("pick up the cube", bos=True) == tokenizer.encode("pick up the cube", bos=True)

    @each
    @given(text=texts.filter(lambda text: text.replace("_", " ").strip()))
    def test_a_prompt_is_its_ids_and_then_padding(self, tokenizer: Tokenizer, text: str) -> None:
        ids, mask = Prompts(tokenizer, 400, discrete_state=True).tokens(text, np.zeros(3))
        assert (ids.shape, ids.dtype, mask.dtype) == ((400,), np.int32, np.bool_)
        assert (ids[mask] != PAD_ID).all()
        assert (ids[~mask] == PAD_ID).all()
        assert (np.diff(mask.astype(int)) <= 0).all()
