"""The pixel-aligned radiance field: a 3D point and the features it projects to become a colour and a density."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowcam_ns.model.network_config import NetworkConfig


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())


class PointEncoder(nn.Module):
    """One context view's reading of a point: residual blocks on its position, shifted by the view's feature."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, blocks = config.field_width, range(config.field_blocks)
        self.proj_in = nn.Linear(3, width)
        self.res_blocks = nn.ModuleList([_block(width) for _ in blocks])
        self.modulators = nn.ModuleList([nn.Linear(config.feature_channels, width) for _ in blocks])
        self.out = nn.Linear(width, width)

    def forward(
        self, points: Float[Tensor, "*batch 3"], features: Float[Tensor, "*#batch channels"]
    ) -> Float[Tensor, "*batch width"]:
        """`features` broadcasts over the samples of a ray where they all share one pixel."""
        h = self.proj_in(points)
        for block, modulator in zip(self.res_blocks, self.modulators, strict=True):
            h = block(h) + (h + modulator(features))
        return self.out(h)


class PointDecoder(nn.Module):
    """The pooled reading of all views -> raw colour and density."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, width)
        self.res_blocks = nn.ModuleList([_block(width)])
        self.out = nn.Linear(width, 4)

    def forward(self, pooled: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch 4"]:
        """Three colour logits and a raw density."""
        h = self.proj_in(pooled)
        for block in self.res_blocks:
            h = block(h)
        return self.out(h)


class LatentField(nn.Module):
    """Colour and density of points seen by any number of context views."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.phi1 = PointEncoder(config)
        self.phi2 = PointDecoder(config.field_width)
        self.density_activation = F.relu if config.density_activation == "relu" else F.softplus
        self.density_bias = config.density_bias

    def forward(
        self,
        points_views: Float[Tensor, "views *batch 3"],
        features_views: Float[Tensor, "views *#batch channels"],
        valid: Bool[Tensor, "views *#batch"] | None = None,
    ) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch"]]:
        """RGB in [0, 1] and density of points given in every view's camera frame, averaged over the views."""
        per_view = self.phi1(points_views, features_views)
        if valid is None:
            pooled = per_view.mean(dim=0)
        else:
            weights = valid[..., None].to(per_view.dtype)
            pooled = (per_view * weights).sum(dim=0) / weights.sum(dim=0).clamp(min=1)
        raw = self.phi2(pooled)
        return torch.sigmoid(raw[..., :3]), self.density_activation(raw[..., 3] + self.density_bias)
