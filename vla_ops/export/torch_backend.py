"""An export computed in PyTorch, behind `Policy`: by LeRobot's port of openpi's model, whichever of the two layouts it is in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vla_ops.checkpoints.architecture import architecture_of
from vla_ops.export.adapter import base_of, is_adapter
from vla_ops.export.adapter_torch import attach
from vla_ops.export.source import shapes_of
from vla_ops.export.torch_folder import WEIGHTS, without_lora
from vla_ops.export.torch_guidance import enable_real_time
from vla_ops.export.torch_side import build_model, load_weights, require_same_tensors, torch_chunk
from vla_ops.models.config import ModelConfig
from vla_ops.policies.backend import BackendOptions, Float32, Sampled, Takes
from vla_ops.policies.real_time import Guide
from vla_ops.policies.setup import PolicySetup
from vla_ops.policies.transforms import ModelInputs

if TYPE_CHECKING:
    import torch


def open_backend(setup: PolicySetup, options: BackendOptions) -> TorchBackend:
    """The model of an export with its adapter, if it has one, every tensor compared with the file.

    Raise ParityError for a file that is not of the model.
    """
    config, file = without_lora(setup.model), base_of(setup.folder) / WEIGHTS
    model = build_model(config, architecture_of(shapes_of(config)), options.dtype)
    load_weights(model, file)
    require_same_tensors(model.state_dict(), file)
    if is_adapter(setup.folder):
        attach(model, setup.folder)
    return TorchBackend(config, model, options)


class TorchBackend:
    """See Backend. Stages: `prefix` (images and prompt) and `denoise`. On the first GPU where there is one."""

    name = "torch"

    def __init__(self, config: ModelConfig, model: torch.nn.Module, options: BackendOptions) -> None:
        """Run every number of rows once."""
        import torch

        self._steps, self._sizes = options.sampling_steps, options.batch_sizes
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = model.to(self._device).eval().requires_grad_(False)
        if options.real_time is not None:
            enable_real_time(self._model, options.real_time)
        self._first_step: float | None = None
        self._watch_denoising()
        self._takes = Takes(config, options)
        self._takes.warm(self)

    @property
    def batch_sizes(self) -> Sequence[int]:
        """See Backend."""
        return self._sizes

    def sample(self, inputs: ModelInputs, noise: Float32, guide: Guide | None = None) -> Sampled:
        """See Backend."""
        given = self._takes.checked(inputs, noise)
        self._first_step, began = None, time.perf_counter()
        actions = torch_chunk(self._model, given, noise, steps=self._steps, device=self._device, guide=guide)
        between, ended = self._first_step or began, time.perf_counter()
        return Sampled(actions, {"prefix": between - began, "denoise": ended - between})

    def _watch_denoising(self) -> None:
        """LeRobot samples in one call: where its first step begins, the prefix is done."""
        import torch

        denoise_step = self._model.denoise_step

        def watched(*given: Any, **more: Any) -> Any:
            if self._first_step is None:
                if self._device.type == "cuda":
                    torch.cuda.synchronize()
                self._first_step = time.perf_counter()
            return denoise_step(*given, **more)

        self._model.denoise_step = watched
