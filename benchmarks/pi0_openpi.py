"""The side of pi0.py that runs in openpi's process: openpi's own model, train step, sampling and checkpoints, called as its scripts do.

Its checkout is on PYTHONPATH. openpi names its sizes and fixes the image tower; for the benchmark's sizes three of its functions
and constants are replaced in this process, and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from openpi.models import gemma, lora, model, pi0_config, siglip
from openpi.shared import nnx_utils
from openpi.training import checkpoints, config, sharding
from scripts import train as openpi_train

from benchmarks.pi0_cases import Case, load, nested
from benchmarks.pi0_process import serve, timed

# openpi tells by the name whether a variant has LoRA.
VARIANTS, LORA_VARIANTS = ("gemma_2b", "gemma_300m"), ("gemma_2b_lora", "gemma_300m_lora")


@dataclasses.dataclass(frozen=True)
class Given:
    """A weight loader of arrays that are at hand."""

    params: Any

    def load(self, like: Any) -> Any:
        """Return them in the types of the model, in which frozen ones are bfloat16."""
        return jax.tree.map(lambda leaf, wanted: leaf.astype(wanted.dtype), self.params, like)


class Openpi:
    """A case in openpi: its state, and what is compiled for it."""

    def open(self, *, case: str, params: str, batch: str, ema: float | None = 0.99) -> dict[str, Any]:
        """Make the model of a case with these parameters, and read its batch."""
        self.case = Case.read(Path(case))
        self.model_config = configure(self.case)
        self.params = nested(load(Path(params)))
        self.config = config.TrainConfig(
            name="benchmark", exp_name="benchmark", model=self.model_config, weight_loader=Given(self.params),
            ema_decay=ema, batch_size=self.case.batch_size, wandb_enabled=False, freeze_filter=self.model_config.get_freeze_filter(),
        )  # fmt: skip
        self.mesh = sharding.make_mesh(1)
        flat = {name: jnp.asarray(array) for name, array in load(Path(batch)).items()}
        self.noise, self.actions = flat.pop("noise"), flat.pop("actions")
        self.observation = model.Observation.from_dict(nested(flat))
        return {"jax": jax.__version__}

    def compile_step(self, *, seed: int) -> dict[str, Any]:
        """Make the state, compile the step, and take the first one."""
        state, self.placed = openpi_train.init_train_state(self.config, jax.random.key(0), self.mesh, resume=False)
        self._compile()
        self.key, self.state = jax.random.key(seed), state
        return self.step()

    def step(self) -> dict[str, Any]:
        """Take a step; return what it says of itself."""
        return {name: float(value) for name, value in self._step().items()}

    def train(self, *, steps: int) -> dict[str, Any]:
        """Take steps, one after the other."""
        return timed(lambda: jax.block_until_ready((self._step(), self.state)), steps)

    def compile_sampling(self, *, steps: int) -> dict[str, Any]:
        """Compile sampling for one observation with parameters of the case's type, as a policy has them, and sample once."""
        dtype = jnp.dtype(self.case.dtype)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.params)
        sample = nnx_utils.module_jit(self.model_config.load(params).sample_actions)
        seen, noise = jax.tree.map(lambda leaf: leaf[:1], (self.observation, self.noise))
        self._sample = functools.partial(sample, jax.random.key(0), seen, num_steps=steps, noise=noise)
        return {"actions": np.asarray(self._sample(), np.float64).tolist()}

    def sample(self, *, times: int) -> dict[str, Any]:
        """Sample, one time after the other."""
        return timed(lambda: jax.block_until_ready(self._sample()), times)

    def loss_of(self, *, params: str, seed: int) -> dict[str, Any]:
        """Restore a params item as a policy does, and compute the loss of the batch, nothing augmented."""
        restored = model.restore_params(Path(params))
        loss = nnx_utils.module_jit(self.model_config.load(restored).compute_loss)
        found = loss(jax.random.key(seed), self.observation, self.actions).mean()
        return {"loss": float(found), "paths": sorted(traverse_util.flatten_dict(restored, sep="/"))}

    def resume(self, *, run: str, seed: int) -> dict[str, Any]:
        """Resume from a run's last checkpoint as the train script does, and take a step."""
        manager, resuming = checkpoints.initialize_checkpoint_dir(Path(run), keep_period=None, overwrite=False, resume=True)
        if not resuming:
            raise ValueError(f"openpi finds nothing to resume in {run}")
        like, self.placed = openpi_train.init_train_state(self.config, jax.random.key(0), self.mesh, resume=True)
        self.state = checkpoints.restore_state(manager, like, None)
        manager.close()
        at = int(self.state.step)
        self._compile()
        self.key = jax.random.key(seed)
        return {"at": at, **self.step()}

    def save(self, *, run: str, step: int) -> dict[str, Any]:
        """Save the state as the train script does; there are no norm stats."""
        manager, _ = checkpoints.initialize_checkpoint_dir(Path(run), keep_period=None, overwrite=False, resume=False)
        checkpoints.save_state(manager, self.state, NoStats(), step)
        manager.wait_until_finished()
        manager.close()
        return {}

    def _compile(self) -> None:
        whole, rows = (jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*axes)) for axes in ((), (sharding.DATA_AXIS,)))
        self._compiled = jax.jit(
            functools.partial(openpi_train.train_step, self.config),
            in_shardings=(whole, self.placed, rows),
            out_shardings=(self.placed, whole),
            donate_argnums=(1,),
        )
        self._batch = jax.device_put((self.observation, self.actions), rows)

    def _step(self) -> Any:
        with sharding.set_mesh(self.mesh):
            self.state, info = self._compiled(self.key, self.state, self._batch)
        return info


class NoStats:
    """A data loader without norm stats: all that saving asks of one."""

    def data_config(self) -> config.DataConfig:
        """Return the configuration of no data."""
        return config.DataConfig()


def configure(case: Case) -> pi0_config.Pi0Config:
    """Give openpi the sizes of a case."""
    variants = VARIANTS if case.lora is None else LORA_VARIANTS
    factors = {} if case.lora is None else {part: lora.LoRAConfig(rank=case.lora[0], alpha=case.lora[1]) for part in ("attn", "ffn")}
    experts = (gemma.Config(**size, lora_configs=factors) for size in (case.paligemma, case.action_expert))
    sizes = dict(zip(variants, experts, strict=True))
    tower = dict(case.siglip)
    patch = tower.pop("patch")
    gemma.PALIGEMMA_VOCAB_SIZE = case.vocab_size
    gemma.get_config = sizes.__getitem__
    siglip.decode_variant = lambda _: {**tower, "patch_size": (patch, patch)}
    return pi0_config.Pi0Config(
        dtype=case.dtype, paligemma_variant=variants[0], action_expert_variant=variants[1], action_horizon=case.action_horizon,
        max_token_len=case.max_token_len, pi05=case.family == "pi05",
    )  # fmt: skip


if __name__ == "__main__":
    openpi = Openpi()
    names = ("open", "compile_step", "step", "train", "compile_sampling", "sample", "loss_of", "resume", "save")
    serve({name: getattr(openpi, name) for name in names})
