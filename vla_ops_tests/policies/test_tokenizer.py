from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ops.errors import FetchError, SchemaMismatchError
from vla_ops.policies.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from vla_ops_tests.policies.tokenizer_contract import TokenizerContract


class TestBytes(TokenizerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls) -> Tokenizer:
        return load_tokenizer("bytes")


class TestSentencePiece(TokenizerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls, golden_dir: Path) -> Tokenizer:
        return load_tokenizer(str(golden_dir / "policy" / "standin_tokenizer.model"))


def test_bytes_are_the_texts_own() -> None:
    assert ByteTokenizer().encode("aÿ", bos=True) == [2, 3 + 0x61, 3 + 0xC3, 3 + 0xBF]
    assert max(ByteTokenizer().encode("".join(map(chr, range(0x800))))) < ByteTokenizer().vocab_size == 259


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    """A small SentencePiece model with special tokens at these ids."""

    def trained(**ids: int) -> Path:
        import sentencepiece

        (tmp_path / "text.txt").write_text("pick up the red cube and put it into the bowl\nopen the drawer\n" * 20)
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "text.txt"),
            model_prefix=str(tmp_path / "made"),
            vocab_size=40,
            hard_vocab_limit=False,
            minloglevel=2,
            **ids,
        )
        return tmp_path / "made.model"

    return trained


def test_another_vocabulary_has_another_fingerprint(golden_dir: Path, train: Callable[..., Path]) -> None:
    made = load_tokenizer(str(train(pad_id=0, eos_id=1, bos_id=2, unk_id=3)))
    given = load_tokenizer(str(golden_dir / "policy" / "standin_tokenizer.model"))
    assert made.fingerprint != given.fingerprint
    assert made.vocab_size < given.vocab_size


def test_a_model_with_special_tokens_elsewhere_is_refused(train: Callable[..., Path]) -> None:
    with pytest.raises(SchemaMismatchError, match=r"special tokens are not PaliGemma's.*pad, eos, bos \(-1, 2, 1\)"):
        SentencePieceTokenizer.read(train())


def test_a_page_that_was_saved_in_place_of_a_model_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "tokenizer.model"
    page.write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(FetchError, match=r"not a SentencePiece model.*<!DOCTYPE"):
        load_tokenizer(str(page))


def test_a_tokenizer_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no such file.*nothing\.model"):
        load_tokenizer(str(tmp_path / "nothing.model"))


def test_a_tokenizer_of_another_hash_is_refused(golden_dir: Path) -> None:
    with pytest.raises(FetchError, match=r"not the one that was asked for.*expected sha256 0{64}"):
        load_tokenizer(str(golden_dir / "policy" / "standin_tokenizer.model"), sha256="0" * 64)
