"""Small policies with random weights, made and saved by LeRobot's own classes, and LeRobot's own inference with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from vla_ops.policies import Observation
from vla_ops.robot_file import Robot
from vla_ops_tests.policies.making import ARM, ROBOT, arm_spec

SIZE = (48, 64)
CAMERAS = ("top", "hand")
ROBOT_FILE = Robot(ROBOT, Path(), arm_spec())
_SPECIAL = {"fake_image_token": "<fake>", "image_token": "<image>", "global_image_token": "<global>", "end_of_utterance_token": "<end>"}


def seen(seed: int = 0, *, prompt: str | None = "do it", past: int = 0, size: tuple[int, int] = SIZE) -> Observation:
    """What the arm sees at random, with as many earlier observations."""
    random = np.random.default_rng(seed)
    images = {name: random.integers(0, 256, (*size, 3), dtype=np.uint8) for name in CAMERAS}
    earlier = tuple(seen(1000 * seed + k + 1, prompt=prompt, size=size) for k in range(past))
    return Observation(random.uniform(-1, 1, len(ARM)).astype(np.float32), images, prompt, past=earlier)


def stats(seed: int = 0, cameras: Sequence[str] = CAMERAS) -> dict[str, dict[str, Any]]:
    """The statistics of a dataset of the arm."""
    import torch

    random = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {"observation.state": (len(ARM),), "action": (len(ARM),)}
    for feature, shape in (shapes | {f"observation.images.{name}": (3, 1, 1) for name in cameras}).items():
        low, middle, high = np.sort(random.uniform(-1, 2, (3, *shape)), axis=0)
        numbers = {"min": low, "max": high, "mean": middle, "std": (high - low) / 3, "q01": low, "q99": high}
        found[feature] = {name: torch.from_numpy(value.astype(np.float32)) for name, value in numbers.items()}
    return found


def features(size: tuple[int, int] = SIZE, cameras: Sequence[str] = CAMERAS) -> dict[str, Any]:
    """`input_features` and `output_features` of the arm."""
    from lerobot.configs import FeatureType, PolicyFeature

    images = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *size)) for name in cameras}
    return {
        "input_features": {"observation.state": PolicyFeature(FeatureType.STATE, (len(ARM),))} | images,
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (len(ARM),))},
    }


def save(folder: Path, policy: Any, **more: Any) -> Path:
    """Save a policy and its processors as lerobot-train does."""
    from lerobot.policies import make_pre_post_processors

    policy.save_pretrained(folder)
    for pipeline in make_pre_post_processors(policy.config, **({"dataset_stats": stats()} | more)):
        pipeline.save_pretrained(folder)
    return folder


def make_act(folder: Path, **more: Any) -> Path:
    """An ACT policy with chunks of 6."""
    import torch
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    torch.manual_seed(1)
    sizes = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4}
    config = ACTConfig(
        chunk_size=6, n_action_steps=6, pretrained_backbone_weights=None, device="cpu", push_to_hub=False, **sizes, **(features() | more)
    )
    return save(folder, ACTPolicy(config))


def make_diffusion(folder: Path) -> Path:
    """A Diffusion policy that sees 2 steps and gives chunks of 4."""
    import torch
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    torch.manual_seed(2)
    config = DiffusionConfig(
        n_obs_steps=2, horizon=8, n_action_steps=4, down_dims=(16, 32), n_groups=4, diffusion_step_embed_dim=16, crop_shape=None,
        spatial_softmax_num_keypoints=4, num_inference_steps=4, pretrained_backbone_weights=None,
        device="cpu", push_to_hub=False, **features(),
    )  # fmt: skip
    return save(folder, DiffusionPolicy(config))


def make_smolvla(folder: Path) -> Path:
    """A SmolVLA policy with chunks of 4, and the small VLM that it names, beside it."""
    import torch
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    torch.manual_seed(3)
    vlm = make_vlm(folder.with_name(f"{folder.name}_vlm"))
    config = SmolVLAConfig(
        vlm_model_name=str(vlm), load_vlm_weights=False, chunk_size=4, n_action_steps=4, max_state_dim=8, max_action_dim=8, num_steps=3,
        resize_imgs_with_padding=(32, 32), num_vlm_layers=2, device="cpu", push_to_hub=False, **features(),
    )  # fmt: skip
    return save(folder, SmolVLAPolicy(config))


def make_vlm(folder: Path) -> Path:
    """The config and the processor of a SmolVLM whose tokens are bytes."""
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    tokenizer = make_tokenizer(**_SPECIAL)
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4).save_pretrained(folder)
    text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "vocab_size": len(tokenizer), "pad_token_id": 0}  # fmt: skip
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, pad_token_id=0).save_pretrained(folder)
    return folder


def make_tokenizer(**special: str) -> Any:
    """A byte a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<eos>", "<bos>", *special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={token: k for k, token in enumerate(tokens)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ends = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=special, **ends)


def make_pi0(folder: Path) -> Path:
    """A pi0 policy whose actions are relative, but for the gripper; to be made and loaded within `other_sizes()`."""
    import torch
    from lerobot.policies.pi0 import processor_pi0
    from lerobot.policies.pi0.modeling_pi0 import PI0Policy

    from vla_ops.checkpoints.architecture import architecture_of
    from vla_ops.export.source import shapes_of
    from vla_ops.export.torch_side import lerobot_config
    from vla_ops.models.config import tiny

    torch.manual_seed(4)
    made = tiny("pi0")
    relative = {"use_relative_actions": True, "relative_exclude_joints": ["gripper"], "action_feature_names": ARM}
    config = lerobot_config(made, architecture_of(shapes_of(made)), "float32", num_inference_steps=3, **relative, **features())
    make_tokenizer().save_pretrained(folder / "tokenizer")
    original = processor_pi0.TokenizerProcessorStep

    def local(**given: Any) -> Any:
        return original(**(given | {"tokenizer_name": str(folder / "tokenizer")}))

    with mock.patch.object(processor_pi0, "TokenizerProcessorStep", local):
        return save(folder, PI0Policy(config))


class LeRobotsOwn:
    """A policy in LeRobot's hands: `select_action`, step by step, as its own robots run it."""

    def __init__(self, folder: Path) -> None:
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies import get_policy_class, make_pre_post_processors

        config = PreTrainedConfig.from_pretrained(str(folder), cli_overrides=["--device=cpu"])
        self.policy: Any = get_policy_class(config.type).from_pretrained(str(folder), config=config)
        self.before, self.after = make_pre_post_processors(config, str(folder))
        self.policy.reset()

    def act(self, observation: Observation) -> np.ndarray[Any, Any]:
        """The next action."""
        import torch
        from lerobot.policies.utils import prepare_observation_for_inference

        given = {f"observation.images.{name}": image.copy() for name, image in observation.images.items()}
        with torch.inference_mode():
            prepared = prepare_observation_for_inference(
                given | {"observation.state": observation.state.copy()}, torch.device("cpu"), str(observation.prompt), "arm"
            )
            return self.after(self.policy.select_action(self.before(prepared)))[0].numpy()

    def chunk(self, observation: Observation, steps: int, *, call: int = 0, seed: int = 0) -> np.ndarray[Any, Any]:
        """The next actions, the noise of which is that of a policy's call."""
        import torch

        (drawn,) = np.random.SeedSequence([seed, call]).generate_state(1, np.uint32)
        torch.manual_seed(int(drawn))
        return np.stack([self.act(observation) for _ in range(steps)])
