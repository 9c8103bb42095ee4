"""Sizes of the model, as data: nothing here imports jax, so a recipe or a YAML file can be checked without it.

`PRESETS` names the whole models. `GEMMA` and `SIGLIP` name the towers; any other tower is a `GemmaConfig` or
`SiglipConfig` given in place of a name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Family = Literal["pi0", "pi05"]
Remat = Literal["full", "dots", "none"]

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


@dataclass(frozen=True)
class LoraConfig:
    """Rank of the two factors, and alpha: attention adds alpha / rank times their product."""

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA rank {self.rank}: it must be at least 1")


@dataclass(frozen=True)
class GemmaConfig:
    """One expert of the language model. `lora` adds low-rank factors to its attention and feed-forward weights."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} query heads cannot share {self.num_kv_heads} key heads evenly")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim}: rotary embedding turns pairs, so it must be even")


@dataclass(frozen=True)
class SiglipConfig:
    """The image tower: `patch` is the side of a square patch in pixels."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch: int

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} cannot be cut into {self.num_heads} equal heads")


_GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp_dim=16_384, num_heads=8, num_kv_heads=1, head_dim=256)
_GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256)
_DUMMY = GemmaConfig(width=64, depth=4, mlp_dim=128, num_heads=8, num_kv_heads=1, head_dim=16)

GEMMA: dict[str, GemmaConfig] = {
    "gemma_2b": _GEMMA_2B,
    "gemma_2b_lora": dataclasses.replace(_GEMMA_2B, lora=LoraConfig(rank=16, alpha=16)),
    "gemma_300m": _GEMMA_300M,
    "gemma_300m_lora": dataclasses.replace(_GEMMA_300M, lora=LoraConfig(rank=32, alpha=32)),
    "dummy": _DUMMY,
    "dummy_lora": dataclasses.replace(_DUMMY, lora=LoraConfig(rank=4, alpha=8)),
}

SIGLIP: dict[str, SiglipConfig] = {
    "So400m/14": SiglipConfig(width=1152, depth=27, mlp_dim=4304, num_heads=16, patch=14),
    "mu/14": SiglipConfig(width=32, depth=1, mlp_dim=128, num_heads=2, patch=14),
    "tiny/14": SiglipConfig(width=32, depth=2, mlp_dim=128, num_heads=2, patch=14),
    "tiny/32": SiglipConfig(width=32, depth=2, mlp_dim=128, num_heads=2, patch=32),
}


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the parameters and the computation of one model.

    `paligemma` sees images and prompt, `action_expert` sees state and actions; both are rows of `GEMMA` or a
    `GemmaConfig`. `lora_rank` and `lora_alpha` replace those of every LoRA expert. `dtype` is the type of the computation;
    parameters have their own. `max_token_len` is 48 for pi0 and 200 for pi0.5 unless it is given; `image_size` is the side of
    a square image in pixels. Raises ValueError.
    """

    family: Family = "pi0"
    paligemma: str | GemmaConfig = "gemma_2b"
    action_expert: str | GemmaConfig = "gemma_300m"
    siglip: str | SiglipConfig = "So400m/14"
    vocab_size: int = 257_152
    action_dim: int = 32
    action_horizon: int = 50
    max_token_len: int = 0
    image_size: int = 224
    cameras: tuple[str, ...] = CAMERAS
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Remat = "full"
    lora_rank: int | None = None
    lora_alpha: float | None = None

    def __post_init__(self) -> None:
        _one_of("family", self.family, ("pi0", "pi05"))
        _one_of("dtype", self.dtype, ("bfloat16", "float32"))
        _one_of("remat", self.remat, ("full", "dots", "none"))
        for field in ("vocab_size", "action_dim", "action_horizon", "image_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)}: it must be at least 1")
        if not self.max_token_len:
            object.__setattr__(self, "max_token_len", 200 if self.pi05 else 48)
        object.__setattr__(self, "cameras", tuple(self.cameras))
        self._check_towers()

    def _check_towers(self) -> None:
        first, second = self.experts
        for field in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            pair = getattr(first, field), getattr(second, field)
            if pair[0] != pair[1]:
                raise ValueError(f"paligemma and action_expert share one attention: {field} {pair[0]} and {pair[1]} must be equal")
        if second.width % 2:
            raise ValueError(f"action_expert width {second.width}: the time embedding is half sines, half cosines, so it must be even")
        if self.image_size % self.vision.patch:
            raise ValueError(f"image_size {self.image_size} is not a whole number of {self.vision.patch} pixel patches")
        if (self.lora_rank is not None or self.lora_alpha is not None) and not any(self.has_lora):
            raise ValueError("lora_rank or lora_alpha is given, but neither paligemma nor action_expert is a _lora variant")

    @property
    def pi05(self) -> bool:
        """Whether time enters by adaptive norms and state by the prompt."""
        return self.family == "pi05"

    @property
    def experts(self) -> tuple[GemmaConfig, GemmaConfig]:
        """The sizes of PaliGemma's language model and of the action expert."""
        return self._expert("paligemma"), self._expert("action_expert")

    @property
    def has_lora(self) -> tuple[bool, bool]:
        """Whether PaliGemma's language model and the action expert have LoRA factors."""
        first, second = self.experts
        return first.lora is not None, second.lora is not None

    @property
    def vision(self) -> SiglipConfig:
        """The sizes of the image tower."""
        return self.siglip if isinstance(self.siglip, SiglipConfig) else _named("siglip", self.siglip, SIGLIP)

    @property
    def tokens_per_image(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.vision.patch) ** 2

    def _expert(self, field: str) -> GemmaConfig:
        given = getattr(self, field)
        size = given if isinstance(given, GemmaConfig) else _named(field, given, GEMMA)
        if size.lora is None:
            return size
        rank = size.lora.rank if self.lora_rank is None else self.lora_rank
        alpha = size.lora.alpha if self.lora_alpha is None else self.lora_alpha
        return dataclasses.replace(size, lora=LoraConfig(rank=rank, alpha=alpha))


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} {value!r} is not one of {', '.join(allowed)}")


def _named(field: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"{field} {name!r} is not one of {', '.join(table)}")
    return table[name]


def tiny(family: Family = "pi0", *, lora: bool = False, **fields: Any) -> ModelConfig:
    """Return a model of half a million parameters, 49 tokens an image, that trains on a laptop's CPU in a minute.

    `tiny("pi0", siglip="tiny/14", action_horizon=8, max_token_len=16)` is the model of the golden numbers.
    """
    variant = "dummy_lora" if lora else "dummy"
    sizes: dict[str, Any] = {
        "paligemma": variant,
        "action_expert": variant,
        "siglip": "tiny/32",
        "vocab_size": 2048,
        "dtype": "float32",
        "remat": "none",
    }
    return ModelConfig(family=family, **(sizes | fields))


PRESETS: dict[str, ModelConfig] = {
    "pi0": ModelConfig(),
    "pi05": ModelConfig(family="pi05"),
    "pi0_lora": ModelConfig(paligemma="gemma_2b_lora", action_expert="gemma_300m_lora"),
    "pi05_lora": ModelConfig(family="pi05", paligemma="gemma_2b_lora", action_expert="gemma_300m_lora"),
    "pi0_tiny": tiny("pi0"),
    "pi05_tiny": tiny("pi05"),
    "pi0_tiny_lora": tiny("pi0", lora=True),
    "pi05_tiny_lora": tiny("pi05", lora=True),
}
