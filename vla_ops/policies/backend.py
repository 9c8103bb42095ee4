"""Where a policy's model is computed: one Protocol, and who implements it.

A new one is a module with `open_backend(setup, options)` and a row in `_MODULES`; it passes `vla_ops_tests/policies/backend_contract.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from vla_ops.errors import PolicyError, SchemaMismatchError
from vla_ops.models.config import ModelConfig
from vla_ops.policies.real_time import Guide, RealTime
from vla_ops.policies.setup import PolicySetup
from vla_ops.policies.transforms import ModelInputs

type Float32 = npt.NDArray[np.float32]
type ParamDtype = Literal["float32", "bfloat16"]

# One of these is in the folder of an export for PyTorch, and never in an Orbax checkpoint.
TORCH_FILES = ("model.safetensors", "adapter_model.safetensors")
# Name -> the module whose `open_backend` makes it.
_MODULES: dict[str, str] = {"jax": "vla_ops.policies.jax_backend", "torch": "vla_ops.export.torch_backend"}


@dataclass(frozen=True)
class BackendOptions:
    """How a model is computed."""

    # Of the parameters: float32 is what validation measures, bfloat16 takes half the memory and is what openpi serves.
    dtype: ParamDtype = "float32"
    # Euler steps from noise to actions.
    sampling_steps: int = 10
    # Rows that one call may have, ascending; each is compiled once.
    batch_sizes: tuple[int, ...] = (1,)
    # Where chunks are to go on from one another: then that is made ready as well.
    real_time: RealTime | None = None

    def __post_init__(self) -> None:
        if self.sampling_steps < 1 or not self.batch_sizes or min(self.batch_sizes) < 1:
            raise PolicyError(
                "a policy cannot be computed so",
                found=f"{self.sampling_steps} sampling steps, batch sizes {list(self.batch_sizes)}",
                expected="at least 1 of each",
            )
        object.__setattr__(self, "batch_sizes", tuple(sorted(set(self.batch_sizes))))


def batches(most: int) -> tuple[int, ...]:
    """Numbers of rows to make ready for, where up to `most` come at once: 1, 2, 4, ... and `most`."""
    return (*(1 << k for k in range(max(most - 1, 0).bit_length())), most)


@dataclass(frozen=True, eq=False)
class Sampled:
    """A model's actions [B, H, action_dim], float32, and the seconds of each stage by name."""

    actions: Float32
    seconds: Mapping[str, float] = field(default_factory=dict)


class Backend(Protocol):
    """A model with its parameters, ready to run: compiled and warmed up. Calls come from one thread at a time."""

    @property
    def name(self) -> str:
        """Its name in `_MODULES`."""
        ...

    @property
    def batch_sizes(self) -> Sequence[int]:
        """Numbers of rows that `sample` takes, ascending."""
        ...

    def sample(self, inputs: ModelInputs, noise: Float32, guide: Guide | None = None) -> Sampled:
        """Actions [B, H, action_dim] of inputs with a leading [B], from noise of that shape; the same for the same arguments.

        With `guide` (where the options say `real_time`) they go on from others. Rows do not see one another. Raise SchemaMismatchError for
        other shapes or dtypes than it was compiled for.
        """
        ...


class Takes:
    """The inputs that a backend takes: of its model's shapes, with one of its numbers of rows."""

    def __init__(self, config: ModelConfig, options: BackendOptions) -> None:
        self._config, self._is_guided = config, options.real_time is not None
        self._shapes = {rows: _shapes(blank(config, rows).as_dict() | {"noise": _silence(config, rows)}) for rows in options.batch_sizes}

    def warm(self, backend: Backend) -> None:
        """Sample once with every number of rows, and once more with a guide where there may be one."""
        for rows in self._shapes:
            silence = _silence(self._config, rows)
            for guide in (None, Guide(silence, (1,) * rows, (1,) * rows))[: 1 + self._is_guided]:
                backend.sample(blank(self._config, rows), silence, guide)

    def checked(self, inputs: ModelInputs, noise: Float32) -> dict[str, Any]:
        """The inputs in openpi's keys, without actions. Raise SchemaMismatchError, by name, for what is not of the model's shapes."""
        given = {name: value for name, value in inputs.as_dict().items() if name != "actions"}
        rows = len(noise) if np.ndim(noise) else 0
        if rows not in self._shapes:
            expected = f"{' or '.join(map(str, self._shapes))} (made ready for)"
            raise SchemaMismatchError("the model was not made ready for so many rows", found=rows, expected=expected)
        found = _shapes(given | {"noise": noise})
        for name, wanted in self._shapes[rows].items():
            if found.get(name) != wanted:
                raise SchemaMismatchError(f"the model's {name} is not of its shape", found=found.get(name, "nothing"), expected=wanted)
        return given


def blank(config: ModelConfig, rows: int) -> ModelInputs:
    """Inputs of the model's shapes, all zero and nothing masked."""
    side = config.image_size
    return ModelInputs(
        state=np.zeros((rows, config.action_dim), np.float32),
        images={slot: np.zeros((rows, side, side, 3), np.uint8) for slot in config.cameras},
        image_masks={slot: np.ones(rows, bool) for slot in config.cameras},
        tokens=np.zeros((rows, config.max_token_len), np.int32),
        token_mask=np.ones((rows, config.max_token_len), bool),
    )


def backend_of(folder: Path) -> str:
    """The backend that reads what is in a folder."""
    return "torch" if any((folder / name).is_file() for name in TORCH_FILES) else "jax"


def open_backend(name: str, setup: PolicySetup, options: BackendOptions) -> Backend:
    """The backend of this name with the setup's parameters. Raise PolicyError for no such one, CheckpointError."""
    if name not in _MODULES:
        raise PolicyError("no such backend computes policies", file=setup.folder, found=name, expected=" or ".join(_MODULES))
    return cast("Backend", _module(name).open_backend(setup, options))


def _silence(config: ModelConfig, rows: int) -> Float32:
    return np.zeros((rows, config.action_horizon, config.action_dim), np.float32)


def _shapes(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dtype and shape of each array by its name."""
    nested = [(name, value if isinstance(value, Mapping) else {"": value}) for name, value in tree.items()]
    leaves = [(f"{name}/{inner}".rstrip("/"), leaf) for name, values in nested for inner, leaf in values.items()]
    return {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in leaves}


def _module(name: str) -> Any:
    return importlib.import_module(_MODULES[name])
