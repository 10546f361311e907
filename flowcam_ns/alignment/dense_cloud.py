"""One coloured point cloud from all frames' dense depths: what Gaussian splats are seeded with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.se3 import transform

LEAST_CONFIDENCE = 0.3
"""Pixels whose depth is trusted less give no point."""
FARTHEST = 50.0
"""World units (the scene is of unit size): what lies farther away, such as sky, is put there."""
MERGE_PX = 1.5
"""Points closer to each other than about this many px, as their frame sees them, become one."""
HASH = (73_856_093, 19_349_663, 83_492_791, 40_503_001)


@torch.no_grad()
def dense_point_cloud(
    images: UInt8[Tensor, "frames height width 3"],
    c2w: Float[Tensor, "frames 4 4"],
    camera: Camera,
    inverse_depth: Float[Tensor, "frames h w"],
    confidence: Float[Tensor, "frames h w"],
    most: int,
    masks: Bool[Tensor, "frames height width"] | None = None,
) -> tuple[Float[Tensor, "points 3"], UInt8[Tensor, "points 3"], Float[Tensor, "points"]]:
    """World positions, RGB colours, and how surely each point is there (the sum of its confidences).

    Pixels that show the same spot are merged by the mean of position and colour, weighted by confidence; the grid that
    decides it grows with distance. If more than `most` remain, a random choice in proportion to the weights stays.
    Frames of confidence 0 (held out, not posed) give nothing.

    Args:
        images: The frames; only their aspect must be that of the depth maps.
        c2w: OpenCV camera-to-world.
        camera: The lens, at any size.
        inverse_depth: 1 / z in world units.
        confidence: How far it can be trusted, 0..1.
        most: Largest number of points.
        masks: True where a pixel may be used.

    Raises:
        FlowCamError: no pixel's depth can be trusted.
    """
    height, width = inverse_depth.shape[1:]
    small = camera.scaled_to(width, height)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rays = small.unproject(torch.stack([x, y], dim=-1).float() + 0.5)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for i in range(len(c2w)):
        keep = confidence[i] >= LEAST_CONFIDENCE
        if masks is not None:
            keep &= F.interpolate(masks[i][None, None].float(), size=(height, width), mode="area")[0, 0] > 0.99
        if not bool(keep.any()):
            continue
        depth = 1 / inverse_depth[i][keep].clamp(min=1 / FARTHEST)
        xyz = transform(c2w[i].float(), rays[keep] * depth[:, None])
        colour = F.interpolate(images[i].permute(2, 0, 1)[None].float(), size=(height, width), mode="area")[0]
        parts.append((xyz, colour.permute(1, 2, 0)[keep], confidence[i][keep], depth / small.fx))
    if not parts:
        raise FlowCamError("no surface point is certain enough to start from: film with more sideways motion")
    xyz, colour, weight, footprint = (torch.cat(kind) for kind in zip(*parts, strict=True))
    cell = _cells(xyz, MERGE_PX * footprint)
    count = int(cell.max()) + 1
    total = torch.zeros(count).index_add_(0, cell, weight)
    xyz, colour = (
        torch.zeros(count, 3).index_add_(0, cell, values * weight[:, None]) / total[:, None] for values in (xyz, colour)
    )
    if count > most:
        # Sampling without replacement in proportion to the weights: the largest of log-weight plus Gumbel noise.
        noise = -torch.log(
            -torch.log(torch.rand(count, generator=torch.Generator().manual_seed(0)).clamp(1e-9, 1 - 1e-6))
        )
        chosen = (total.log() + noise).topk(most).indices
        xyz, colour, total = xyz[chosen], colour[chosen], total[chosen]
    return xyz, colour.round().clamp(0, 255).to(torch.uint8), total


def _cells(xyz: Float[Tensor, "points 3"], size: Float[Tensor, "points"]) -> Int[Tensor, "points"]:
    """Number of the grid cell that each point lies in; every power of two of `size` has a grid of its own."""
    level = torch.log2(size).round()
    place = torch.floor(xyz / (2.0**level)[:, None]).long()
    key = level.long() * HASH[3]
    for axis in range(3):
        key = key * 1_000_003 ^ (place[:, axis] * HASH[axis])
    return torch.unique(key, return_inverse=True)[1]
