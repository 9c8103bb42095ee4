"""A checkpoint as one object: what the robot sees in, actions in its own units out.

    policy = Policy.load("aloha_sim/pi0_tiny@best")                      a run of this project
    policy = Policy.load("mixture/training", source="left")              one of the robots that a mixture is of
    policy = Policy.load("gs://.../pi05_base", robot=robot, stats=...)   any other checkpoint, for a robot
    policy = Policy.load("outputs/train/act", robot=robot)               a policy that LeRobot saved (`lerobot_policy`)
    actions = policy.infer(observation)                                  [horizon, dim], absolute, float64
    policy.run([one, another]).seconds                                   the seconds of each stage

Of pi0 and pi0.5 inputs are made and actions taken back by the `PolicyTransforms` that training and validation use. Everything is
compiled when the policy is loaded; a call has fixed shapes and never compiles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.sources import locate
from vla_ops.errors import PolicyError, SchemaMismatchError
from vla_ops.policies.backend import BackendOptions, Float32, backend_of
from vla_ops.policies.lerobot_folder import LEROBOT, lerobot_folder
from vla_ops.policies.policy_stats import PolicyStats
from vla_ops.policies.real_time import Overlap
from vla_ops.policies.setup import make_setup
from vla_ops.policies.steps import Float64
from vla_ops.policies.transforms import Observation
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.robot_file import Robot
from vla_ops.spec import StatsFrom, TrainingSpec

_PLAIN = BackendOptions()
# Of the model, of which a backend tells one or several; `transform` comes before them and `inverse` after.
MODEL_STAGES = ("prefix", "denoise", "model")


class Inference(Protocol):
    """What one call of any policy gave."""

    @property
    def actions(self) -> Float64:
        """[B, H, a], in robot units, absolute."""
        ...

    @property
    def seconds(self) -> Mapping[str, float]:
        """Of each stage: `transform`, those of the model, `inverse`."""
        ...


class Policy(ABC):
    """A model with what stands between it and its robot. Calls from several threads come one after another."""

    @staticmethod
    def load(
        uri: str | Path,
        *,
        home: Path = Path("data"),
        robot: Robot | None = None,
        stats: PolicyStats | StatsFrom | None = None,
        training: TrainingSpec | None = None,
        source: str | None = None,
        backend: str | None = None,
        options: BackendOptions | None = None,
        seed: int = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> Policy:
        """The policy of a run or a checkpoint (a name or URI as `init:` takes it), compiled and warmed up.

        With `robot` it is run for that robot: `stats` are then a choice that is made here, and `training` says what the tensors do not
        (tokenizer, prompt, `model.max_token_len`, `model.dtype`). Of a mixture's run it is the policy of one `source`. What LeRobot saved
        needs the robot alone. Raise PolicyError, CheckpointError, StatsMismatchError, SchemaMismatchError or FetchError.
        """
        path = locate(str(uri), home, say=say)
        if (theirs := lerobot_folder(path)) is not None:
            from vla_ops.policies.lerobot_policy import open_lerobot

            _refuse_choices(theirs, stats=stats, training=training, source=source, backend=backend, options=options)
            return open_lerobot(theirs, robot, seed=seed)
        from vla_ops.policies.pi_policy import open_pi

        setup = make_setup(_folder(path), robot=robot, stats=stats, training=training, source=source)
        return open_pi(setup, backend=backend or backend_of(setup.folder), options=options or BackendOptions(), seed=seed)

    @property
    @abstractmethod
    def spec(self) -> RobotSpec:
        """Its robot."""

    @property
    @abstractmethod
    def state_dims(self) -> tuple[Dimension, ...]:
        """What an observation's state is of."""

    @property
    @abstractmethod
    def action_dims(self) -> tuple[Dimension, ...]:
        """What its actions are of."""

    @property
    @abstractmethod
    def cameras(self) -> tuple[str, ...]:
        """The robot's cameras that it sees."""

    @property
    @abstractmethod
    def horizon(self) -> int:
        """Steps in a chunk."""

    @property
    def observation_steps(self) -> int:
        """How many observations it sees, the newest and its past."""
        return 1

    @property
    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What a client is told of the policy; plain values."""

    @abstractmethod
    def infer(
        self, observation: Observation, *, noise: Float32 | None = None, absolute: bool = True, overlap: Overlap | None = None
    ) -> Float64:
        """Actions [H, a], or [B, H, a] of a batch, in robot units; with `absolute=False` deltas where the model was trained on deltas.

        With `overlap`, of a single observation, they go on from what the robot is carrying out.
        """

    @abstractmethod
    def run(
        self, observations: Sequence[Observation], *, noise: Float32 | None = None, overlaps: Sequence[Overlap | None] | None = None
    ) -> Inference:
        """The actions of several single observations at once, and the seconds of each stage; `overlaps` as in `infer`, one each."""

    def require_steps(self, observation: Observation) -> None:
        """Raise SchemaMismatchError unless the observation has as many steps as the policy sees: none is ever repeated in silence."""
        given, seen = 1 + len(observation.past), self.observation_steps
        if given != seen:
            raise SchemaMismatchError(
                "the policy does not see so many observations at once",
                found=given,
                expected=f"the last {seen}, one step after another" if seen > 1 else "one, without a past",
                todo="Give it the earlier ones, the oldest first, as `past`." if given < seen else None,
            )


def _refuse_choices(folder: Path, **choices: Any) -> None:
    """Raise PolicyError for what LeRobot's own files say, or what only the backends here can do."""
    options, backend = choices.pop("options"), choices.pop("backend")
    asked = [name for name, value in choices.items() if value is not None]
    asked += [] if backend in (None, "torch", LEROBOT) else [f"backend {backend}"]
    if options is not None and (options.dtype, options.sampling_steps) != (_PLAIN.dtype, _PLAIN.sampling_steps):
        asked.append(f"dtype {options.dtype}, {options.sampling_steps} sampling steps")
    asked += [] if options is None or options.real_time is None else ["real-time chunking"]
    if asked:
        raise PolicyError(
            "a policy of LeRobot's is run as its own files say",
            file=folder,
            found=", ".join(asked),
            expected="the robot alone",
            todo="Its norm stats are in its processors, its dtype and its steps in its config.json.",
        )


def _folder(path: Path) -> Path:
    """The step folder where a run or its params were named; an export's own folder."""
    return path.absolute() if backend_of(path) == "torch" else open_checkpoint(path).folder


def rows_of(observation: Observation) -> list[Observation]:
    """The rows of a batch."""
    prompt, masks = observation.prompt, observation.delta_mask
    pasts = zip(*(rows_of(earlier) for earlier in observation.past), strict=True) if observation.past else [()] * len(observation.state)
    return [
        Observation(
            state,
            {camera: image[k] for camera, image in observation.images.items()},
            prompt if prompt is None or isinstance(prompt, str) else prompt[k],
            None if masks is None else masks if masks.ndim == 1 else masks[k],
            past=tuple(past),
        )
        for k, (state, past) in enumerate(zip(observation.state, pasts, strict=True))
    ]
