"""A policy and its processors as LeRobot itself loads them, whose every tensor is then compared with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.errors import CheckpointError, PolicyError
from vla_ops.policies.lerobot_folder import CONFIG, LeRobotFolder
from vla_ops.policies.torch_weights import difference, opened_weights

if TYPE_CHECKING:
    import torch

# Those whose `predict_action_chunk` needs nothing but what it is given. Others answer from queues that `select_action` fills.
KINDS = ("act", "diffusion", "pi0", "pi05", "pi0_fast", "smolvla")
_PREFIX = "model."


@dataclass(frozen=True, eq=False)
class LeRobotModel:
    """LeRobot's policy on its device, and its two processors."""

    policy: Any
    preprocess: Callable[[dict[str, Any]], dict[str, Any]]
    postprocess: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device


def load_model(there: LeRobotFolder) -> LeRobotModel:
    """Load a policy on the best device there is.

    Raise PolicyError for a policy that cannot be run here, CheckpointError where the model has not the weights of the file.
    """
    if there.kind not in KINDS:
        todo = "It keeps what it saw in queues of its own, or is of a later LeRobot: run it with LeRobot's own server."
        raise PolicyError(
            "no policy of this kind can be served", file=there.folder / CONFIG, found=there.kind, expected=", ".join(KINDS), todo=todo
        )
    with opened_weights(there.weights) as stored:
        names = set(stored.keys())
    import torch

    with _told(there):
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies import get_policy_class, make_pre_post_processors
        from lerobot.utils.device_utils import auto_select_torch_device

        device = auto_select_torch_device().type
        config: Any = PreTrainedConfig.from_pretrained(str(there.folder), cli_overrides=[f"--device={device}"])
        if getattr(config, "pretrained_backbone_weights", None) is not None:
            # They would be fetched, and then overwritten by those of the file.
            config.pretrained_backbone_weights = None
        policy = get_policy_class(there.kind).from_pretrained(str(there.folder), config=config)
        overrides = {"device_processor": {"device": device}} if there.step("device_processor") is not None else {}
        preprocess, postprocess = make_pre_post_processors(
            config, str(there.folder), preprocessor_overrides=overrides | _tokenizer(there), postprocessor_overrides={}
        )
    require_same_weights(policy.state_dict(), there.weights, names)
    return LeRobotModel(policy.eval(), preprocess, postprocess, torch.device(device))


def require_same_weights(state: Mapping[str, torch.Tensor], file: Path, names: set[str]) -> None:
    """Compare every tensor of a loaded policy with the file, bit for bit in the policy's dtype. Raise CheckpointError.

    LeRobot only logs what it does not find, or prints it and goes on with random weights.
    """
    # openpi's own names are LeRobot's without the prefix.
    stored_as = {(name if name in state else f"{_PREFIX}{name}"): name for name in names}
    # Of tensors that are one in memory the file has one.
    places = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in state.items()}
    stored_places = {places[name] for name in stored_as if name in places}
    missing = sorted(name for name in state if name not in stored_as and places[name] not in stored_places)
    extra = sorted(stored_as[name] for name in stored_as if name not in state)
    if missing or extra:
        found = f"{len(missing)} not in the file ({', '.join(missing[:3])}), {len(extra)} not in the policy ({', '.join(extra[:3])})"
        todo = "They are of another policy, or of another version of LeRobot."
        raise CheckpointError("the file has not the tensors of the policy", file=file, array=(missing or extra)[0], found=found, todo=todo)
    with opened_weights(file) as stored:
        for name, source in stored_as.items():
            tensor, there = state[name], stored.get_tensor(source)
            if differing := difference(tensor, there):
                todo = "It was not loaded: look at what LeRobot printed."
                raise CheckpointError("the loaded policy has not the weights of the file", file=file, array=name, todo=todo, **differing)


def _tokenizer(there: LeRobotFolder) -> dict[str, dict[str, Any]]:
    """A tokenizer that lies in the folder itself, which LeRobot would look for where the server was started."""
    name = (there.step("tokenizer_processor") or {}).get("tokenizer_name")
    is_here = isinstance(name, str) and name.startswith("./") and (there.folder / name).is_dir()
    return {"tokenizer_processor": {"tokenizer_name": str(there.folder / str(name))}} if is_here else {}


@contextmanager
def _told(there: LeRobotFolder) -> Iterator[None]:
    """What LeRobot raises while it loads, as one error that names the folder."""
    try:
        yield
    except ImportError as error:
        raise PolicyError(
            f"LeRobot's {there.kind} needs packages that are not installed",
            file=there.folder / CONFIG,
            found=" ".join(str(error).split()),
            todo="Install them: uv sync --extra policies (pip install 'vla-ops[policies]').",
        ) from error
    # draccus, torch, transformers and the Hub raise what they like; the policy is not loaded in any case.
    except Exception as error:
        raise PolicyError(
            "LeRobot cannot load the policy",
            file=there.folder,
            found=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
            todo="Was it saved by this version of LeRobot? What it names on the Hub (a tokenizer, a VLM) must be there, or in the cache.",
        ) from error
