"""Inverse depths alone, with poses and lens held: a robust triangulation of every point by its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.lens import project_jacobians, rays
from flowcam_ns.alignment.linearize import MIN_DEPTH_RATIO, relative_poses
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.robust import geman_mcclure

TINY = 1e-12
MAX_STEP = 0.5
"""Largest change of an inverse depth in one step, as a share of the row's median."""


def triangulate(problem: FlowProblem, state: FlowState, scales: tuple[float, ...], steps: int = 4) -> FlowState:
    """Gauss-Newton on each inverse depth under a robust kernel that narrows through `scales` (long sides).

    A point without trustworthy flow keeps its inverse depth.
    """
    depths = over_chunks(problem, state, lambda rows, part: _triangulate(rows, part, scales, steps))
    return replace(state, inverse_depth=torch.cat(depths))


def _triangulate(
    problem: FlowProblem, state: FlowState, scales: tuple[float, ...], steps: int
) -> Float[Tensor, "rows points"]:
    lens = state.lens.to(problem.points.dtype)
    ray = rays(problem.points, lens)
    point = torch.cat([ray, torch.ones_like(ray[:, :1])], dim=1)[:, None]
    relative = relative_poses(problem, state)
    at_infinity = relative[..., :3, :3] @ point
    translation = relative[..., :3, 3:]
    depth = state.inverse_depth.to(problem.points.dtype)
    limit = MAX_STEP * depth.abs().median(dim=-1, keepdim=True).values.clamp(min=1e-6)
    for scale in scales:
        for _ in range(steps):
            step = _step(problem, at_infinity, translation, depth, lens, scale)
            depth = depth + step.clamp(-limit, limit)
    return depth.to(state.inverse_depth.dtype)


def _step(
    problem: FlowProblem,
    at_infinity: Float[Tensor, "rows slots 3 points"],
    translation: Float[Tensor, "rows slots 3 1"],
    depth: Float[Tensor, "rows points"],
    lens: Float[Tensor, "lens"],
    scale: float,
) -> Float[Tensor, "rows points"]:
    y = at_infinity + translation * depth[:, None, None]
    z = y[..., 2:, :].clamp(min=MIN_DEPTH_RATIO)
    ray = y[..., :2, :] / z
    pixels, by_ray, _ = project_jacobians(ray, lens, with_lens=False)
    by_depth = (by_ray * ((translation[..., :2, :] - ray * translation[..., 2:, :]) / z)[..., None, :]).sum(-3)
    residual = pixels - problem.targets
    _, weight = geman_mcclure((residual * residual).sum(-2), scale)
    weight = weight * problem.confidence * (y[..., 2, :] > MIN_DEPTH_RATIO)
    gradient = (weight * (by_depth * residual).sum(-2)).sum(1)
    curvature = (weight * (by_depth * by_depth).sum(-2)).sum(1)
    return torch.where(curvature > TINY, -gradient / curvature.clamp(min=TINY), torch.zeros_like(gradient))
