"""The pixel-aligned radiance field: a 3D point and the features it projects to become a colour and a density."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowcam_ns.model.network_config import NetworkConfig

WALL = 1.6
"""Distance of the guessed wall, in geometric means of near and far."""
FLOOR_SLOPE = 3.0
"""How much nearer the guessed floor lies, for each unit of the sine of the angle below the camera's axis."""


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())


def encode_points(points: Float[Tensor, "*batch 3"], log: bool, middle: float) -> Float[Tensor, "*batch inputs"]:
    """Points as they are, or as direction and logarithm of the distance over `middle`."""
    if not log:
        return points
    distance = points.norm(dim=-1, keepdim=True).clamp(min=1e-3 * middle)
    return torch.cat([points / distance, torch.log(distance / middle)], dim=-1)


class PointEncoder(nn.Module):
    """One context view's reading of a point: residual blocks on its position, shifted by the view's feature."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, blocks = config.field_width, range(config.field_blocks)
        self.log_points = config.point_encoding == "log"
        self.middle_distance = math.sqrt(config.near * config.far)
        self.proj_in = nn.Linear(4 if self.log_points else 3, width)
        self.res_blocks = nn.ModuleList([_block(width) for _ in blocks])
        self.modulators = nn.ModuleList([nn.Linear(config.feature_channels, width) for _ in blocks])
        self.out = nn.Linear(width, width)

    def forward(
        self, points: Float[Tensor, "*batch 3"], features: Float[Tensor, "*#batch channels"]
    ) -> Float[Tensor, "*batch width"]:
        """`features` broadcasts over the samples of a ray where they all share one pixel."""
        h = self.proj_in(encode_points(points, self.log_points, self.middle_distance))
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
        if config.field == "mlp":
            from flowcam_ns.model.mlp_field import MLPPointDecoder, MLPPointEncoder  # brings nerfstudio

            self.phi1, self.phi2 = MLPPointEncoder(config), MLPPointDecoder(config)
        else:
            self.phi1, self.phi2 = PointEncoder(config), PointDecoder(config.field_width)
        self.density_activation = F.relu if config.density_activation == "relu" else F.softplus
        self.density_bias = config.density_bias
        self.floor_prior = config.floor_prior
        self.middle_distance = math.sqrt(config.near * config.far)

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
        raw_density = raw[..., 3] + self.density_bias
        if self.floor_prior > 0:
            raw_density = raw_density + self.floor_prior * self._beyond_floor(points_views).mean(dim=0)
        return torch.sigmoid(raw[..., :3]), self.density_activation(raw_density)

    def _beyond_floor(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Logarithm of how many times as far as a guessed wall and floor a point lies.

        Flow alone leaves a mirrored start (near for far, motion reversed) almost as good as the true one; that what is
        lower in a picture is mostly nearer tips the balance.
        """
        distance = points.norm(dim=-1).clamp(min=1e-3 * self.middle_distance)
        surface = WALL * self.middle_distance / (1 + FLOOR_SLOPE * F.relu(points[..., 1] / distance))
        return torch.log(distance / surface)
