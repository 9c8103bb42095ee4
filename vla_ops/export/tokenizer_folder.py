"""A tokenizer as transformers loads it, so that LeRobot's processors make the ids that the model was trained with.

PaliGemma's is named by its repository on the Hub, as LeRobot names it. The byte tokenizer of small models is a folder in the export,
which `./tokenizer` in policy_preprocessor.json points at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_ops.errors import SchemaMismatchError
from vla_ops.policies import ByteTokenizer, Tokenizer
from vla_ops.policies.tokenizer import BOS_ID, EOS_ID, PAD_ID

FOLDER, HERE = "tokenizer", "./tokenizer"
ON_THE_HUB = "google/paligemma-3b-pt-224"
# What no prompt says: as text, these are bytes like all others.
_SPECIAL = {"<|pad|>": PAD_ID, "<|eos|>": EOS_ID, "<|bos|>": BOS_ID}


def write_tokenizer(folder: Path, tokenizer: Tokenizer | None, *, cleans: bool) -> str:
    """Write the tokenizer into the export and return the `tokenizer_name` of LeRobot's step.

    `cleans` makes it clean prompts as openpi does (`_` and line ends are spaces, none around), which for pi0 no step of LeRobot does.
    Raise SchemaMismatchError for one that transformers cannot be given.
    """
    if tokenizer is None or _is_paligemmas(tokenizer):
        return ON_THE_HUB
    if not isinstance(tokenizer, ByteTokenizer):
        raise SchemaMismatchError(
            "LeRobot cannot be given this tokenizer",
            found=tokenizer.fingerprint[:24],
            expected="PaliGemma's, or `bytes`",
            todo="Export with --layout openpi, whose server reads the SentencePiece model itself.",
        )
    from transformers import PreTrainedTokenizerFast

    pad, eos, bos = _SPECIAL
    made = PreTrainedTokenizerFast(tokenizer_object=_bytes(cleans=cleans), pad_token=pad, eos_token=eos, bos_token=bos)
    made.save_pretrained(str(folder / FOLDER))
    return HERE


def _is_paligemmas(tokenizer: Tokenizer) -> bool:
    """PaliGemma's has 257152 ids with its image locations and segments; SentencePiece itself counts 257152 or the 256000 of Gemma."""
    return tokenizer.fingerprint.startswith("sentencepiece-") and tokenizer.vocab_size >= 256_000


def _bytes(*, cleans: bool) -> Any:
    """UTF-8, a token a byte, as `ByteTokenizer`: pieces that are never merged."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    characters = _byte_characters()
    vocabulary = _SPECIAL | {character: 3 + byte for byte, character in enumerate(characters)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    if cleans:
        # LeRobot has put a line end behind the text, which stays.
        replaced = [("_", " "), (r"\s+\z", ""), (r"\A\s+", ""), ("\n", " "), (r"\z", "\n")]
        made.normalizer = normalizers.Sequence([normalizers.Replace(Regex(what), by) for what, by in replaced])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    bos = next(name for name, id_ in _SPECIAL.items() if id_ == BOS_ID)
    made.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, BOS_ID)])
    return made


def _byte_characters() -> list[str]:
    """The character by which `ByteLevel` writes each byte: itself where it can be seen, else one from 256 on, in order."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(0x100 + k) for k in range(0x100))
    return [chr(byte) if byte in seen else next(others) for byte in range(0x100)]
