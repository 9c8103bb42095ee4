"""Bytes that a training or a policy needs on each device, from shapes alone.

Parameters, gradients and optimiser state are counted exactly. Activations are counted by hand: what the backward pass keeps of each
layer as `remat` says, and the largest arrays that live at once while one layer is computed (again) and differentiated. XLA fuses and
reuses more or less than that: take activations for right within a quarter.

openpi's table is the check: inference needs more than 8 GB, LoRA more than 22.5 GB, full fine-tuning more than 70 GB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vla_ops.models import Freeze, ModelConfig

# What of a device's memory JAX takes unless the environment says otherwise, and what the trainer has it take.
JAX_SHARE, TRAINING_SHARE = 0.75, 0.9
_SHARE_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
# Parameters below it are not cut over FSDP's devices, as in openpi.
_CUT_FROM = 4 << 20
_F32, _BF16 = 4, 2


@dataclass(frozen=True)
class Setting:
    """What of a training the estimate depends on."""

    batch_size: int
    freeze: Freeze
    ema: bool = False
    accumulate: int = 1
    devices: int = 1
    fsdp_devices: int = 1


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device by what they are for, and the sizes they come of."""

    parameters: int
    trained: int
    bytes_of: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.bytes_of.values())

    def fits(self, available: int) -> bool:
        """Whether it is at most the bytes that JAX may take."""
        return self.total <= available


def training_memory(config: ModelConfig, shapes: Mapping[str, Any], setting: Setting) -> MemoryEstimate:
    """Estimate a training step; `shapes` are the model's, {path: anything with a shape}."""
    sizes = {path: math.prod(leaf.shape) for path, leaf in shapes.items()}
    trained = {path for path in sizes if not setting.freeze.frozen(path)}

    def on_device(paths: set[str], width: int) -> int:
        return sum(width * sizes[path] // _parts(shapes[path].shape, width, setting.fsdp_devices) for path in paths)

    frozen = sizes.keys() - trained
    # Each batch lies over all devices, each part of it one after another.
    rows = max(setting.batch_size // setting.devices // setting.accumulate, 1)
    weights = on_device(trained, _F32) + on_device(frozen, _BF16)
    gradients = on_device(trained, _F32) * (2 if setting.accumulate > 1 else 1)
    bytes_of = {
        "parameters": weights,
        "gradients": gradients,
        "optimiser": 2 * on_device(trained, _F32),
        "EMA": weights if setting.ema else 0,
        "activations": _activations(config, rows) + _gathered(config, sizes, setting),
        "batch": 2 * batch_bytes(config, max(setting.batch_size // setting.devices, 1)),
    }
    return MemoryEstimate(sum(sizes.values()), sum(sizes[path] for path in trained), bytes_of)


def inference_memory(config: ModelConfig, shapes: Mapping[str, Any], *, batch_size: int = 1) -> MemoryEstimate:
    """Estimate sampling with bfloat16 parameters."""
    parameters = sum(math.prod(leaf.shape) for leaf in shapes.values())
    first, width = config.experts[0], _width(config)
    prefix = prefix_tokens(config)
    cache = 2 * width * first.depth * batch_size * (prefix + _suffix_tokens(config)) * first.num_kv_heads * first.head_dim
    working = max(_vision_layer(config, batch_size, backward=False), _language_layer(config, batch_size, backward=False))
    bytes_of = {
        "parameters": _BF16 * parameters,
        "key-value cache": 2 * cache,
        "activations": working,
        "batch": batch_bytes(config, batch_size),
    }
    return MemoryEstimate(parameters, 0, bytes_of)


def batch_bytes(config: ModelConfig, rows: int) -> int:
    """Bytes of a batch as the model computes with it: float32 images, state, actions, tokens."""
    images = len(config.cameras) * config.image_size**2 * 3
    return _F32 * rows * (images + config.action_dim * (1 + config.action_horizon) + 2 * config.max_token_len)


def prefix_tokens(config: ModelConfig) -> int:
    """Image and prompt tokens."""
    return len(config.cameras) * config.tokens_per_image + config.max_token_len


def available_bytes(total: int, *, share: float | None = None) -> int:
    """Bytes of a device of `total` that JAX takes: `share`, else XLA_PYTHON_CLIENT_MEM_FRACTION, else what the trainer sets."""
    said = os.environ.get(_SHARE_VARIABLE)
    return int(total * (share if share is not None else float(said) if said else TRAINING_SHARE))


def device_bytes() -> tuple[int, str]:
    """Return the bytes that JAX may take on each local device, and what device it is; on a CPU the memory of the machine."""
    import jax

    device = jax.local_devices()[0]
    # None on a CPU.
    stats = device.memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(limit), device.device_kind
    return _machine_bytes() // len(jax.local_devices()), device.device_kind


def gigabytes(count: int) -> str:
    """Bytes for a person, in GB of 10^9."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _machine_bytes() -> int:
    """The memory of this machine, or of the container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(total, int(file.read()))
    # Not Linux, no such controller, or `max`.
    except (OSError, ValueError):
        return total


def _parts(shape: tuple[int, ...], width: int, devices: int) -> int:
    """Into how many parts FSDP cuts a parameter: all devices, where it is large and an axis can be divided."""
    cut = devices > 1 and len(shape) >= 2 and width * math.prod(shape) >= _CUT_FROM and any(axis % devices == 0 for axis in shape)
    return devices if cut else 1


def _gathered(config: ModelConfig, sizes: Mapping[str, int], setting: Setting) -> int:
    """A layer's weights in the type of the computation, whole, and where they are trained their gradient before it is reduced."""
    layers = [(path, size) for path, size in sizes.items() if "/llm/layers/" in path]
    depth = config.experts[0].depth
    trained = sum(size for path, size in layers if not setting.freeze.frozen(path))
    return (_width(config) * sum(size for _, size in layers) + _F32 * trained) // depth


def _activations(config: ModelConfig, rows: int) -> int:
    """What is kept from forward to backward, and the largest layer at work: the language model's has the image tower's still behind it."""
    vision, language = _kept_vision(config, rows), _kept_language(config, rows)
    return vision + max(language + _language_layer(config, rows, backward=True), _vision_layer(config, rows, backward=True))


def _kept_vision(config: ModelConfig, rows: int) -> int:
    tower, images = config.vision, rows * len(config.cameras)
    tokens = images * config.tokens_per_image
    widths = {"full": tower.width, "dots": 6 * tower.width + tower.mlp_dim, "none": 12 * tower.width + 3 * tower.mlp_dim}[config.remat]
    logits = 2 * images * tower.num_heads * config.tokens_per_image**2 if config.remat == "none" else 0
    return _width(config) * tower.depth * (tokens * widths + logits)


def _kept_language(config: ModelConfig, rows: int) -> int:
    kept = 0
    for expert, tokens in _expert_tokens(config):
        heads = 2 * (expert.num_heads + expert.num_kv_heads) * expert.head_dim
        widths = {
            "full": expert.width,
            "dots": 3 * expert.width + heads + 2 * expert.mlp_dim,
            "none": 8 * expert.width + 2 * heads + 4 * expert.mlp_dim,
        }
        kept += expert.depth * rows * tokens * widths[config.remat] * _width(config)
    if config.remat == "none":
        kept += config.experts[0].depth * _logits(config, rows) * (_F32 + _width(config))
    return kept


def _vision_layer(config: ModelConfig, rows: int, *, backward: bool) -> int:
    tower, images = config.vision, rows * len(config.cameras)
    tokens = images * config.tokens_per_image
    logits = images * tower.num_heads * config.tokens_per_image**2
    at_once = 3 if backward else 2
    return _width(config) * (at_once * logits + at_once * tokens * tower.mlp_dim + 3 * at_once * tokens * tower.width)


def _language_layer(config: ModelConfig, rows: int, *, backward: bool) -> int:
    """Float32 logits and their softmax; gate, value and product of the feed-forward layer, and in the backward pass one gradient."""
    attention = _logits(config, rows) * ((_F32 + _width(config)) if backward else _F32)
    inside = 4 if backward else 3
    widths = sum(rows * tokens * (inside * expert.mlp_dim + 2 * inside * expert.width) for expert, tokens in _expert_tokens(config))
    return attention + _width(config) * widths


def _logits(config: ModelConfig, rows: int) -> int:
    tokens = prefix_tokens(config) + _suffix_tokens(config)
    return rows * config.experts[0].num_heads * tokens**2


def _expert_tokens(config: ModelConfig) -> Iterator[tuple[Any, int]]:
    yield config.experts[0], prefix_tokens(config)
    yield config.experts[1], _suffix_tokens(config)


def _suffix_tokens(config: ModelConfig) -> int:
    return config.action_horizon + (0 if config.pi05 else 1)


def _width(config: ModelConfig) -> int:
    return _F32 if config.dtype == "float32" else _BF16
