"""What pi0.py measures: sizes as data, and the parameters and the batch of each case; numpy only, so that openpi's process reads it too."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
# openpi takes no other.
IMAGE_SIZE, ACTION_DIM = 224, 32


@dataclass(frozen=True)
class Case:
    """One model and one batch. `paligemma`, `action_expert` and `siglip` hold the fields of GemmaConfig and SiglipConfig."""

    size: str
    family: str
    dtype: str
    paligemma: dict[str, int]
    action_expert: dict[str, int]
    siglip: dict[str, int]
    vocab_size: int
    action_horizon: int
    max_token_len: int
    batch_size: int
    # What our side keeps for the backward pass; openpi has only `full`.
    remat: str = "full"
    # Rank and alpha of both experts' factors; everything else of them is frozen then.
    lora: tuple[int, float] | None = None

    @property
    def name(self) -> str:
        """A word for it."""
        return f"{self.family} {self.size} {self.dtype}"

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Case:
        """The inverse of `write`."""
        return cls(**json.loads(file.read_text()))


_HEADS = {"num_heads": 8, "num_kv_heads": 1}
_DUMMY = {"width": 64, "depth": 4, "mlp_dim": 128, "head_dim": 16, **_HEADS}
# The model of the golden numbers, whose time is mostly overhead, and one whose time is mostly matrix products.
SIZES = {
    "tiny": Case(
        size="tiny", family="pi0", dtype="float32", paligemma=_DUMMY, action_expert=_DUMMY,
        siglip={"width": 32, "depth": 2, "mlp_dim": 128, "num_heads": 2, "patch": 14},
        vocab_size=2048, action_horizon=8, max_token_len=16, batch_size=4,
    ),
    "small": Case(
        size="small", family="pi0", dtype="float32",
        paligemma={"width": 256, "depth": 4, "mlp_dim": 1024, "head_dim": 32, **_HEADS},
        action_expert={"width": 128, "depth": 4, "mlp_dim": 512, "head_dim": 32, **_HEADS},
        siglip={"width": 256, "depth": 4, "mlp_dim": 1024, "num_heads": 4, "patch": 14},
        vocab_size=8192, action_horizon=50, max_token_len=48, batch_size=2,
    ),
}  # fmt: skip


def case_of(size: str, family: str, dtype: str, *, remat: str = "full") -> Case:
    """A case of that size."""
    return dataclasses.replace(SIZES[size], family=family, dtype=dtype, remat=remat)


def parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values for every path that keep activations near one; none is zero, as the outputs of a fresh model are."""
    return {path: _values(path, shape) for path, shape in shapes.items()}


def _values(path: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    leaf = path.rpartition("/")[2]
    if leaf == "scale":
        # The image tower's norms multiply by the scale, the language model's by one more than it.
        return ((1.0 if "/img/" in path else 0.0) + 0.1 * drawn).astype(np.float32)
    if leaf == "bias" or leaf.endswith("_embedding"):
        return (0.1 * drawn).astype(np.float32)
    return (drawn / math.sqrt(_inputs(path, shape))).astype(np.float32)


def _inputs(path: str, shape: tuple[int, ...]) -> int:
    """How many numbers one output of this weight is a sum of."""
    if "img/embedding" in path:
        return math.prod(shape[:3])
    if path.endswith(("/query/kernel", "/key/kernel", "/value/kernel")):
        return shape[-3]
    return math.prod(shape[-3:-1]) if "attn_vec_einsum" in path or path.endswith("/out/kernel") else shape[-2]


def batch(case: Case, *, rows: int) -> dict[str, np.ndarray]:
    """A flat batch: `image/<camera>` float32 in [-1, 1], `image_mask/<camera>`, state, tokens, actions, noise."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, (rows, *shape)).astype(np.float32)

    images = {f"image/{camera}": floats(IMAGE_SIZE, IMAGE_SIZE, 3) for camera in CAMERAS}
    masks = {f"image_mask/{camera}": np.ones(rows, bool) for camera in CAMERAS}
    lengths = np.arange(case.max_token_len) < rng.integers(case.max_token_len // 2, case.max_token_len, (rows, 1))
    return {
        **images,
        **masks,
        "state": floats(ACTION_DIM),
        "tokenized_prompt": rng.integers(0, case.vocab_size, (rows, case.max_token_len)).astype(np.int32),
        "tokenized_prompt_mask": lengths,
        "actions": floats(case.action_horizon, ACTION_DIM),
        "noise": rng.standard_normal((rows, case.action_horizon, ACTION_DIM)).astype(np.float32),
    }


def nested(flat: dict[str, np.ndarray]) -> dict[str, object]:
    """Nest `{a/b: x}` to `{a: {b: x}}`."""
    tree: dict[str, object] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[name] = leaf
    return tree


def load(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz."""
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}
