"""pi0 and pi0.5 behind `Policy`, in JAX or exported to PyTorch.

Inputs are made and actions taken back by the `PolicyTransforms` that training and validation use. Everything is compiled when the policy
is loaded; a call has fixed shapes and never compiles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vla_ops.errors import PolicyError, SchemaMismatchError
from vla_ops.policies.backend import Backend, BackendOptions, Float32, open_backend
from vla_ops.policies.placed import RobotTransforms
from vla_ops.policies.policy import Policy, rows_of
from vla_ops.policies.real_time import Guide, Overlap, guide_of
from vla_ops.policies.setup import PolicySetup
from vla_ops.policies.steps import Float64
from vla_ops.policies.transforms import ModelInputs, Observation, stack_inputs
from vla_ops.robot import Dimension, RobotSpec


@dataclass(frozen=True, eq=False)
class Inferred:
    """What one call gave; all with a leading [B]."""

    # [H, a], in robot units, float64, absolute.
    actions: Float64
    # What the model said: [H, action_dim].
    raw: Float32
    inputs: ModelInputs
    noise: Float32
    # Of each stage; those of the model are the backend's.
    seconds: Mapping[str, float]


def open_pi(setup: PolicySetup, *, backend: str, options: BackendOptions, seed: int = 0) -> PiPolicy:
    """The policy of a setup, compiled and warmed up."""
    transforms = setup.transforms()
    _warm(transforms)
    return PiPolicy(setup, transforms, open_backend(backend, setup, options), seed, options)


@dataclass(eq=False)
class PiPolicy(Policy):
    """pi0 or pi0.5, in JAX or PyTorch."""

    setup: PolicySetup
    transforms: RobotTransforms
    backend: Backend
    # Of the noise: the k-th row that is asked for draws the same whatever was asked before, with every backend.
    seed: int = 0
    options: BackendOptions = field(default_factory=BackendOptions)
    _calls: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def spec(self) -> RobotSpec:
        """See Policy."""
        return self.setup.spec

    @property
    def state_dims(self) -> tuple[Dimension, ...]:
        """See Policy."""
        return self.transforms.state_dims

    @property
    def action_dims(self) -> tuple[Dimension, ...]:
        """See Policy."""
        return self.transforms.action_dims

    @property
    def cameras(self) -> tuple[str, ...]:
        """See Policy."""
        return self.transforms.cameras.cameras

    @property
    def horizon(self) -> int:
        """See Policy."""
        return self.transforms.horizon

    @property
    def metadata(self) -> dict[str, Any]:
        """What a client is told of the policy; plain values."""
        setup, transforms = self.setup, self.transforms
        return {
            "robot": setup.robot,
            "policy": f"{setup.training_name or setup.model.family}/{setup.folder.parent.name}/{setup.folder.name}",
            "backend": self.backend.name,
            **({} if setup.source is None else {"source": setup.source.name}),
            "state": [[dim.name, dim.unit] for dim in transforms.state_dims],
            "actions": [[dim.name, dim.unit] for dim in transforms.action_dims],
            "action_horizon": transforms.horizon,
            "observation_steps": self.observation_steps,
            "rate_hz": float(setup.spec.timeline.rate_hz),
            "cameras": list(transforms.cameras.cameras),
            "transforms": transforms.fingerprint,
            "norm_stats": setup.stats.fingerprint,
            "real_time": None if self.options.real_time is None else asdict(self.options.real_time),
        }

    def infer(
        self, observation: Observation, *, noise: Float32 | None = None, absolute: bool = True, overlap: Overlap | None = None
    ) -> Float64:
        """See Policy.

        `noise` is [H, action_dim] (or with [B]). For `overlap` the options must say `real_time`.
        Raise SchemaMismatchError or PromptError, by name, for what is not the robot's.
        """
        single = observation.state.ndim == 1
        given = None if noise is None else np.asarray(noise)[None] if single else np.asarray(noise)
        rows = [observation] if single else rows_of(observation)
        inferred = self.run(rows, noise=given, overlaps=None if overlap is None else [overlap])
        actions = inferred.actions[0] if single else inferred.actions
        return actions if absolute else self.transforms.relative(actions, observation)

    def run(
        self, observations: Sequence[Observation], *, noise: Float32 | None = None, overlaps: Sequence[Overlap | None] | None = None
    ) -> Inferred:
        """The actions of several single observations at once, with everything on the way to them and the seconds of each stage.

        With `overlaps`, one an observation, they go on from what each robot is carrying out; the steps of its delay are left as they are.
        """
        for observation in observations:
            self.require_steps(observation)
        began = time.perf_counter()
        rows = [self.transforms.forward_inference(observation) for observation in observations]
        inputs = stack_inputs(rows)
        guide = self._guide(observations, overlaps or [])
        transformed = time.perf_counter()
        with self._lock:
            noise = self.draw_noise(len(rows)) if noise is None else self._checked(noise, len(rows))
            # What a call waits for another is in no stage.
            raw, seconds = self._sample(inputs, noise, guide)
        sampled = time.perf_counter()
        actions = np.stack([self.transforms.inverse(chunk, seen) for chunk, seen in zip(raw, observations, strict=True)])
        for chunk, overlap in zip(actions, overlaps or [], strict=False):
            if overlap is not None:
                chunk[: overlap.delay] = overlap.actions[: overlap.delay]
        return Inferred(
            actions, raw, inputs, noise, {"transform": transformed - began, **seconds, "inverse": time.perf_counter() - sampled}
        )

    def draw_noise(self, rows: int) -> Float32:
        """Noise [rows, H, action_dim] of the next calls, a row each: a batch draws what its rows would one after another."""
        shape = (self.horizon, self.transforms.pad.width)
        calls = range(self._calls, self._calls + rows)
        self._calls += rows
        return np.stack([np.random.default_rng([self.seed, call]).standard_normal(shape, np.float32) for call in calls])

    def _guide(self, observations: Sequence[Observation], overlaps: Sequence[Overlap | None]) -> Guide | None:
        if all(overlap is None for overlap in overlaps):
            return None
        if self.options.real_time is None:
            todo = "Load it with BackendOptions(real_time=RealTime()), or serve it with --real-time."
            raise PolicyError("the policy was not made ready for real-time chunking", todo=todo)
        if len(overlaps) != len(observations):
            raise SchemaMismatchError("one overlap an observation is needed", found=len(overlaps), expected=len(observations))
        return guide_of(self.transforms, observations, overlaps)

    def _sample(self, inputs: ModelInputs, noise: Float32, guide: Guide | None) -> tuple[Float32, dict[str, float]]:
        """In calls of the sizes that were compiled, the last one filled up with its own last row."""
        chunks: list[Float32] = []
        seconds: dict[str, float] = {}
        done = 0
        while done < len(noise):
            left = len(noise) - done
            size = next((size for size in self.backend.batch_sizes if size >= left), self.backend.batch_sizes[-1])
            rows = np.minimum(np.arange(done, done + size), len(noise) - 1)
            sampled = self.backend.sample(_picked(inputs, rows), noise[rows], None if guide is None else guide.picked(list(rows)))
            chunks.append(sampled.actions[: min(size, left)])
            seconds = {stage: seconds.get(stage, 0.0) + spent for stage, spent in sampled.seconds.items()}
            done += size
        return np.concatenate(chunks), seconds

    def _checked(self, noise: Float32, rows: int) -> Float32:
        expected = (rows, self.horizon, self.transforms.pad.width)
        noise = np.asarray(noise, np.float32)
        if noise.shape != expected or not np.isfinite(noise).all():
            raise SchemaMismatchError("the noise is not the model's", found=f"shape {noise.shape}", expected=f"finite, of shape {expected}")
        return noise


def _warm(transforms: RobotTransforms) -> None:
    """Import and read what the first observation would otherwise wait for."""
    black = np.zeros((2 * transforms.cameras.size, 2 * transforms.cameras.size, 3), np.uint8)
    transforms.cameras.images(dict.fromkeys(transforms.cameras.cameras, black), ())
    transforms.prompts.tokenizer.encode("a")


def _picked(inputs: ModelInputs, rows: Any) -> ModelInputs:
    return ModelInputs(
        state=inputs.state[rows],
        images={slot: image[rows] for slot, image in inputs.images.items()},
        image_masks={slot: mask[rows] for slot, mask in inputs.image_masks.items()},
        tokens=inputs.tokens[rows],
        token_mask=inputs.token_mask[rows],
    )
