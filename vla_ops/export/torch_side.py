"""The same of the exported model, by LeRobot's port of openpi's `PI0Pytorch`, whose every tensor is compared with the file first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.errors import ParityError
from vla_ops.export.jax_side import Float32, Outputs
from vla_ops.export.lerobot_sizes import other_sizes, variants_of
from vla_ops.export.plan import Precision
from vla_ops.export.samples import Samples
from vla_ops.export.table import EMBEDDING, TIED
from vla_ops.models.config import ModelConfig
from vla_ops.policies.real_time import Guide
from vla_ops.policies.torch_weights import difference, opened_weights

if TYPE_CHECKING:
    import torch

    from vla_ops.checkpoints.architecture import Architecture

_PREFIX = "model."
# The joint pass of LeRobot's training loss is written for this many heads; sampling is not.
TRAINABLE_HEADS = 8


def lerobot_config(config: ModelConfig, architecture: Architecture, precision: Precision, **more: Any) -> Any:
    """LeRobot's configuration of this model, to be made and used within `other_sizes()`."""
    from lerobot.policies.pi0.configuration_pi0 import PI0Config
    from lerobot.policies.pi05.configuration_pi05 import PI05Config

    paligemma, action_expert = variants_of(architecture)
    return (PI05Config if config.pi05 else PI0Config)(
        paligemma_variant=paligemma,
        action_expert_variant=action_expert,
        dtype=precision,
        chunk_size=config.action_horizon,
        n_action_steps=config.action_horizon,
        max_state_dim=config.action_dim,
        max_action_dim=config.action_dim,
        image_resolution=(config.image_size, config.image_size),
        tokenizer_max_length=config.max_token_len,
        **{"device": "cpu", "push_to_hub": False} | more,
    )


def build_model(config: ModelConfig, architecture: Architecture, precision: Precision) -> torch.nn.Module:
    """An empty `PI0Pytorch` of this model on the CPU, for inference."""
    from lerobot.policies.pi0.modeling_pi0 import PI0Pytorch
    from lerobot.policies.pi05.modeling_pi05 import PI05Pytorch

    with other_sizes():
        return (PI05Pytorch if config.pi05 else PI0Pytorch)(lerobot_config(config, architecture, precision)).eval()


def load_weights(model: torch.nn.Module, file: Path) -> None:
    """Copy every tensor of a model.safetensors, of either layout, into the model. Raise ParityError for one too many or too few."""
    import torch

    left = {name: tensor for name, tensor in model.state_dict().items() if name not in (EMBEDDING, TIED)}
    with opened_weights(file) as stored, torch.no_grad():
        names = {name.removeprefix(_PREFIX): name for name in sorted(stored.keys())}
        _require_same_names(names, model.state_dict(), file)
        for name, tensor in left.items():
            tensor.copy_(stored.get_tensor(names[name]))
        embedding = stored.get_tensor(names.get(TIED, names.get(EMBEDDING, "")))
        for name in (EMBEDDING, TIED):
            model.get_parameter(name).copy_(embedding)


def require_same_tensors(state: Mapping[str, torch.Tensor], file: Path) -> int:
    """Compare every tensor of a loaded model with the file, bit for bit in the model's dtype; return how many there are.

    LeRobot's `from_pretrained` prints what goes wrong and returns a model of random weights: this is what finds it out. Raise ParityError.
    """
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    with opened_weights(file) as stored:
        names = {name.removeprefix(_PREFIX): name for name in sorted(stored.keys())}
        _require_same_names(names, state, file)
        for name, tensor in state.items():
            there = stored.get_tensor(names[name] if name in names else names[TIED if name == EMBEDDING else EMBEDDING])
            if differing := difference(tensor, there):
                todo = "It was not loaded: look at what the loader printed."
                raise ParityError("the loaded model has not the weights of the file", file=file, array=name, todo=todo, **differing)
    return len(state)


def torch_outputs(model: torch.nn.Module, samples: Samples, *, steps: int = 10, at_once: int = 8) -> Outputs:
    """What `jax_outputs` computes, by the exported model in its own dtypes."""
    import torch

    parts = []
    for start in range(0, len(samples), at_once):
        part = samples.rows(start, start + at_once)
        with torch.inference_mode():
            prefix, velocity = _velocity(model, part)
        chunk = torch_chunk(model, part.inputs, part.noise, steps=steps)
        parts.append(Outputs(prefix.float().numpy(), velocity.float().numpy(), chunk))
    return Outputs.joined(parts)


def torch_chunk(
    model: Any, inputs: Mapping[str, Any], noise: Float32, *, steps: int = 10, device: Any = "cpu", guide: Guide | None = None
) -> Float32:
    """Actions [B, H, action_dim] sampled from `noise` for inputs in openpi's keys, on the device that the model is on.

    `guide` is for a model of which `enable_real_time` was asked. LeRobot takes one overlap for all rows: they are then computed one by one.
    """
    import torch

    if guide is not None and len(noise) > 1:
        rows = [(_row(inputs, k), noise[k : k + 1], guide.picked([k])) for k in range(len(noise))]
        return np.concatenate([torch_chunk(model, row, drawn, steps=steps, device=device, guide=one) for row, drawn, one in rows])
    images, masks, tokens, token_mask, state = _inputs(inputs, device)
    given = (images, masks, tokens, token_mask, *([] if _is_pi05(model) else [state]))
    # Guidance asks for gradients, of which inference mode knows nothing.
    with torch.inference_mode() if guide is None else torch.no_grad():
        overlap = {} if guide is None else _overlap(guide, device)
        return model.sample_actions(*given, noise=_tensor(noise, device), num_steps=steps, **overlap).float().cpu().numpy()


def _overlap(guide: Guide, device: Any) -> dict[str, Any]:
    """A single row's guide as LeRobot takes it."""
    (delay,), (length,) = guide.delays, guide.lengths
    left = _tensor(guide.actions, device) if length else None
    return {"prev_chunk_left_over": left, "inference_delay": delay, "execution_horizon": length}


def _row(inputs: Mapping[str, Any], k: int) -> dict[str, Any]:
    def picked(value: Any) -> Any:
        return {name: one[k : k + 1] for name, one in value.items()} if isinstance(value, Mapping) else value[k : k + 1]

    return {key: picked(value) for key, value in inputs.items()}


def torch_layers(model: torch.nn.Module, samples: Samples) -> dict[str, Float32]:
    """Return the output of every layer under its module's name, as `jax_layers`, caught by forward hooks."""
    import torch

    with _watched(model) as seen, torch.inference_mode():
        _velocity(model, samples)
    found = {}
    for name, tensors in seen.items():
        # The image tower runs once a camera.
        found[name] = torch.cat(tensors).float().numpy() if "vision" in name or "projector" in name else tensors[-1].float().numpy()
    return found


@contextmanager
def _watched(model: Any) -> Iterator[dict[str, list[Any]]]:
    seen: dict[str, list[Any]] = {}

    def watch(name: str) -> Any:
        def note(_module: Any, _given: Any, output: Any) -> None:
            seen.setdefault(name, []).append(output[0] if isinstance(output, tuple) else output)

        return note

    def watch_suffix(*given: Any, **more: Any) -> Any:
        embedded = original(*given, **more)
        seen["suffix"] = [embedded[0]]
        if embedded[3] is not None:
            seen["condition"] = [embedded[3]]
        return embedded

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if _is_layer(name)]
    original, model.embed_suffix = model.embed_suffix, watch_suffix
    try:
        yield seen
    finally:
        del model.embed_suffix
        for hook in hooks:
            hook.remove()


def _is_layer(name: str) -> bool:
    last = name.rpartition(".")[2]
    numbered = last.isdecimal() and name.endswith(f"layers.{last}")
    return numbered or name.endswith(
        ("vision_model.embeddings", "post_layernorm", "multi_modal_projector", "gemma_expert.model.norm", "action_out_proj")
    )


def _velocity(model: Any, samples: Samples) -> tuple[Any, Any]:
    """The prefix's embeddings, and v(x_t, t) after it as `sample_actions` asks for it."""
    import torch
    from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d

    images, masks, tokens, token_mask, state = _inputs(samples.inputs)
    prefix, valid, starts = model.embed_prefix(images, masks, tokens, token_mask)
    mask = prepare_attention_masks_4d(make_att_2d_masks(valid, starts))
    model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
    _, cache = model.paligemma_with_expert.forward(
        attention_mask=mask,
        position_ids=torch.cumsum(valid, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[prefix, None],
        use_cache=True,
    )
    given = {} if _is_pi05(model) else {"state": state}
    noisy, time = torch.from_numpy(samples.noisy), torch.from_numpy(samples.time)
    return prefix, model.denoise_step(prefix_pad_masks=valid, past_key_values=cache, x_t=noisy, timestep=time, **given)


def _inputs(inputs: Mapping[str, Any], device: Any = "cpu") -> tuple[list[Any], list[Any], Any, Any, Any]:
    images = [_tensor(image, device).permute(0, 3, 1, 2).float() / 255.0 * 2.0 - 1.0 for image in inputs["image"].values()]
    masks = [_tensor(mask, device) for mask in inputs["image_mask"].values()]
    tokens, token_mask = (_tensor(inputs[key], device) for key in ("tokenized_prompt", "tokenized_prompt_mask"))
    return images, masks, tokens.long(), token_mask, _tensor(inputs["state"], device)


def _tensor(array: np.ndarray, device: Any) -> Any:
    import torch

    # An array of which there is nothing else: what comes off a wire cannot be written to, which PyTorch warns of.
    return torch.from_numpy(np.require(array, requirements=["C", "W", "O"])).to(device)


def _is_pi05(model: Any) -> bool:
    return hasattr(model, "time_mlp_in")


def _require_same_names(names: Mapping[str, str], state: Mapping[str, Any], file: Path) -> None:
    missing = sorted(name for name in state if name not in names and not (name in (EMBEDDING, TIED) and {EMBEDDING, TIED} & names.keys()))
    extra = sorted(name for name in names if name not in state)
    if missing or extra:
        found = json.dumps({"not in the file": missing[:4], "not in the model": extra[:4]})
        raise ParityError("the file has not the tensors of the model", file=file, array=(missing or extra)[0], found=found)
