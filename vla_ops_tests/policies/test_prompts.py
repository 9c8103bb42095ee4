from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.errors import PromptError
from vla_ops.policies.prompts import Prompts, clean, discretise
from vla_ops.policies.tokenizer import ByteTokenizer, load_tokenizer

BYTES = ByteTokenizer()


def test_pi0_is_told_the_text_and_a_new_line() -> None:
    tokens, mask = Prompts(BYTES, 10, discrete_state=False).tokens("do_it ", np.zeros(3))
    assert tokens[mask].tolist() == [2, *BYTES.encode("do it"), *BYTES.encode("\n")]


def test_pi05_is_told_the_state_as_well() -> None:
    prompts = Prompts(BYTES, 100, discrete_state=True)
    assert prompts.text("Fold the_towel\n", np.array([-1.5, 0.0, 2.0])) == "Task: Fold the towel, State: -1 128 255;\nAction: "


def test_pi05_without_a_discrete_state_is_told_nothing_of_it() -> None:
    prompts = Prompts(BYTES, 100, discrete_state=False)
    assert prompts.text("fold", np.array([0.5])) == "fold"


def test_a_prompt_that_is_too_long_is_an_error_with_the_prompt_the_count_and_the_limit() -> None:
    prompts = Prompts(BYTES, 8, discrete_state=False)
    assert prompts.tokens("sixsix", np.zeros(1))[1].all()
    with pytest.raises(PromptError, match=r"found 9 tokens for 'seven77'; expected at most 8 \(max_token_len\)\. Shorten"):
        prompts.tokens("seven77", np.zeros(1))


def test_a_long_prompt_is_cut_where_that_is_asked_for() -> None:
    tokens, mask = Prompts(BYTES, 4, discrete_state=False, truncate=True).tokens("abcdef", np.zeros(1))
    assert (tokens.tolist(), mask.all()) == ([2, *BYTES.encode("abc")], True)


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=30), st.integers(1, 14), st.integers(0, 100))
def test_no_state_needs_more_tokens_than_were_counted(text: str, width: int, seed: int) -> None:
    prompts = Prompts(BYTES, 400, discrete_state=True)
    needed = prompts.tokens_needed(text, width)
    state = np.random.default_rng(seed).uniform(-1.2, 1.2, width)
    assert prompts.tokens(text, state)[1].sum() <= needed


def test_a_prompt_that_can_become_too_long_is_found_before_training(golden_dir) -> None:
    sentences = load_tokenizer(str(golden_dir / "policy" / "standin_tokenizer.model"))
    prompts = Prompts(sentences, 64, discrete_state=True)
    with pytest.raises(PromptError, match="the prompt with the state in it has more tokens"):
        prompts.check_length("insert peg into bowl", 14)
    prompts.check_length("insert peg into bowl", 7)
    Prompts(sentences, 64, discrete_state=True, truncate=True).check_length("insert peg into bowl", 14)


def test_case_is_kept_and_only_underscores_and_line_ends_become_spaces() -> None:
    assert clean("  Pick_up\nthe CUBE, now! ") == "Pick up the CUBE, now!"
    assert clean(None) == ""


@given(st.floats(-3, 3))
def test_steps_are_256_and_one_below(value: float) -> None:
    step = int(discretise(np.array([value]))[0])
    edges = [-np.inf, *np.linspace(-1, 1, 257)[:-1], np.inf]
    assert edges[step + 1] <= value < edges[step + 2]
