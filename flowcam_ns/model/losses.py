"""What trains the network: colours re-rendered through the poses, and flow that the poses must reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.model import scene_flow
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flow_losses import PUBLISHED_LIMIT, published_flow_loss, soft_flow_loss, wide_flow_loss
from flowcam_ns.model.flowcam_network import NetworkOutput

PUBLISHED_RGB_WEIGHT = 200.0
PUBLISHED_CONTEXT_RGB_WEIGHT = 100.0


@dataclass
class NetworkLossConfig:
    """What the network is trained for."""

    rgb_weight: float = 40.0
    """Weight of the squared colour error of re-rendered frames."""
    context_rgb_weight: float = 20.0
    """Weight of the squared colour error of frames rendered from their own features."""
    flow_loss: Literal["published", "soft"] = "soft"
    """published: squared, clamped, and without gradient where poses are worst. soft: linear for large errors, both
    directions, weighed by the flow's confidence."""
    flow_weight: float = 6000.0
    """Weight of the soft flow loss (the published one brings its own)."""
    flow_softness: float = 0.0005
    """Flow error (fraction of the image) below which the soft loss is quadratic."""
    wide_flow_weight: float = 6000.0
    """Weight of the soft flow loss over `flow_gaps`; 0 leaves it out."""
    flow_gaps: tuple[int, ...] = (2, 4)
    """Frame gaps over which chained motions must explain chained flow."""

    @classmethod
    def published(cls) -> NetworkLossConfig:
        """The paper's losses and weights."""
        return cls(PUBLISHED_RGB_WEIGHT, PUBLISHED_CONTEXT_RGB_WEIGHT, flow_loss="published", wide_flow_weight=0.0)


def clip_losses(
    output: NetworkOutput,
    clip: Clip,
    context_rays: Int[Tensor, "context_rays"],
    target_rays: Int[Tensor, "target_rays"],
    config: NetworkLossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted losses of a clip; their sum is what to minimise."""
    motion = output.motion
    context = colours_at(clip.images, context_rays)
    losses = {"ctxt_rgb": config.context_rgb_weight * F.mse_loss(motion.surfaces.rgb, context)}
    if output.rendered is not None:
        losses["rgb"] = config.rgb_weight * _rendered_loss(output, clip, target_rays)
    if config.flow_loss == "published":
        losses["flow"] = published_flow_loss(motion).clamp(max=PUBLISHED_LIMIT)
        return losses
    losses["flow"] = config.flow_weight * soft_flow_loss(motion, clip, config.flow_softness)
    if config.wide_flow_weight > 0:
        wide = wide_flow_loss(motion, clip, config.flow_gaps, config.flow_softness)
        losses["wide_flow"] = config.wide_flow_weight * wide
    return losses


def published_losses(
    output: NetworkOutput,
    clip: Clip,
    context_rays: Int[Tensor, "context_rays"],
    target_rays: Int[Tensor, "target_rays"],
) -> dict[str, Float[Tensor, ""]]:
    """The paper's three losses, weighted, and `flow_unclipped`, the flow loss before its limit (not to be summed)."""
    context = colours_at(clip.images[:, :-1], context_rays)
    flow = published_flow_loss(output.motion)
    losses = {
        "ctxt_rgb": F.mse_loss(output.motion.surfaces.rgb[:, :-1], context) * PUBLISHED_CONTEXT_RGB_WEIGHT,
        "flow": flow.clamp(max=PUBLISHED_LIMIT),
        "flow_unclipped": flow,
    }
    if output.rendered is not None:
        losses["rgb"] = _rendered_loss(output, clip, target_rays) * PUBLISHED_RGB_WEIGHT
    return losses


def colours_at(
    images: Float[Tensor, "batch frames 3 h w"], rays: Int[Tensor, "rays"]
) -> Float[Tensor, "batch frames rays 3"]:
    """The images' own colours at pixel indices, in [0, 1]."""
    return scene_flow.gather_pixels(images, rays) * 0.5 + 0.5


def _rendered_loss(output: NetworkOutput, clip: Clip, rays: Int[Tensor, "rays"]) -> Float[Tensor, ""]:
    assert output.rendered is not None
    return F.mse_loss(output.rendered.rgb, colours_at(clip.images[:, 1:], rays))
