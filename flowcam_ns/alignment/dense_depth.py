"""Dense inverse depth of every frame from its optical flow to several others, given poses and lens.

Each pixel is triangulated by itself (robust Gauss-Newton in one unknown, in closed form per step), then frames check
each other and weak pixels take over what confident neighbours of like colour say (`depth_filter.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample

from flowcam_ns.alignment.depth_filter import agree_between_frames, smooth_along_edges
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera

EPS = 1e-12


AT_ONCE = 16
"""Frames whose flow is asked for together, so that it can be found side by side."""


class DenseFlow(Protocol):
    """Anything that tells dense flow, such as `flowcam_ns.flow.store.FlowStore`."""

    def compute(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Told that the flow of these pairs will be asked for next."""
        ...

    def dense(self, i: int, j: int) -> tuple[Float32[np.ndarray, "h w 2"], Float32[np.ndarray, "h w"]]:
        """Flow from frame i to frame j as a fraction of width (x) and height (y), and its confidence in 0..1."""
        ...


@dataclass(frozen=True)
class DenseDepthOptions:
    """How dense depth is found."""

    gaps: tuple[int, ...] = (1, 2, 4, 8)
    """Frame distances, both ways, whose flow is triangulated."""
    inlier_px: float = 0.7
    """Scale of the Geman-McClure weight, px of the flow's grid."""
    noise_px: float = 0.25
    """Standard deviation of good flow, px of the flow's grid."""
    starts: int = 6
    """Single-pair estimates that compete for the start of a pixel; those of the longest baselines."""
    gauss_newton_steps: int = 3
    """Steps after the best of the single-pair estimates has been chosen."""
    consistency_rounds: int = 2
    """How often frames check and average each other's depths."""
    tolerance: float = 0.05
    """Relative error of inverse depth from which a pixel counts as uncertain."""


@torch.no_grad()
def dense_inverse_depth(
    c2w: Float[Tensor, "frames 4 4"],
    camera: Camera,
    flows: DenseFlow,
    usable: Bool[Tensor, "frames"] | None = None,
    guide: UInt8[Tensor, "frames height width 3"] | None = None,
    options: DenseDepthOptions | None = None,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """Inverse depth (1 / z, world units, at least 0) of every pixel, and a confidence in 0..1.

    `camera` may be of any size with the flow's aspect. Frames that are not `usable` (held out or not posed) get zeros
    and lend nothing to the others. `guide` holds the frames' colours for edge-aware smoothing.
    """
    options = options or DenseDepthOptions()
    frames = len(c2w)
    usable = torch.ones(frames, dtype=torch.bool) if usable is None else usable.cpu()
    indices = torch.nonzero(usable)[:, 0].tolist()
    if len(indices) < 2:
        raise FlowCamError("dense depth needs at least two frames with a pose that are not held out")
    c2w = c2w.detach().cpu().double()
    triangulated: dict[int, tuple[Tensor, Tensor]] = {}
    small = camera
    for place, i in enumerate(indices):
        if place % AT_ONCE == 0:
            together = indices[place : place + AT_ONCE]
            flows.compute((k, j) for k in together for j in _neighbours(k, usable, options.gaps))
        neighbours = _neighbours(i, usable, options.gaps)
        found = [flows.dense(i, j) for j in neighbours]
        weight = torch.from_numpy(np.stack([confident for _, confident in found]))
        small = camera.scaled_to(weight.shape[2], weight.shape[1])
        flow = torch.from_numpy(np.stack([flow for flow, _ in found])) * weight.new_tensor([small.width, small.height])
        T_other_self = (se3.inverse(c2w[neighbours]) @ c2w[i]).float()
        triangulated[i] = triangulate(flow, weight, T_other_self, small, options)
    inverse, confidence = (
        torch.zeros(frames, small.height, small.width).index_copy_(0, torch.tensor(indices), torch.stack(maps))
        for maps in zip(*triangulated.values(), strict=True)
    )
    confidence = confidence * _certainty(inverse, confidence, options.tolerance)
    for _ in range(options.consistency_rounds):
        pairs = {i: _neighbours(i, usable, options.gaps[:3]) for i in indices}
        inverse, confidence = agree_between_frames(inverse, confidence, c2w.float(), small, pairs, options.tolerance)
    inverse[usable], confidence[usable] = smooth_along_edges(
        inverse[usable], confidence[usable], None if guide is None else guide[usable], options.tolerance
    )
    return inverse, confidence


def triangulate(
    flow: Float[Tensor, "pairs h w 2"],
    weight: Float[Tensor, "pairs h w"],
    T_other_self: Float[Tensor, "pairs 4 4"],
    camera: Camera,
    options: DenseDepthOptions,
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Inverse depth that best explains one frame's flow to several others, and `support / std^2` of it.

    A point p + flow seen at normalised (u, v) obeys u (a_z + rho t_z) = a_x + rho t_x with a = R ray: linear in rho.
    Divided by the projected depth of the step before, its residual is the reprojection error.
    """
    _, h, w, _ = flow.shape
    pixels = pixel_grid(h, w, flow)
    rays = camera.unproject(pixels)
    # Rays at the targets are read from the pixels' own: undistorting every target anew would take most of the time.
    grid = (pixels + flow) / flow.new_tensor([w, h]) * 2 - 1
    uv = grid_sample(rays[None, ..., :2].permute(0, 3, 1, 2).expand(len(flow), -1, -1, -1), grid, align_corners=False)
    uv = uv.permute(0, 2, 3, 1)
    weight = weight * (grid.abs().amax(-1) < 1 - 1 / min(h, w))
    a = torch.einsum("nij,hwj->nhwi", T_other_self[:, :3, :3], rays)
    t = T_other_self[:, None, None, :3, 3]
    slope = uv * t[..., 2:] - t[..., :2]
    target = a[..., :2] - uv * a[..., 2:]
    slope_sq, slope_target = slope.square().sum(-1), (slope * target).sum(-1)
    target_sq = target.square().sum(-1)
    focal_sq = (camera.fx * camera.fy) / options.inlier_px**2

    def residual_sq(rho: Tensor) -> Tensor:
        depth = (a[..., 2] + rho * t[..., 2]).clamp(min=1e-3)
        return (slope_sq * rho**2 - 2 * slope_target * rho + target_sq).clamp(min=0) * focal_sq / depth**2

    best = torch.zeros(h, w)
    best_cost = torch.full((h, w), torch.inf)
    longest = T_other_self[:, :3, 3].norm(dim=-1).argsort(descending=True)[: options.starts]
    for n in longest.tolist():
        rho = (slope_target[n] / (slope_sq[n] + EPS)).clamp(min=0)
        r2 = residual_sq(rho)
        cost = (weight * r2 / (1 + r2)).sum(0)
        better = cost < best_cost
        best, best_cost = torch.where(better, rho, best), torch.where(better, cost, best_cost)
    rho = best
    information = torch.zeros_like(rho)
    for _ in range(options.gauss_newton_steps):
        depth = (a[..., 2] + rho * t[..., 2]).clamp(min=1e-3)
        robust = weight / (1 + residual_sq(rho)).square() / depth**2
        information = (robust * slope_sq).sum(0)
        rho = ((robust * slope_target).sum(0) / (information + EPS)).clamp(min=0)
    support = (weight / (1 + residual_sq(rho)).square()).sum(0) / (weight.sum(0) + 0.5)
    variance = options.noise_px**2 / (information * camera.fx * camera.fy + EPS)
    return rho, support / variance


def pixel_grid(h: int, w: int, like: Float[Tensor, "..."]) -> Float[Tensor, "h w 2"]:
    """Centres (x, y) of an h x w image's pixels."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([x, y], dim=-1).to(like) + 0.5


def _certainty(inverse: Tensor, precision: Tensor, tolerance: float) -> Tensor:
    """Factor that turns `support / variance` into a confidence: near 1 where std is below the tolerated error."""
    typical = inverse[precision > 0].median()
    tolerated = (tolerance * (inverse + 0.1 * typical)).square()
    return tolerated / (1 + precision * tolerated)


def _neighbours(i: int, usable: Tensor, gaps: tuple[int, ...]) -> list[int]:
    """Usable frames at the given distances; where one is held out, the next usable one beyond it."""
    found: list[int] = []
    for step in (*gaps, *(-g for g in gaps)):
        j = i + step
        if 0 <= j < len(usable) and not usable[j]:
            j += 1 if step > 0 else -1
        if 0 <= j < len(usable) and usable[j] and j != i and j not in found:
            found.append(j)
    return found or [min((int(j) for j in torch.nonzero(usable)[:, 0] if j != i), key=lambda j: abs(j - i))]
