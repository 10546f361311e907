"""Residuals of the flow bundle adjustment and their derivatives, in closed form.

A pixel p of frame i with ray r and inverse depth d is the projective point (r, d). Seen from frame j it is
y = R_ji r + d t_ji, whose pixel pi(y) is compared with where the flow put it. Written this way a point at infinity
(d = 0) is no special case. Poses are perturbed on the right, T <- T exp(v, omega), so that

    dy/dv_i = d R_ji,  dy/domega_i = -R_ji [r]x,  dy/dv_j = -d I,  dy/domega_j = [y]x,  dy/dd = t_ji.

Tensors keep the points in their last dimension: everything below is long contiguous arithmetic.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.lens import LENS_SIZE, project, project_jacobians, ray_lens_jacobian, rays
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.geometry import se3

MIN_DEPTH_RATIO = 0.02
"""A point whose z shrinks to less than this share between two frames counts as behind the camera: no residual."""

SOURCE, TARGET, LENS = slice(0, 6), slice(6, 12), slice(12, 12 + LENS_SIZE)
DEPTH, RESIDUAL = 12 + LENS_SIZE, 13 + LENS_SIZE
COLUMNS = 14 + LENS_SIZE


def relative_poses(problem: FlowProblem, state: FlowState) -> Float[Tensor, "rows slots 4 4"]:
    """T_target_source of every row and slot."""
    return se3.inverse(state.c2w)[problem.neighbours] @ state.c2w[problem.sources][:, None]


def _homogeneous(ray: Float[Tensor, "rows 2 points"], depth: Float[Tensor, "rows points"]) -> Tensor:
    return torch.cat([ray, torch.ones_like(ray[:, :1]), depth[:, None]], dim=1)


def residuals(
    problem: FlowProblem, state: FlowState
) -> tuple[Float[Tensor, "rows slots 2 points"], Bool[Tensor, "rows slots points"]]:
    """Pose-induced minus measured target pixel (in units of the long side), and where it means anything."""
    relative = relative_poses(problem, state)
    y = relative[..., :3, :] @ _homogeneous(rays(problem.points, state.lens), state.inverse_depth)[:, None]
    z = y[..., 2:, :]
    pixels = project(y[..., :2, :] / z.clamp(min=MIN_DEPTH_RATIO), state.lens)
    return pixels - problem.targets, z[..., 0, :] > MIN_DEPTH_RATIO


def linearize(
    problem: FlowProblem, state: FlowState
) -> tuple[Float[Tensor, "rows slots columns 2 points"], Bool[Tensor, "rows slots points"]]:
    """Derivatives of both residual components, and the residual itself as the last column.

    The columns are the source pose (6), the target pose (6), the lens (5), the inverse depth and the residual.
    """
    ray = rays(problem.points, state.lens)
    relative = relative_poses(problem, state)
    y = relative[..., :3, :] @ _homogeneous(ray, state.inverse_depth)[:, None]
    z = y[..., 2:, :].clamp(min=MIN_DEPTH_RATIO)
    ray_target = y[..., :2, :] / z
    pixels, by_ray, by_lens = project_jacobians(ray_target, state.lens)
    rows, slots, _, points = pixels.shape
    out = pixels.new_empty(rows, slots, COLUMNS, 2, points)

    by_y = pixels.new_empty(rows, slots, 3, 2, points)
    by_y[:, :, :2] = by_ray / z[..., None, :]
    by_y[:, :, 2] = -(by_y[:, :, :2] * ray_target[..., None, :]).sum(2)
    rotation, translation = relative[..., :3, :3], relative[..., :3, 3:]
    flat = by_y.flatten(3)
    by_y_source = (rotation.transpose(-1, -2) @ flat).reshape(by_y.shape)
    depth = state.inverse_depth[:, None, None, None, :]
    source_point = torch.cat([ray, torch.ones_like(ray[:, :1])], dim=1)[:, None, :, None, :]

    torch.mul(by_y_source, depth, out=out[:, :, 0:3])
    out[:, :, 3:6] = _cross(source_point, by_y_source)
    torch.mul(by_y, -depth, out=out[:, :, 6:9])
    out[:, :, 9:12] = _cross(by_y, y[:, :, :, None])
    ray_by_lens = ray_lens_jacobian(problem.points, ray, state.lens)
    out[:, :, LENS] = by_lens + torch.einsum("rskap,rlkp->rslap", by_y_source[:, :, :2], ray_by_lens)
    out[:, :, DEPTH] = (translation.transpose(-1, -2) @ flat).reshape(rows, slots, 2, points)
    out[:, :, RESIDUAL] = pixels - problem.targets
    return out, y[..., 2, :] > MIN_DEPTH_RATIO


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product along dimension 2."""
    ax, ay, az = a.unbind(2)
    bx, by, bz = b.unbind(2)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim=2)
