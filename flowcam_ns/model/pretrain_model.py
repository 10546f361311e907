"""The nerfstudio Model of a training on many videos: batches of clips in, losses and scores out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn

from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import FlowCamNetwork, NetworkOutput
from flowcam_ns.model.image_scores import ImageScores
from flowcam_ns.model.losses import NetworkLossConfig, clip_losses, published_losses
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.network_scores import flow_error_px, pose_errors
from flowcam_ns.model.surfaces import RaySurfaces

RAYS_AT_ONCE = 2048


@dataclass
class PretrainModelConfig(ModelConfig):
    """The FlowCam network and its losses."""

    _target: type = field(default_factory=lambda: PretrainModel)
    """target class to instantiate"""
    layers: NetworkConfig = field(default_factory=NetworkConfig)
    """What the network is made of; as published by default."""
    losses: NetworkLossConfig = field(default_factory=lambda: NetworkLossConfig.published())
    """What it is trained for; as published by default."""
    sync_batch_norm: bool = True
    """Share batch statistics between GPUs (each has few clips)."""
    enable_collider: bool = False
    """Near and far are the network's own."""


class PretrainModel(Model):
    """The network; `forward` gives the losses of a batch, so that it can be wrapped for several processes."""

    config: PretrainModelConfig

    def populate_modules(self) -> None:
        """Build the network."""
        super().populate_modules()
        self.network = FlowCamNetwork(self.config.layers)
        self.scores = ImageScores()

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """All weights that some output depends on."""
        return {"network": [weight for weight in self.network.parameters() if weight.requires_grad]}

    def get_outputs(self, ray_bundle: Any) -> dict[str, Tensor | list]:
        """There are no rays of a scene here; `forward` is what trains."""
        raise TypeError("a network for many videos renders clips, not the rays of one scene")

    def forward(  # type: ignore[override]
        self, clip: Clip, context_rays: Int[Tensor, "context_rays"], target_rays: Int[Tensor, "target_rays"]
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch (their sum is what to minimise), and `flow_error_px`, which is no loss."""
        output = self.network(clip, context_rays, target_rays)
        return self.losses_of(output, clip, context_rays, target_rays) | {
            "flow_error_px": flow_error_px(output.motion, clip).detach()
        }

    def losses_of(
        self, output: NetworkOutput, clip: Clip, context_rays: Tensor, target_rays: Tensor
    ) -> dict[str, Tensor]:
        """The losses that the config asks for."""
        if self.config.losses.flow_loss == "published":
            losses = published_losses(output, clip, context_rays, target_rays)
            return {name: loss for name, loss in losses.items() if name != "flow_unclipped"}
        return clip_losses(output, clip, context_rays, target_rays, self.config.losses)

    @torch.no_grad()
    def score_clip(
        self, clip: Clip, rays: Int[Tensor, "rays"], c2w: Float[Tensor, "batch frames 4 4"]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores of one clip, and pictures of it: truth and re-rendering side by side, depth; and `clip`, the
        true frames above the re-rendered ones [frames 2h w 3].

        Every frame but the first is re-rendered whole from its context frames, which it is never one of itself, through
        the network's own poses.
        """
        motion = self.network.estimate_motion(clip, rays)
        rendered = self._rerender(clip, motion.features, motion.c2w)
        height, width = clip.size
        colours = rendered.rgb[0].unflatten(1, (height, width)).clamp(0, 1)
        truth = clip.images[0, 1:].permute(0, 2, 3, 1) * 0.5 + 0.5
        each = [self.scores(image, true) for image, true in zip(colours, truth, strict=True)]
        scores = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
        scores["flow_error_px"] = float(flow_error_px(motion, clip))
        scores |= pose_errors(motion.c2w[0], c2w[0])
        depth = rendered.depth[0].unflatten(1, (height, width))
        near, far = self.config.layers.near, self.config.layers.far
        nearness = (1 / depth.clamp(min=near) - 1 / far) / (1 / near - 1 / far)
        middle = len(colours) // 2
        pictures = {
            "img": torch.cat([truth[middle], colours[middle]], dim=1),
            "inverse_depth": nearness[middle].clamp(0, 1).expand(-1, -1, 3),
            "clip": torch.cat([truth, colours], dim=1),
        }
        return scores, pictures

    def _rerender(self, clip: Clip, features: Tensor, c2w: Tensor) -> RaySurfaces:
        height, width = clip.size
        pixels = torch.arange(height * width, device=features.device)
        parts = [self.network.rerender(clip, features, c2w, some, False) for some in pixels.split(RAYS_AT_ONCE)]
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return RaySurfaces(*(torch.cat(column, dim=2) for column in columns))
