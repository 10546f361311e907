"""Where surfaces lie in a view: depth maps of nearby frames, splatted into it with a z-buffer.

The guide is a pinhole image around the view's rays that tells each ray the nearest, the most likely and the farthest
inverse depth near it, so that a handful of samples a ray is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry.precision import full_precision

MAX_SIDE = 1024
NARROWEST_COS = 0.2
AGREEMENT = 0.04
"""Relative difference of inverse depths that still mean the same surface."""
SUPPORT = 0.45
"""Share of the trust at a pixel that must back a depth for it to count as a surface."""


@dataclass
class SurfaceGuide:
    """Inverse depths (1 / z of the guide's own camera) in a pinhole image around some rays that leave one point."""

    world_to_guide: Float[Tensor, "3 3"]
    focal: float
    offset: Float[Tensor, "2"]
    """Pixel of the optical axis."""
    layers: Float[Tensor, "3 h w"]
    """Nearest (largest), most likely and farthest (smallest) inverse depth."""

    @full_precision
    def lookup(self, directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
        """The three layers as inverse distance along unit rays."""
        local = directions @ self.world_to_guide.T
        z = local[:, 2:].clamp(min=NARROWEST_COS)
        pixels = local[:, :2] / z * self.focal + self.offset
        h, w = self.layers.shape[1:]
        grid = pixels / pixels.new_tensor([w, h]) * 2 - 1
        found = F.grid_sample(self.layers[None], grid[None, None], align_corners=False, padding_mode="border")
        return found[0, :, 0].T * z


def pixel_pitch(directions: Float[Tensor, "height width 3"]) -> float:
    """Angle in radians between neighbouring unit rays in the middle of an image; 0 for images of one column."""
    height, width = directions.shape[:2]
    if width < 2:
        return 0.0
    left, right = directions[height // 2, width // 2 - 1 : width // 2 + 1]
    return float((right - left).norm())


def view_rotation(forward: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Rotation from world to a camera that looks along `forward`; rows are its axes."""
    helper = torch.zeros_like(forward)
    helper[forward.abs().argmin()] = 1.0
    x = F.normalize(torch.linalg.cross(helper, forward), dim=0)
    return torch.stack([x, torch.linalg.cross(forward, x), forward])


@full_precision
def build_guide(
    origin: Float[Tensor, "3"],
    directions: Float[Tensor, "rays 3"],
    forward: Float[Tensor, "3"],
    focal: float,
    c2w: Float[Tensor, "contexts 4 4"],
    rays_cam: Float[Tensor, "h w 3"],
    inverse_depth: Float[Tensor, "contexts h w"],
    trust: Float[Tensor, "contexts h w"],
) -> SurfaceGuide:
    """Splat depth maps around `directions`; `rays_cam` are the depth maps' rays (z = 1), `focal` is in px."""
    rotation = view_rotation(forward)
    local = directions @ rotation.T
    plane = local[:, :2] / local[:, 2:].clamp(min=NARROWEST_COS)
    low, high = plane.amin(0), plane.amax(0)
    focal = min(focal, MAX_SIDE / float((high - low).amax().clamp(min=1e-6)))
    w, h = (int(n) for n in torch.ceil((high - low) * focal).long() + 5)
    offset = 2.5 - low * focal
    splats, weights = _splat(origin, rotation, focal, offset, (h, w), c2w, rays_cam, inverse_depth, trust)
    return SurfaceGuide(rotation, focal, offset, _layers(splats, weights))


def _splat(
    origin: Tensor,
    rotation: Tensor,
    focal: float,
    offset: Tensor,
    size: tuple[int, int],
    c2w: Tensor,
    rays_cam: Tensor,
    inverse_depth: Tensor,
    trust: Tensor,
) -> tuple[Float[Tensor, "contexts h w"], Float[Tensor, "contexts h w"]]:
    """Every context's front-most inverse depth in the guide, and its trust (0 where it has none)."""
    count, (h, w) = len(c2w), size
    turn = rotation @ c2w[:, :3, :3]
    shift = (c2w[:, :3, 3] - origin) @ rotation.T
    points = torch.einsum("nij,pj->npi", turn, rays_cam.reshape(-1, 3))
    rho = inverse_depth.reshape(count, -1)
    points = points + rho[..., None] * shift[:, None]
    z = points[..., 2]
    safe = z.clamp(min=1e-3)
    xy = torch.floor(points[..., :2] / safe[..., None] * focal + offset).long()
    valid = (z > 1e-2) & (xy >= 0).all(-1) & (xy[..., 0] < w) & (xy[..., 1] < h) & (trust.reshape(count, -1) > 0.05)
    context, point = torch.nonzero(valid, as_tuple=True)
    cell = (context * h + xy[context, point, 1]) * w + xy[context, point, 0]
    front = (rho / safe)[context, point]
    flat = torch.full((count * h * w,), -1.0, device=z.device).scatter_reduce(0, cell, front, "amax")
    on_front = (front >= flat[cell] * (1 - AGREEMENT)).float()
    sums = torch.zeros(3, count * h * w, device=z.device)
    values = torch.stack([on_front, on_front * front, on_front * trust.reshape(count, -1)[context, point]])
    sums.index_add_(1, cell, values)
    hits = sums[0].clamp(min=1)
    depth = torch.where(sums[0] > 0, sums[1] / hits, flat).reshape(count, h, w)
    weight = (sums[2] / hits).reshape(count, h, w)
    for _ in range(2):
        grown = F.max_pool2d(depth[:, None], 3, 1, 1)[:, 0]
        spread = F.max_pool2d(weight[:, None], 3, 1, 1)[:, 0]
        hole = depth < 0
        depth, weight = torch.where(hole, grown, depth), torch.where(hole, 0.5 * spread, weight)
    return depth, weight * (depth >= 0)


def _layers(splats: Float[Tensor, "contexts h w"], weights: Float[Tensor, "contexts h w"]) -> Float[Tensor, "3 h w"]:
    """Nearest, likeliest, farthest: the front-most depth that enough contexts agree on is the likeliest."""
    total = weights.sum(0) + 1e-6
    near, far = torch.full_like(total, -1.0), torch.full_like(total, torch.inf)
    centre, best = torch.full_like(total, -1.0), torch.full_like(total, -1.0)
    fallback = torch.full_like(total, -1.0)
    for candidate, weight in zip(splats, weights, strict=True):
        nearby = weights * torch.exp(-0.5 * ((splats - candidate) / (AGREEMENT * candidate.clamp(min=1e-6))).square())
        votes = nearby.sum(0) / total
        mean = (nearby * splats).sum(0) / nearby.sum(0).clamp(min=1e-9)
        seen = weight > 0
        backed = seen & (votes > SUPPORT)
        near = torch.where(backed, torch.maximum(near, mean), near)
        far = torch.where(backed, torch.minimum(far, mean), far)
        centre = torch.where(backed & (mean > centre), mean, centre)
        better = seen & (votes > best)
        best, fallback = torch.where(better, votes, best), torch.where(better, mean, fallback)
    centre = torch.where(centre >= 0, centre, fallback)
    near = torch.where(near >= 0, near, centre)
    far = torch.where(torch.isfinite(far), far, centre)
    near, centre, far = _without_specks(_filled(torch.stack([near, centre, far]), centre >= 0))
    near = F.max_pool2d(near[None, None], 3, 1, 1)[0, 0]
    far = -F.max_pool2d(-far[None, None], 3, 1, 1)[0, 0]
    return torch.stack([near, centre, far])


def _without_specks(layers: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Median over 3 x 3 pixels: single wrong depths go, edges stay."""
    padded = F.pad(layers[:, None], (1, 1, 1, 1), mode="replicate")
    return F.unfold(padded, 3).median(dim=1).values.reshape(layers.shape)


def _filled(layers: Float[Tensor, "3 h w"], known: Tensor) -> Float[Tensor, "3 h w"]:
    """Fill unknown pixels from ever coarser averages of known ones."""
    if bool(known.all()):
        return layers
    h, w = known.shape
    weight = known[None, None].float()
    value = layers[None].clamp(min=0) * weight
    filled, have = layers * known, known.clone()
    while not bool(have.all()) and min(value.shape[-2:]) > 1:
        value = F.avg_pool2d(value, 2, ceil_mode=True)
        weight = F.avg_pool2d(weight, 2, ceil_mode=True)
        coarse = F.interpolate(value / weight.clamp(min=1e-6), size=(h, w), mode="nearest")[0]
        usable = F.interpolate((weight > 1e-6).float(), size=(h, w), mode="nearest")[0, 0] > 0
        filled = torch.where(usable & ~have, coarse, filled)
        have = have | usable
    return filled
