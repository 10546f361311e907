"""What trains the network: colours re-rendered through the poses, and flow that the poses must reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model import scene_flow
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import MotionOutput, NetworkOutput

PUBLISHED_RGB = 200.0
PUBLISHED_CONTEXT_RGB = 100.0
PUBLISHED_FLOW = 6000.0
FLOW_CLAMP = 0.2
FLOW_LOSS_LIMIT = 10.0
FAR_OFF = 0.5
"""Flow error (fraction of the image) beyond which the charbonnier loss levels off."""


def colours_at(
    images: Float[Tensor, "batch frames 3 h w"], rays: Int[Tensor, "rays"]
) -> Float[Tensor, "batch frames rays 3"]:
    """The images' own colours at pixel indices, in [0, 1]."""
    return scene_flow.gather_pixels(images, rays) * 0.5 + 0.5


def published_losses(
    output: NetworkOutput,
    clip: Clip,
    context_rays: Int[Tensor, "context_rays"],
    target_rays: Int[Tensor, "target_rays"],
) -> dict[str, Float[Tensor, ""]]:
    """The paper's three losses, weighted, and `flow_unclipped`, the flow loss before its limit (not to be summed)."""
    motion = output.motion
    context = colours_at(clip.images[:, :-1], context_rays)
    flow = published_flow_loss(motion)
    losses = {
        "ctxt_rgb": F.mse_loss(motion.surfaces.rgb[:, :-1], context) * PUBLISHED_CONTEXT_RGB,
        "flow": flow.clamp(max=FLOW_LOSS_LIMIT),
        "flow_unclipped": flow,
    }
    if output.rendered is not None:
        target = colours_at(clip.images[:, 1:], target_rays)
        losses["rgb"] = F.mse_loss(output.rendered.rgb, target) * PUBLISHED_RGB
    return losses


def published_flow_loss(motion: MotionOutput) -> Float[Tensor, ""]:
    """6000 times the mean squared flow error, both flows clamped, all rays included."""
    induced, given = (flow.clamp(-FLOW_CLAMP, FLOW_CLAMP) for flow in (motion.flow_from_pose, motion.flow))
    return F.mse_loss(induced, given) * PUBLISHED_FLOW


@dataclass
class NetworkLossConfig:
    """What the network is trained for."""

    rgb_weight: float = PUBLISHED_RGB
    """Weight of the squared colour error of re-rendered frames."""
    context_rgb_weight: float = PUBLISHED_CONTEXT_RGB
    """Weight of the squared colour error of frames rendered from their own features."""
    flow_weight: float = PUBLISHED_FLOW
    """Weight of the flow error: squared in the published loss, about linear otherwise."""
    flow_loss: Literal["published", "charbonnier"] = "charbonnier"
    """published: squared, clamped, and without gradient where poses are worst. charbonnier: linear for large errors."""
    flow_softness: float = 0.003
    """Error (fraction of the image) below which the charbonnier loss turns quadratic."""
    both_directions: bool = True
    """Let the inverse motion explain the flow from the earlier frame's surfaces, too."""


def clip_losses(
    output: NetworkOutput,
    clip: Clip,
    context_rays: Int[Tensor, "context_rays"],
    target_rays: Int[Tensor, "target_rays"],
    config: NetworkLossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted losses of a clip; their sum is what to minimise."""
    motion = output.motion
    losses = {}
    if config.flow_loss == "published":
        losses["flow"] = published_flow_loss(motion).clamp(max=FLOW_LOSS_LIMIT)
    else:
        losses["flow"] = config.flow_weight * charbonnier_flow_loss(motion, clip, config)
    context = colours_at(clip.images, context_rays)
    losses["ctxt_rgb"] = config.context_rgb_weight * F.mse_loss(motion.surfaces.rgb, context)
    if output.rendered is not None:
        target = colours_at(clip.images[:, 1:], target_rays)
        losses["rgb"] = config.rgb_weight * F.mse_loss(output.rendered.rgb, target)
    return losses


def charbonnier_flow_loss(motion: MotionOutput, clip: Clip, config: NetworkLossConfig) -> Float[Tensor, ""]:
    """Mean length of the flow that the motion leaves unexplained, weighed by the given flow's confidence."""
    residuals = [motion.flow_from_pose - motion.flow]
    if config.both_directions:
        partner_uv = motion.uv + motion.flow
        back = scene_flow.pose_induced_flow(
            motion.partner_surfaces, se3.inverse(motion.relative), clip.intrinsics[:, :-1], partner_uv
        )
        residuals.append(back + motion.flow)
    # Beyond half an image the length says nothing any more (points near or behind the camera), so it is cut off softly.
    squares = torch.stack(residuals).square().sum(-1) / config.flow_softness**2
    lengths = config.flow_softness * (torch.sqrt(1 + squares) - 1)
    lengths = FAR_OFF * torch.tanh(lengths / FAR_OFF)
    weights = torch.ones_like(motion.weights) if motion.flow_confidence is None else motion.flow_confidence
    weights = weights[..., 0].expand_as(lengths)
    return (weights * lengths).sum() / weights.sum().clamp(min=1e-6)
