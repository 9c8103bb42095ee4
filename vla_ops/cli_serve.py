"""`vla-ops serve`: a policy for robots, by openpi's websocket protocol."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vla_ops.cli_named import named_robot
from vla_ops.cli_train import parsed
from vla_ops.errors import PolicyError, SpecError

if TYPE_CHECKING:
    from vla_ops.episodes.store import RobotStore
    from vla_ops.policies import PolicyStats
    from vla_ops.policies.policy import Policy
    from vla_ops.robot_file import Robot
    from vla_ops.serving.options import ServerOptions
    from vla_ops.spec import StatsFrom

_OWN = "own"
# JAX takes 0.75 of a GPU's memory unless it is told otherwise.
_MEMORY = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")


@dataclass(frozen=True)
class Serve:
    """Serve a policy to openpi's clients (and vla-ops-client) until SIGTERM or Ctrl-C: `vla-ops serve aloha_sim/pi0_tiny@best`.

    A run of this project says itself which robot, norm stats and prompts it is for. Any other checkpoint is served for `--robot`, with
    the norm stats that `--norm-stats` chooses. A policy that LeRobot saved has its own, and needs only `--robot`.
    """

    policy: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[RUN_OR_CHECKPOINT]")] = None
    """ROBOT/TRAINING[/RUN][@best|@STEP], what `vla-ops publish` published (URI or URI@VERSION), or a checkpoint by path, gs://, s3://,
    hf:// or https://."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """The same, where it reads better: `--robot piper --checkpoint gs://openpi-assets/checkpoints/pi05_base`."""
    source: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None
    """Of a mixture's run: whose policy it is to be. The robot sends and is sent its own numbers, under its own names."""
    robot: Annotated[str | None, tyro.conf.arg(metavar="ROBOT")] = None
    """Serve the checkpoint for this robot (a folder in robots/), whatever it was trained for."""
    norm_stats: Annotated[str | None, tyro.conf.arg(metavar="own|ASSET_ID")] = None
    """With --robot: the robot's `own` of its current dataset, or those of this name in the checkpoint's assets, such as `trossen`."""
    norm_stats_from: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """Another checkpoint whose assets have them."""
    dims: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="K [K ...]")] = None
    """Which of the norm stats' dimensions are the robot's state and action, in its order, where they are wider than the robot."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE [KEY=VALUE ...]")] = ()
    """With --robot: what the tensors do not say, as a training's YAML has it: `prompt.default="fold it" model.max_token_len=64`."""
    backend: Annotated[Literal["jax", "torch"] | None, tyro.conf.arg(metavar="jax|torch")] = None
    """What computes the model. Default: what reads the checkpoint."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the parameters: bfloat16 takes half the memory, and is what openpi serves."""
    sampling_steps: int = 10
    """Euler steps from noise to actions."""
    seed: int = 0
    """Of the noise."""
    real_time: bool = False
    """Make ready for chunks that go on from what the robot is carrying out (real-time chunking; `RealTimeBroker` of vla-ops-client)."""
    guidance: Literal["paper", "lerobot"] = "paper"
    """With --real-time: by the gradient through the model (arXiv:2506.07339), or without it as LeRobot computes it, which is faster."""
    guidance_weight: float = 5.0
    """With --real-time: how strongly a chunk may be pulled towards the one before, at most (beta in the paper)."""
    record: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write what robots see and are told there, as MCAP recordings that `vla-ops convert` reads."""
    check_consistency: bool = False
    """Before serving a run whose dataset is here, run one recorded frame through training, evaluation and serving; refuse a difference."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than loopback let in every machine that reaches it: give a token and TLS."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free."""
    token_env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Environment variable with the token that clients must send (`api_key` of openpi's client)."""
    tls_cert: Path | None = None
    """Certificate (PEM) for wss:// and https://."""
    tls_key: Path | None = None
    """Its key (PEM), where it is not in the same file."""
    max_message_mb: float = 16.0
    """Larger messages end their connection."""
    max_clients: int = 256
    """Connections at once."""
    max_batch: int = 1
    """Requests that are computed at once: on a GPU more cost little. The model is made ready for 1, 2, 4, ... of them."""
    max_waiting: int = 64
    """Requests that may wait meanwhile."""
    wait_timeout_s: float = 10.0
    """How long a request may wait for its turn."""

    def run(self) -> int:
        """Load, compile, listen."""
        from vla_ops.serving.recorder import McapRecorder
        from vla_ops.serving.server import serve
        from vla_ops.serving.service import PolicyService

        options = self._options()
        # Before a model is loaded for nothing.
        options.tls()
        if not options.is_loopback and options.token is None:
            _say(f"ANY MACHINE that reaches {options.host} may use this policy: --token-env asks for a token")
        policy = self._policy()
        if self.check_consistency:
            _check(policy)
        service = PolicyService(policy)
        _say(f"{service.metadata['policy']} for {service.metadata['robot']}; layouts {', '.join(service.requests.describe())}")
        with ExitStack() as held:
            recorder = None if self.record is None else held.enter_context(McapRecorder(self.record, service, say=_say))
            serve(service, options, recorder=recorder, say=_say)
        return 0

    def _policy(self) -> Policy:
        os.environ.setdefault(*_MEMORY)
        from vla_ops.home import home
        from vla_ops.policies.backend import BackendOptions, batches
        from vla_ops.policies.policy import Policy
        from vla_ops.policies.real_time import RealTime

        given: dict[str, Any] = {"source": self.source}
        if self.robot is not None:
            from vla_ops.spec import TrainingSpec
            from vla_ops.training.overrides import overridden

            robot, store = named_robot(self.robot)
            training = overridden(TrainingSpec(), parsed(self.settings)) if self.settings else None
            given |= {"robot": robot, "stats": self._stats(robot, store), "training": training}
        elif self.norm_stats or self.norm_stats_from or self.dims or self.settings:
            raise PolicyError("--norm-stats, --norm-stats-from, --dims and --set are for --robot", todo="A run says these itself.")
        rules = RealTime(self.guidance_weight, self.guidance == "paper") if self.real_time else None
        options = BackendOptions(dtype=self.dtype, sampling_steps=self.sampling_steps, batch_sizes=batches(self.max_batch), real_time=rules)
        self._fetch()
        return Policy.load(self._uri, home=home(), backend=self.backend, options=options, seed=self.seed, say=_say, **given)

    def _fetch(self) -> None:
        """Of a home in a store, what is served."""
        from vla_ops.homes.at_home import fetched, needs_of_run
        from vla_ops.homes.needs import run_of, training

        wanted = partial(training, to_resume=False) if self.check_consistency else run_of
        for uri in (self._uri, self.norm_stats_from):
            fetched({} if uri is None else needs_of_run(uri, wanted), _say)

    @property
    def _uri(self) -> str:
        named = [uri for uri in (self.policy, self.checkpoint) if uri is not None]
        if len(named) != 1:
            raise SpecError("which policy is to be served?", found=named or "none", todo="vla-ops serve ROBOT/TRAINING, or a checkpoint.")
        return named[0]

    def _stats(self, robot: Robot, store: RobotStore) -> PolicyStats | StatsFrom | None:
        from vla_ops.spec import StatsFrom

        if self.norm_stats == _OWN:
            from vla_ops.datasets.refresh import accepted_dataset
            from vla_ops.homes.at_home import fetched
            from vla_ops.homes.needs import said
            from vla_ops.norm_stats.refresh import current_norm_stats
            from vla_ops.policies import read_stats

            fetched({robot.name: said}, _say)
            version = accepted_dataset(robot, store).version.version
            return read_stats(current_norm_stats(robot, store, dataset_version=version))
        if self.norm_stats is None:
            return None
        dims = None if self.dims is None else list(self.dims)
        return StatsFrom.model_validate({"from": self._assets_of(store), "asset_id": self.norm_stats, "dims": dims})

    def _assets_of(self, store: RobotStore) -> str:
        """Where the assets are: of what has a name here, on this machine."""
        from vla_ops.checkpoints.sources import checkpoint_at

        uri = self.norm_stats_from or self._uri
        return uri if ":" in uri.partition("/")[0] else str(checkpoint_at(uri, store.root.parent).folder)

    def _options(self) -> ServerOptions:
        from vla_ops.serving.options import ServerOptions

        token = None if self.token_env is None else os.environ.get(self.token_env)
        if self.token_env is not None and not token:
            raise PolicyError("there is no token in the environment", found=f"{self.token_env} is empty", todo="Set it, or leave it out.")
        return ServerOptions(
            host=self.host, port=self.port, token=token, tls_cert=self.tls_cert, tls_key=self.tls_key, max_clients=self.max_clients,
            max_batch=self.max_batch, max_message_bytes=int(self.max_message_mb * (1 << 20)),
            max_waiting=self.max_waiting, wait_timeout_s=self.wait_timeout_s,
        )  # fmt: skip


def _check(policy: Policy) -> None:
    from vla_ops.checkpoints.layout import RUN_FILE
    from vla_ops.policies.pi_policy import PiPolicy
    from vla_ops.serving.consistency import check_consistency
    from vla_ops.training.run import read_run

    if not isinstance(policy, PiPolicy):
        raise PolicyError("--check-consistency is for runs of this project", found=policy.metadata["policy"], todo="Leave it out.")
    folder = policy.setup.folder
    # In a published one it is within.
    file = folder / RUN_FILE if (folder / RUN_FILE).is_file() else folder.parent / RUN_FILE
    _say(check_consistency(policy, read_run(file)).render())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
