"""Text to token ids: PaliGemma's SentencePiece model, or bytes for the tiny models, which then need no download."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vla_ops.errors import FetchError, SchemaMismatchError
from vla_ops.fetching.fetched import fetch
from vla_ops.spec.training import PALIGEMMA_TOKENIZER

# Where openpi takes it from. The same file is in the Hub's PaliGemma repositories, behind their licence.
PALIGEMMA = PALIGEMMA_TOKENIZER
BYTES = "bytes"
# As PaliGemma has them, and so every tokenizer here: what follows a prompt is padding, never text.
PAD_ID, EOS_ID, BOS_ID = 0, 1, 2


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids. Can be pickled: prompts are tokenized in loader processes."""

    @property
    def fingerprint(self) -> str:
        """Changes with what ids a text may get. A checkpoint is worth nothing with another one."""
        ...

    @property
    def vocab_size(self) -> int:
        """All ids are below it."""
        ...

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """The ids of `text`, behind BOS_ID where asked for. Never PAD_ID."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8, a token a byte: ids 3 .. 258."""

    fingerprint: str = field(default="bytes-1", init=False)
    vocab_size: int = field(default=3 + 256, init=False)

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """See Tokenizer."""
        return [BOS_ID] * bos + [3 + byte for byte in text.encode()]


@dataclass(frozen=True, eq=False)
class SentencePieceTokenizer:
    """A SentencePiece model."""

    fingerprint: str
    processor: Any

    @classmethod
    def read(cls, path: Path) -> SentencePieceTokenizer:
        """Read the model at `path`. Raise FetchError for a file that is none, SchemaMismatchError for one with other special tokens."""
        import sentencepiece

        model = path.read_bytes()
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise FetchError(
                "not a SentencePiece model",
                file=path,
                found=f"{len(model)} bytes that begin with {model[:12]!r}",
                todo="A page that asks for a login is often saved under the file's name: fetch it again.",
            ) from error
        ids = processor.pad_id(), processor.eos_id(), processor.bos_id()
        if ids != (PAD_ID, EOS_ID, BOS_ID):
            raise SchemaMismatchError(
                "the tokenizer's special tokens are not PaliGemma's", file=path, found=f"pad, eos, bos {ids}", expected="(0, 1, 2)"
            )
        return cls(f"sentencepiece-{hashlib.sha256(model).hexdigest()}", processor)

    @property
    def vocab_size(self) -> int:
        """See Tokenizer."""
        return self.processor.vocab_size()

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """See Tokenizer."""
        return self.processor.encode(text, add_bos=bos)


def load_tokenizer(where: str = PALIGEMMA, *, sha256: str | None = None) -> Tokenizer:
    """The tokenizer at a path or URL (https://, hf://, gs://, s3://; kept once it was downloaded), or `bytes`.

    Raise FetchError if it cannot be had, or is not the one whose SHA-256 was given.
    """
    return ByteTokenizer() if where == BYTES else SentencePieceTokenizer.read(fetch(where, sha256=sha256))
