"""Scene flow -> camera motion: paired surface points, their confidence, the rigid motion, and the flow it induces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.geometry.procrustes import PAPER_EPS, weighted_procrustes
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.surfaces import RaySurfaces, lookup, project


class CorrespondenceConfidence(nn.Sequential):
    """How far a pair of matched pixels should be trusted, in [0, 1], from both pixels' features."""

    def __init__(self, config: NetworkConfig) -> None:
        width = config.confidence_width
        super().__init__(
            nn.Linear(2 * config.feature_channels, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
            nn.Sigmoid(),
        )


def gather_pixels(
    maps: Float[Tensor, "*batch channels h w"], rays: Int[Tensor, "rays"]
) -> Float[Tensor, "*batch rays channels"]:
    """Values at row-major pixel indices."""
    return maps.flatten(-2)[..., rays].transpose(-1, -2)


def matched_features(
    features: Float[Tensor, "batch frames channels h w"],
    rays: Int[Tensor, "rays"],
    uv: Float[Tensor, "batch pairs rays 2"],
    partner_uv: Float[Tensor, "batch pairs rays 2"],
    authors_conventions: bool,
) -> Float[Tensor, "batch pairs rays 2*channels"]:
    """Frame t's feature at the flow's end, then frame t + 1's at its start."""
    earlier, later = features[:, :-1].flatten(0, 1), features[:, 1:].flatten(0, 1)
    if authors_conventions:
        grid = (partner_uv.flatten(0, 1) * 2 - 1)[:, :, None].to(earlier.dtype)
        partner = F.grid_sample(earlier, grid, align_corners=False)[..., 0].transpose(1, 2)
        own = gather_pixels(later, rays)
    else:
        partner = lookup(earlier, partner_uv.flatten(0, 1), align_corners=False)
        own = lookup(later, uv.flatten(0, 1), align_corners=False)
    return torch.cat([partner, own], dim=-1).unflatten(0, uv.shape[:2])


def depth_weights(
    later: Float[Tensor, "batch pairs rays 3"], earlier: Float[Tensor, "batch pairs rays 3"]
) -> Float[Tensor, "batch pairs rays 1"]:
    """1 / (z z'), without gradient: what errors of surface points, which grow with distance, call for."""
    return 1 / (later[..., 2:].detach().clamp(min=1e-2) * earlier[..., 2:].detach().clamp(min=1e-2))


def relative_poses(
    later: Float[Tensor, "batch pairs rays 3"],
    earlier: Float[Tensor, "batch pairs rays 3"],
    weights: Float[Tensor, "batch pairs rays 1"],
) -> Float[Tensor, "batch pairs 4 4"]:
    """T(t <- t + 1) of every pair: the rigid motion that carries frame t + 1's surface points onto frame t's."""
    return weighted_procrustes(later, earlier, weights[..., 0], eps=PAPER_EPS)


@full_precision
def chain(relative: Float[Tensor, "batch pairs 4 4"]) -> Float[Tensor, "batch frames 4 4"]:
    """Camera-to-world of every frame in frame 0's camera, from the motions between neighbours."""
    poses = [torch.eye(4, dtype=relative.dtype, device=relative.device).expand(relative.shape[0], 4, 4)]
    for motion in relative.unbind(1):
        poses.append(poses[-1] @ motion)
    return torch.stack(poses, dim=1)


@full_precision
def pose_induced_flow(
    surfaces: RaySurfaces,
    motion: Float[Tensor, "batch pairs 4 4"],
    K: Float[Tensor, "batch pairs 3 3"],
    uv: Float[Tensor, "batch pairs rays 2"],
) -> Float[Tensor, "batch pairs rays 2"]:
    """The flow that the rays' surface points show under a motion into the other camera, in fractions of the image.

    Equals the weighted sum of the moved samples, so the translation counts as much as the ray's accumulation.
    """
    rotated = surfaces.points @ motion[..., :3, :3].transpose(-1, -2)
    moved = rotated + surfaces.accumulation * motion[..., None, :3, 3]
    return project(moved, K) - uv
