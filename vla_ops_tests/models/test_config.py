"""Sizes are data that are checked when they are made, and need no jax."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from vla_ops.models import GEMMA, GemmaConfig, ModelConfig, SiglipConfig, tiny


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"family": "pi1"}, "family 'pi1' is not one of pi0, pi05"),
        ({"paligemma": "gemma_3b"}, "paligemma 'gemma_3b' is not one of gemma_2b"),
        ({"siglip": "So400m/16"}, "siglip 'So400m/16' is not one of So400m/14"),
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"remat": "some"}, "remat 'some'"),
        ({"action_expert": "dummy"}, "share one attention: depth 18 and 4"),
        ({"image_size": 225}, "image_size 225 is not a whole number of 14 pixel patches"),
        ({"action_dim": 0}, "action_dim 0"),
        ({"lora_rank": 8}, "neither paligemma nor action_expert is a _lora variant"),
    ],
)
def test_a_size_that_cannot_be_is_refused_by_its_name(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        ModelConfig(**fields)


def test_lora_rank_and_alpha_are_fields_of_their_own() -> None:
    config = tiny("pi0", lora=True, lora_rank=2, lora_alpha=6)
    assert [expert.lora and (expert.lora.rank, expert.lora.alpha) for expert in config.experts] == [(2, 6), (2, 6)]
    half = ModelConfig(paligemma="gemma_2b_lora", lora_rank=8)
    assert [expert.lora and expert.lora.rank for expert in half.experts] == [8, None]


def test_towers_that_have_no_name_are_given_by_their_sizes() -> None:
    expert = GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=4, num_kv_heads=2, head_dim=8)
    config = tiny(paligemma=expert, action_expert=expert, siglip=SiglipConfig(width=16, depth=1, mlp_dim=32, num_heads=2, patch=56))
    assert config.experts == (expert, expert)
    assert config.tokens_per_image == 16
    with pytest.raises(ValueError, match="3 query heads cannot share 2 key heads"):
        dataclasses.replace(expert, num_heads=3)
    with pytest.raises(ValueError, match="head_dim 7"):
        dataclasses.replace(expert, head_dim=7)


def test_variants_are_those_openpi_ships() -> None:
    assert {name: size.lora and (size.lora.rank, size.lora.alpha) for name, size in GEMMA.items()} == {
        "gemma_2b": None,
        "gemma_2b_lora": (16, 16),
        "gemma_300m": None,
        "gemma_300m_lora": (32, 32),
        "dummy": None,
        "dummy_lora": (4, 8),
    }


def test_config_and_freeze_rules_load_without_jax() -> None:
    code = (
        "import sys; from vla_ops.models import ModelConfig, lora_freeze, PRESETS; lora_freeze(PRESETS['pi05_lora']);"
        "sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'numpy', 'dagster')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
