"""LeRobot's own policies (ACT, Diffusion, SmolVLA, pi0, ...) behind `Policy`: its processors, its model, nothing of ours in between.

A chunk is asked for with `predict_action_chunk`; the queue behind `select_action` is not used, so a call knows of no other. Noise is
drawn by PyTorch, seeded by the policy's seed and the number of the call. ACT draws none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_ops.errors import PolicyError, PromptError, SchemaMismatchError, VlaOpsError
from vla_ops.policies.backend import Float32
from vla_ops.policies.images import as_pixels
from vla_ops.policies.lerobot_fit import SeenCamera, fit
from vla_ops.policies.lerobot_folder import LEROBOT, STATE, LeRobotFolder, read_lerobot
from vla_ops.policies.lerobot_loading import LeRobotModel, load_model
from vla_ops.policies.policy import Policy, rows_of
from vla_ops.policies.real_time import Overlap
from vla_ops.policies.steps import Float64
from vla_ops.policies.transforms import Observation, check_state, refuse_nonfinite
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.robot_file import Robot

_SIDE_WHERE_ANY = 224


@dataclass(frozen=True, eq=False)
class Computed:
    """What one call gave: see `Inference`."""

    actions: Float64
    seconds: Mapping[str, float]


def open_lerobot(folder: Any, robot: Robot | None, *, seed: int = 0) -> LeRobotPolicy:
    """The policy in a folder for a robot, warmed up.

    Raise PolicyError, CheckpointError, StatsMismatchError or SchemaMismatchError, naming the file and the feature, for what does not fit.
    """
    there = read_lerobot(folder)
    if robot is None:
        raise PolicyError(
            "nothing in a policy of LeRobot's says which robot here it is for",
            file=folder,
            todo="Name it: --robot ROBOT (in Python robot=).",
        )
    there.refuse_no_stats()
    cameras = fit(there, robot)
    made = LeRobotPolicy(there, robot, load_model(there), cameras, seed)
    made.warm()
    return made


@dataclass(eq=False)
class LeRobotPolicy(Policy):
    """See Policy; made by `open_lerobot`."""

    there: LeRobotFolder
    robot: Robot
    model: LeRobotModel
    seen: tuple[SeenCamera, ...]
    # Of the noise: the k-th call draws the same whatever was asked before.
    seed: int = 0
    _horizon: int = field(default=0, init=False)
    _calls: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def spec(self) -> RobotSpec:
        """See Policy."""
        return self.robot.spec

    @property
    def state_dims(self) -> tuple[Dimension, ...]:
        """See Policy."""
        return tuple(self.spec.state_dims)

    @property
    def action_dims(self) -> tuple[Dimension, ...]:
        """See Policy."""
        return tuple(self.spec.action_dims)

    @property
    def cameras(self) -> tuple[str, ...]:
        """See Policy."""
        return tuple(camera.name for camera in self.seen)

    @property
    def horizon(self) -> int:
        """See Policy."""
        return self._horizon

    @property
    def observation_steps(self) -> int:
        """See Policy."""
        return self.there.observation_steps

    @property
    def metadata(self) -> dict[str, Any]:
        """See Policy. `transforms` and `norm_stats` are fingerprints of the processors' files."""
        transforms, norm_stats = self.there.fingerprints
        folder = self.there.folder
        return {
            "robot": self.robot.name,
            "policy": f"{self.there.kind}/{folder.parent.name}/{folder.name}",
            "backend": LEROBOT,
            "state": [[dim.name, dim.unit] for dim in self.state_dims],
            "actions": [[dim.name, dim.unit] for dim in self.action_dims],
            "action_horizon": self.horizon,
            "observation_steps": self.observation_steps,
            # So many of a chunk LeRobot itself carries out.
            "n_action_steps": self.there.config.get("n_action_steps", self.horizon),
            "rate_hz": float(self.spec.timeline.rate_hz),
            "cameras": list(self.cameras),
            "transforms": transforms,
            "norm_stats": norm_stats,
        }

    def infer(
        self, observation: Observation, *, noise: Float32 | None = None, absolute: bool = True, overlap: Overlap | None = None
    ) -> Float64:
        """See Policy. `noise` cannot be given: most of these policies draw more of it on the way."""
        single = observation.state.ndim == 1
        rows = [observation] if single else rows_of(observation)
        computed = self.run(rows, noise=noise, overlaps=None if overlap is None else [overlap])
        actions = computed.actions[0] if single else computed.actions
        return actions if absolute else self._relative(actions, observation.state)

    def run(
        self, observations: Sequence[Observation], *, noise: Float32 | None = None, overlaps: Sequence[Overlap | None] | None = None
    ) -> Computed:
        """See Policy. It does no real-time chunking."""
        if any(overlap is not None for overlap in overlaps or ()):
            todo = "Leave `real_time` out: ActionChunkBroker(ahead=...) asks ahead without it."
            raise PolicyError("a policy of LeRobot's does no real-time chunking here", file=self.there.folder, todo=todo)
        if noise is not None:
            raise SchemaMismatchError("this policy draws its noise itself", found="noise", expected="none", todo="Leave it out.")
        for observation in observations:
            self._check(observation)
        began = time.perf_counter()
        batch = self._batch(observations)
        waited = time.perf_counter()
        # The processors keep the state of what they saw last, which relative actions are added to: nothing may come in between.
        with self._lock:
            # What a call waits for another is in no stage.
            began += time.perf_counter() - waited
            actions, seconds = self._chunk(batch, began)
        for chunk in actions:
            refuse_nonfinite(chunk, self.action_dims, "an action of the model, in robot units,")
        return Computed(actions, seconds)

    def warm(self) -> None:
        """Compute one chunk of nothing, which tells how long one is. Raise PolicyError where the policy cannot do it."""
        blank = Observation(np.zeros(len(self.state_dims), np.float32), {camera.name: _black(camera) for camera in self.seen}, "warm up")
        blank = Observation(blank.state, blank.images, blank.prompt, past=(blank,) * (self.observation_steps - 1))
        try:
            actions, _ = self._chunk(self._batch([blank]), time.perf_counter())
        except VlaOpsError:
            raise
        # Whatever a model raises: it would do so with each request.
        except Exception as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            raise PolicyError("the policy cannot act on what its own files say it sees", file=self.there.folder, found=found) from error
        if actions.ndim != 3 or actions.shape[2] != len(self.action_dims):
            expected = f"[1, steps, {len(self.action_dims)}]"
            raise PolicyError("the policy gives no chunk of actions", file=self.there.folder, found=list(actions.shape), expected=expected)
        self._horizon, self._calls = actions.shape[1], 0

    def _check(self, observation: Observation) -> None:
        self.require_steps(observation)
        for one in (*observation.past, observation):
            check_state(one.state, self.state_dims)
        if self.there.has_prompt and not (isinstance(observation.prompt, str) and observation.prompt.strip()):
            todo = "Give the task's text with each observation."
            raise PromptError("there is no prompt", found=repr(observation.prompt), todo=todo)

    def _batch(self, observations: Sequence[Observation]) -> dict[str, Any]:
        """What LeRobot makes of observations before its processors: float32, images [B, 3, H, W] from 0 to 1; of n steps [B, n, ...]."""
        import torch

        steps = [(*observation.past, observation) for observation in observations]
        state = np.stack([np.stack([one.state for one in row]) for row in steps]).astype(np.float32)
        batch: dict[str, Any] = {STATE: torch.from_numpy(state).to(self.model.device)}
        for camera in self.seen:
            pixels = np.stack([np.stack([_pixels(one, camera, self.cameras) for one in row]) for row in steps])
            batch[camera.feature] = torch.from_numpy(pixels).to(self.model.device).movedim(-1, -3).float().contiguous() / 255
        if self.observation_steps == 1:
            batch = {feature: tensor[:, 0] for feature, tensor in batch.items()}
        return batch | {"task": [observation.prompt or "" for observation in observations]}

    def _chunk(self, batch: dict[str, Any], began: float) -> tuple[Float64, dict[str, float]]:
        """Actions [B, H, a] and the seconds of each stage, the first of which began at `began`."""
        import torch

        with torch.inference_mode(), self._seeded(), self._precision():
            inputs = self.model.preprocess(batch)
            transformed = time.perf_counter()
            raw = self.model.policy.predict_action_chunk(inputs)
            if self.model.device.type == "cuda":
                torch.cuda.synchronize(self.model.device)
            sampled = time.perf_counter()
            actions = self.model.postprocess(raw).float().cpu().numpy().astype(np.float64)
        ended = time.perf_counter()
        return actions, {"transform": transformed - began, "model": sampled - transformed, "inverse": ended - sampled}

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """PyTorch's own generators, of this call's seed and afterwards as they were."""
        import torch

        (seed,) = np.random.SeedSequence([self.seed, self._calls]).generate_state(1, np.uint32)
        self._calls += 1
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(int(seed))
            yield

    def _precision(self) -> ExitStack:
        """As LeRobot runs a policy that was trained with mixed precision."""
        import torch

        held = ExitStack()
        if self.model.device.type == "cuda" and self.model.policy.config.use_amp:
            held.enter_context(torch.autocast(device_type="cuda"))
        return held

    def _relative(self, actions: Float64, state: np.ndarray[Any, Any]) -> Float64:
        import torch
        from lerobot.processor import RelativeActionsProcessorStep, to_relative_actions

        steps: Any = getattr(self.model.preprocess, "steps", ())
        step = next((step for step in steps if isinstance(step, RelativeActionsProcessorStep) and step.enabled), None)
        if step is None:
            return actions
        mask = step._build_mask(actions.shape[-1])
        return to_relative_actions(torch.from_numpy(actions), torch.from_numpy(np.float64(state)), mask).numpy()


def _black(camera: SeenCamera) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros((*(camera.size or (_SIDE_WHERE_ANY, _SIDE_WHERE_ANY)), 3), np.uint8)


def _pixels(observation: Observation, camera: SeenCamera, all_of: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if camera.name not in observation.images:
        raise SchemaMismatchError(
            "an image is missing",
            stream=camera.name,
            found=f"images {', '.join(observation.images) or 'none'}",
            expected=f"images {', '.join(all_of)}",
            todo="A policy that was trained with a camera is another one without it.",
        )
    pixels = as_pixels(observation.images[camera.name], camera=camera.name)
    if pixels.ndim != 3 or camera.size not in (None, pixels.shape[:2]):
        raise SchemaMismatchError(
            "the image is not of the size that the policy was trained on",
            stream=camera.name,
            found=f"{pixels.shape}",
            expected=f"({', '.join(map(str, camera.size or ('H', 'W')))}, 3)",
            todo="Resize it on the robot as its dataset's was: this policy takes images as they are.",
        )
    return pixels
