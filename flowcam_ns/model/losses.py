"""What trains the network: colours re-rendered through the poses, and flow that the poses must reproduce."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import NetworkOutput
from flowcam_ns.model.scene_flow import gather_pixels

PUBLISHED_RGB = 200.0
PUBLISHED_CONTEXT_RGB = 100.0
PUBLISHED_FLOW = 6000.0
FLOW_CLAMP = 0.2
FLOW_LOSS_LIMIT = 10.0


def colours_at(
    images: Float[Tensor, "batch frames 3 h w"], rays: Int[Tensor, "rays"]
) -> Float[Tensor, "batch frames rays 3"]:
    """The images' own colours at pixel indices, in [0, 1]."""
    return gather_pixels(images, rays) * 0.5 + 0.5


def published_losses(
    output: NetworkOutput,
    clip: Clip,
    context_rays: Int[Tensor, "context_rays"],
    target_rays: Int[Tensor, "target_rays"],
) -> dict[str, Float[Tensor, ""]]:
    """The paper's three losses, weighted, and `flow_unclipped`, the flow loss before its limit (not to be summed)."""
    motion = output.motion
    target = colours_at(clip.images[:, 1:], target_rays)
    context = colours_at(clip.images[:, :-1], context_rays)
    limit = FLOW_CLAMP
    flow = F.mse_loss(motion.flow_from_pose.clamp(-limit, limit), motion.flow.clamp(-limit, limit)) * PUBLISHED_FLOW
    return {
        "rgb": F.mse_loss(output.rendered.rgb, target) * PUBLISHED_RGB,
        "ctxt_rgb": F.mse_loss(motion.surfaces.rgb[:, :-1], context) * PUBLISHED_CONTEXT_RGB,
        "flow": flow.clamp(max=FLOW_LOSS_LIMIT),
        "flow_unclipped": flow,
    }
