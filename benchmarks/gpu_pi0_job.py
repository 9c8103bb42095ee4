"""One measurement of gpu_pi0.py, in a process of its own: `python -m benchmarks.gpu_pi0_job JOB`, where JOB is a Job as JSON.

Prints one line of JSON. Parameters are drawn anew, batches are random numbers of what the loader gives.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.pi0_flops import sampling_flops, training_flops
from vla_ops.models.config import PRESETS, ModelConfig

# Dense bfloat16, without sparsity: NVIDIA's datasheets of H200, H100 SXM, A100, L40S, RTX 4090 (with float32 accumulation).
PEAK_TFLOPS = {"H200": 989.4, "H100": 989.4, "A100": 312.0, "L40S": 362.1, "RTX 4090": 165.2}
_WARM_UP = 3


@dataclass(frozen=True)
class Job:
    """What is measured: `preset` is a row of PRESETS, `what` is train or sample."""

    preset: str
    what: str
    batch_size: int
    times: int
    num_steps: int
    remat: str
    # TFLOP/s of the device; 0 is looked up.
    peak_tflops: float = 0.0

    @property
    def name(self) -> str:
        """For a row of the table."""
        lora = "LoRA" if self.preset.endswith("_lora") else "full"
        model = self.preset.removesuffix("_lora")
        return f"{model}, {lora} fine-tuning" if self.what == "train" else f"{model}, {self.num_steps} sampling steps"

    @property
    def config(self) -> ModelConfig:
        """The model."""
        return dataclasses.replace(PRESETS[self.preset], remat=self.remat)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Found:
    """What a job measured. Bytes are None where the device does not say."""

    device: str
    compile_s: float
    # A training step on average over all of them; a sample in the middle, and in the worst twentieth.
    seconds: float
    seconds_p95: float
    flops: int
    # XLA's own count, in which the body of a loop, such as a stack of layers, counts once.
    xla_flops: float | None
    mfu: float | None
    peak_bytes: int | None
    # What XLA planned when it compiled: arguments, results, and what is between.
    planned_bytes: int | None
    estimated_bytes: int
    loss: float | None


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    # As the trainer has it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    print(json.dumps(asdict(train(job) if job.what == "train" else sample(job))))


def train(job: Job) -> Found:
    """Steps as the trainer takes them, one begun while the one before is computed, of a batch that lies on the device."""
    import jax

    from vla_ops.models import Freeze, abstract, lora_freeze, state_paths
    from vla_ops.spec.training import OptimizerSpec, ScheduleSpec
    from vla_ops.training.memory_estimate import Setting, training_memory
    from vla_ops.training.mesh import make_mesh, put_batch
    from vla_ops.training.optimizer import learning_rates, make_optimizer
    from vla_ops.training.state import abstract_state, initial_state
    from vla_ops.training.step import make_step

    config, lora = job.config, job.preset.endswith("_lora")
    freeze = lora_freeze(config) if lora else Freeze()
    # As openpi: no EMA with LoRA.
    ema = None if lora else 0.99
    optimizer, mesh = make_optimizer(OptimizerSpec(), learning_rates(ScheduleSpec())), make_mesh()
    like = abstract_state(config, freeze, optimizer, mesh, ema=ema is not None)
    state, _ = initial_state(like, config, freeze, optimizer, jax.random.key(0))
    batch, key = put_batch(synthetic(config, job.batch_size), mesh), jax.random.key(1)
    compiled, compile_s = compiled_in(lambda: make_step(config, freeze, optimizer, ema=ema, like=like).lower(key, state, batch).compile())
    for _ in range(_WARM_UP):
        state, info = compiled(key, state, batch)
    jax.block_until_ready(state)
    began = time.perf_counter()
    for _ in range(job.times):
        state, info = compiled(key, state, batch)
    jax.block_until_ready((state, info))
    seconds = (time.perf_counter() - began) / job.times
    estimate = training_memory(config, state_paths(abstract(config)[1]), Setting(job.batch_size, freeze, ema=ema is not None))
    flops = training_flops(config, freeze, batch_size=job.batch_size)
    loss = float(info["loss"])
    return found_of(job, compiled, compile_s, [seconds], flops=flops, estimated=estimate.total, loss=loss)


def sample(job: Job) -> Found:
    """Samples as a policy server takes them: bfloat16 parameters, observations from the host, actions back to it."""
    import jax

    from vla_ops.models import Observation, abstract, merge, state_paths
    from vla_ops.training.memory_estimate import inference_memory

    config = job.config
    params = drawn(config)
    inputs = {name: value for name, value in synthetic(config, job.batch_size).items() if name != "actions"}
    key = jax.random.key(1)

    def of_inputs(params: Any, key: Any, inputs: Any) -> Any:
        return merge(config, params).sample_actions(key, Observation.from_dict(inputs), num_steps=job.num_steps)

    compiled, compile_s = compiled_in(lambda: jax.jit(of_inputs).lower(params, key, inputs).compile())
    seconds: list[float] = []
    for k in range(_WARM_UP + job.times):
        began = time.perf_counter()
        np.asarray(compiled(params, key, inputs))
        if k >= _WARM_UP:
            seconds.append(time.perf_counter() - began)
    estimate = inference_memory(config, state_paths(abstract(config)[1]), batch_size=job.batch_size)
    flops = sampling_flops(config, batch_size=job.batch_size, num_steps=job.num_steps)
    return found_of(job, compiled, compile_s, seconds, flops=flops, estimated=estimate.total)


def drawn(config: ModelConfig) -> dict[str, Any]:
    """Random parameters in bfloat16; all of them in float32 are never in memory."""
    import jax
    from flax import nnx

    from vla_ops.models import Pi0, state_paths

    def draw(key: Any) -> dict[str, Any]:
        return {path: leaf.astype("bfloat16") for path, leaf in state_paths(nnx.state(Pi0(config, rngs=nnx.Rngs(params=key)))).items()}

    # On a CPU optimising fifty random draws takes ten times as long as they do.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    return jax.jit(draw, compiler_options=options)(jax.random.key(0))


def compiled_in(compile: Callable[[], Any]) -> tuple[Any, float]:
    """What is compiled, and the seconds that it took."""
    began = time.perf_counter()
    return compile(), time.perf_counter() - began


def synthetic(config: ModelConfig, rows: int) -> dict[str, Any]:
    """A batch of random images and numbers, every camera and token present."""
    rng = np.random.default_rng(0)
    side, length = config.image_size, config.max_token_len
    return {
        "state": rng.standard_normal((rows, config.action_dim), np.float32),
        "image": {camera: rng.integers(0, 256, (rows, side, side, 3), np.uint8) for camera in config.cameras},
        "image_mask": {camera: np.ones(rows, bool) for camera in config.cameras},
        "tokenized_prompt": rng.integers(0, config.vocab_size, (rows, length), np.int32),
        "tokenized_prompt_mask": np.ones((rows, length), bool),
        "actions": rng.standard_normal((rows, config.action_horizon, config.action_dim), np.float32),
    }


def found_of(
    job: Job, compiled: Any, compile_s: float, seconds: list[float], *, flops: int, estimated: int, loss: float | None = None
) -> Found:
    """Put the numbers together with what device and compiler say."""
    import jax

    device = jax.local_devices()[0]
    peak = job.peak_tflops or next((tflops for name, tflops in PEAK_TFLOPS.items() if name in device.device_kind), 0.0)
    middle = statistics.median(seconds)
    stats, costs = device.memory_stats() or {}, compiled.cost_analysis() or {}
    return Found(
        device=device.device_kind,
        compile_s=compile_s,
        seconds=middle,
        seconds_p95=float(np.percentile(seconds, 95)),
        flops=flops,
        xla_flops=costs.get("flops"),
        mfu=flops / middle / (peak * 1e12) if peak else None,
        peak_bytes=stats.get("peak_bytes_in_use"),
        planned_bytes=planned(compiled.memory_analysis()),
        estimated_bytes=estimated,
        loss=loss,
    )


def planned(plan: Any) -> int | None:
    """Bytes that XLA says the compiled function needs: what is given, what comes out and is not in the place of it, what is between."""
    if plan is None:
        return None
    return plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes


if __name__ == "__main__":
    main()
