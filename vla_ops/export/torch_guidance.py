"""Real-time chunking in PyTorch: by LeRobot's `RTCProcessor`, and by the paper's gradient, which goes back through the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, override

from vla_ops.policies.real_time import RealTime

if TYPE_CHECKING:
    import torch


def enable_real_time(model: Any, rules: RealTime) -> None:
    """Let a `PI0Pytorch` sample with an overlap: `sample_actions(..., prev_chunk_left_over=, inference_delay=, execution_horizon=)`."""
    from lerobot.configs import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    class ThroughModel(RTCProcessor):
        """LeRobot computes the velocity before it asks for gradients, so that its Jacobian is the identity; here it is the model's."""

        @override
        def denoise_step(
            self,
            x_t: torch.Tensor,
            prev_chunk_left_over: torch.Tensor | None,
            inference_delay: int,
            time: float,
            original_denoise_step_partial: Any,
            execution_horizon: int | None = None,
        ) -> torch.Tensor:
            """See `vla_ops.models.guidance`."""
            if prev_chunk_left_over is None:
                return original_denoise_step_partial(x_t)
            weights = self.get_prefix_weights(inference_delay, execution_horizon, x_t.shape[1]).to(x_t.device)[:, None]
            v, correction = _correction(original_denoise_step_partial, x_t, time, weights, prev_chunk_left_over)
            return v - strength(time, rules.max_weight) * correction

    config = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP, max_guidance_weight=rules.max_weight)
    model.config.rtc_config = config
    model.rtc_processor = (ThroughModel if rules.through_model else RTCProcessor)(config)


def strength(t: float, most: float) -> float:
    """How strongly a velocity is corrected at time t: as `vla_ops.models.guidance` says it."""
    return most if t >= 1 else min(((1 - t) ** 2 + t**2) / (t * (1 - t)), most)


def _correction(
    velocity: Any, x_t: torch.Tensor, t: float, weights: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The velocity, and the gradient by which it is corrected."""
    import torch

    noisy = x_t.detach().requires_grad_()
    with torch.enable_grad():
        v = velocity(noisy)
        clean = noisy - t * v
    (correction,) = torch.autograd.grad(clean, noisy, grad_outputs=(weights * (wanted - clean)).detach())
    return v.detach(), correction
