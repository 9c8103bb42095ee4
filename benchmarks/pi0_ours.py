"""The side of pi0.py that runs our model, train step and sampling."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.pi0_cases import Case, load, nested
from benchmarks.pi0_process import serve, timed
from vla_ops.checkpoints.trees import TrainState
from vla_ops.models import GemmaConfig, LoraConfig, ModelConfig, Observation, SiglipConfig, abstract, lora_freeze, merge, state_paths
from vla_ops.spec.training import OptimizerSpec, ScheduleSpec
from vla_ops.training.mesh import make_mesh, put_batch
from vla_ops.training.optimizer import learning_rates, make_optimizer
from vla_ops.training.state import abstract_state, trained_of
from vla_ops.training.step import make_step


class Ours:
    """A case here: its state, and what is compiled for it."""

    def open(self, *, case: str, params: str, batch: str, ema: float | None = 0.99) -> dict[str, Any]:
        """Make the model of a case with these parameters, and read its batch."""
        self.case, self.ema = Case.read(Path(case)), ema
        self.config = model_config(self.case)
        self.params = load(Path(params))
        self.inputs = nested(load(Path(batch)))
        self.noise = jnp.asarray(self.inputs.pop("noise"))
        return {"jax": jax.__version__}

    def compile_step(self, *, seed: int) -> dict[str, Any]:
        """Make the state, compile the step, and take the first one."""
        freeze, optimizer = lora_freeze(self.config), make_optimizer(OptimizerSpec(), learning_rates(ScheduleSpec()))
        mesh = make_mesh()
        like = abstract_state(self.config, freeze, optimizer, mesh, ema=self.ema is not None)
        params = {path: jnp.array(self.params[path], leaf.dtype) for path, leaf in like.params.items()}
        average = None if self.ema is None else jax.tree.map(jnp.copy, params)
        state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained_of(params, freeze)), average)
        self.state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, like))
        self.compiled = make_step(self.config, freeze, optimizer, ema=self.ema, like=like)
        self.key, self.batch = jax.random.key(seed), put_batch(self.inputs, mesh)
        return self.step()

    def step(self) -> dict[str, Any]:
        """Take a step; return what it says of itself."""
        return {name: float(value) for name, value in self._step().items()}

    def train(self, *, steps: int) -> dict[str, Any]:
        """Take steps, one after the other."""
        return timed(lambda: jax.block_until_ready((self._step(), self.state)), steps)

    def compile_sampling(self, *, steps: int) -> dict[str, Any]:
        """Compile sampling for one observation with parameters of the case's type, and sample once."""
        params = {path: jnp.asarray(leaf, self.case.dtype) for path, leaf in self.params.items()}
        seen, noise = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:1], (Observation.from_dict(self.inputs), self.noise))

        def sample(params: Any, key: Any, seen: Observation, noise: Any) -> Any:
            return merge(self.config, params).sample_actions(key, seen, num_steps=steps, noise=noise)

        self._sample = functools.partial(jax.jit(sample), params, jax.random.key(0), seen, noise)
        return {"actions": np.asarray(self._sample(), np.float64).tolist()}

    def sample(self, *, times: int) -> dict[str, Any]:
        """Sample, one time after the other."""
        return timed(lambda: jax.block_until_ready(self._sample()), times)

    def _step(self) -> Any:
        self.state, info = self.compiled(self.key, self.state, self.batch)
        return info


def model_config(case: Case) -> ModelConfig:
    """The model of a case."""
    lora = None if case.lora is None else LoraConfig(*case.lora)
    first, second = (GemmaConfig(**size, lora=lora) for size in (case.paligemma, case.action_expert))
    return ModelConfig(
        family=case.family, paligemma=first, action_expert=second,
        siglip=SiglipConfig(**case.siglip), vocab_size=case.vocab_size, action_horizon=case.action_horizon,
        max_token_len=case.max_token_len, dtype=case.dtype, remat=case.remat,
    )  # type: ignore[arg-type]  # fmt: skip


def shapes_of(case: Case) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter."""
    return {path: tuple(leaf.shape) for path, leaf in state_paths(abstract(model_config(case))[1]).items()}


if __name__ == "__main__":
    ours = Ours()
    names = ("open", "compile_step", "step", "train", "compile_sampling", "sample")
    serve({name: getattr(ours, name) for name in names})
