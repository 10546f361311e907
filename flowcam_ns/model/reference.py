"""The published network, run on inputs that are named and laid out as the authors' are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.checkpoint import check_fits, shapes_of, split, to_our_names
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.losses import published_losses
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.surfaces import pixel_coordinates

INPUT_PREFIX, OUTPUT_PREFIX = "in_", "out_"
INPUT_NAMES = ("trgt_rgb", "ctxt_rgb", "x_pix", "intrinsics", "bwd_flow", "trgt_rays", "ctxt_rays")
GRID_TOLERANCE = 1e-4


class ReferenceNetwork(nn.Module):
    """The published forward on dicts named like the authors' arrays."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.network = FlowCamNetwork(config)

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Outputs and losses of a batch of clips, on the network's device.

        Args:
            inputs: `trgt_rgb`, `ctxt_rgb` [b n 3 h w] in [-1, 1], `intrinsics` [b n 3 3], `bwd_flow` [b n 2 h w],
                `x_pix` [b n h*w 2] (optional), `trgt_rays` and `ctxt_rays`: pixel indices; tensors or arrays. All names
                may start with `in_`; those of the outputs then start with `out_`.

        Returns:
            `rgb`, `depth`, `ctxt_rgb`, `ctxt_depth`, `poses`, `corr_weights`, `flow_from_pose`, `features` (every 4th
            row and column), `loss_rgb`, `loss_ctxt_rgb`, `loss_flow`, `loss_flow_unclipped`.
        """
        device = next(self.network.parameters()).device
        prefixed = any(name.startswith(INPUT_PREFIX) for name in inputs)
        named = {name.removeprefix(INPUT_PREFIX): value for name, value in inputs.items()}
        arrays = {name: torch.as_tensor(named[name], device=device) for name in INPUT_NAMES if name in named}
        missing = [name for name in INPUT_NAMES if name not in arrays and name != "x_pix"]
        if missing:
            raise FlowCamError(f"the reference network also needs the inputs {', '.join(missing)}")
        clip = _clip(arrays)
        context_rays, target_rays = arrays["ctxt_rays"].long(), arrays["trgt_rays"].long()
        output = self.network(clip, context_rays, target_rays)
        motion, rendered = output.motion, output.rendered
        if rendered is None:
            raise FlowCamError("trgt_rays is empty: name at least one pixel to render")
        outputs = {
            "rgb": rendered.rgb,
            "depth": rendered.depth,
            "ctxt_rgb": motion.surfaces.rgb[:, :-1],
            "ctxt_depth": motion.surfaces.depth[:, :-1],
            "poses": motion.c2w[:, 1:],
            "corr_weights": motion.weights,
            "flow_from_pose": motion.flow_from_pose,
            "features": motion.features[..., ::4, ::4],
        }
        losses = published_losses(output, clip, context_rays, target_rays)
        outputs |= {f"loss_{name}": loss for name, loss in losses.items()}
        return {OUTPUT_PREFIX + name: value for name, value in outputs.items()} if prefixed else outputs


def load_reference(state_dict: Mapping[str, Tensor], num_views: int) -> ReferenceNetwork:
    """The published network with the authors' weights, in eval mode, re-rendering from `num_views` context frames.

    `state_dict` may hold `module.` before its names and the flow network's weights; both are passed over. Raises
    FlowCamError naming the keys and shapes that do not fit.
    """
    config = NetworkConfig(num_context_views=num_views)
    network, _ = split(state_dict)
    check_fits(network, shapes_of(config))
    model = ReferenceNetwork(config)
    model.network.load_state_dict(to_our_names(network))
    return model.eval()


def _clip(arrays: Mapping[str, Tensor]) -> Clip:
    """The authors' two overlapping lists of frames as one clip; frame 0 takes frame 1's intrinsics."""
    images = torch.cat([arrays["ctxt_rgb"][:, :1], arrays["trgt_rgb"]], dim=1)
    K = arrays["intrinsics"]
    clip = Clip(images, arrays["bwd_flow"], torch.cat([K[:, :1], K], dim=1))
    if "x_pix" in arrays:
        height, width = clip.size
        grid = pixel_coordinates(torch.arange(height * width, device=K.device), clip.size, centre=0.0)
        given = arrays["x_pix"]
        if given.shape[-2:] != grid.shape or bool((given - grid).abs().max() > GRID_TOLERANCE):
            raise FlowCamError("x_pix must be each pixel's index divided by (width, height), row by row")
    return clip
