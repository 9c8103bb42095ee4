"""pi0 and pi0.5 in JAX: the prefix and the denoising, each compiled ahead of time for fixed numbers of rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.loading import CheckpointSource, LoadRules, load_into
from vla_ops.models import Guidance, ModelConfig, Observation, abstract, merge, preprocess, state_paths
from vla_ops.policies.backend import BackendOptions, Float32, ParamDtype, Sampled, Takes, blank
from vla_ops.policies.real_time import Guide, RealTime
from vla_ops.policies.setup import PolicySetup
from vla_ops.policies.transforms import ModelInputs

# All that a model's computation needs of its inputs after the prefix: its mask, keys and values.
type Prefix = tuple[Array, tuple[Array, Array]]


def open_backend(setup: PolicySetup, options: BackendOptions) -> JaxBackend:
    """The model of a checkpoint. Raise CheckpointError for parameters that are not the model's."""
    return JaxBackend(setup.model, read_parameters(setup, options.dtype), options)


def read_parameters(setup: PolicySetup, dtype: ParamDtype) -> dict[str, Array]:
    """All parameters of the setup's model on the first device, in one dtype. Raise CheckpointError where one is missing or too many."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = state_paths(abstract(setup.model)[1])
    expected = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype), sharding=here) for path, leaf in shapes.items()}
    loaded, _ = load_into(expected, CheckpointSource(open_checkpoint(setup.folder)), rules=LoadRules(missing=None))
    return loaded


class JaxBackend:
    """See Backend. Stages: `prefix` (images and prompt) and `denoise`."""

    name = "jax"

    def __init__(self, config: ModelConfig, params: Mapping[str, Any], options: BackendOptions) -> None:
        """Compile for every number of rows and run each once. Raise ParameterMismatchError for parameters that are not the model's."""
        self.config, self.params = config, dict(params)
        self._options = options
        self._compiled = {rows: self._compile(rows) for rows in options.batch_sizes}
        self._takes = Takes(config, options)
        self._takes.warm(self)

    @property
    def batch_sizes(self) -> Sequence[int]:
        """See Backend."""
        return tuple(self._compiled)

    def sample(self, inputs: ModelInputs, noise: Float32, guide: Guide | None = None) -> Sampled:
        """See Backend."""
        given = self._takes.checked(inputs, noise)
        compiled = self._compiled[len(noise)]
        began = time.perf_counter()
        prefix: Prefix = jax.block_until_ready(compiled.run_prefix(self.params, given))
        between = time.perf_counter()
        # Copied to the host: what is done with it must not wait for the device once more.
        if guide is None:
            sampled = compiled.denoise(self.params, given["state"], noise, prefix)
        else:
            sampled = compiled.denoise_guided(self.params, given["state"], noise, prefix, Guidance(guide.actions, guide.weights))
        actions = np.array(sampled, np.float32)
        return Sampled(actions, {"prefix": between - began, "denoise": time.perf_counter() - between})

    def _compile(self, rows: int) -> _Compiled:
        config, options = self.config, self._options

        def run_prefix(params: dict[str, Array], inputs: dict[str, Any]) -> Prefix:
            seen = preprocess(None, Observation.from_dict(inputs), config, train=False)
            return merge(config, params).run_prefix(seen)

        def denoise(params: dict[str, Array], state: Array, noise: Array, prefix: Prefix, guidance: Guidance | None = None) -> Array:
            rules = options.real_time or RealTime()
            return merge(config, params).denoise(
                Observation({}, {}, state), noise, *prefix, num_steps=options.sampling_steps,
                guidance=guidance, max_weight=rules.max_weight, through_model=rules.through_model,
            )  # fmt: skip

        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.params)
        inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), blank(config, rows).as_dict())
        noise = jax.ShapeDtypeStruct((rows, config.action_horizon, config.action_dim), jnp.float32)
        given = (params, inputs["state"], noise, jax.eval_shape(run_prefix, params, inputs))
        guidance = Guidance._make(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (noise.shape, noise.shape[:2]))
        first, then = jax.jit(run_prefix).lower(params, inputs).compile(), jax.jit(denoise)
        guided = None if options.real_time is None else then.lower(*given, guidance).compile()
        return _Compiled(first, then.lower(*given).compile(), guided)


class _Compiled(NamedTuple):
    run_prefix: Any
    denoise: Any
    # Where the options say real_time.
    denoise_guided: Any
