"""Residuals of the flow bundle adjustment and their derivatives, in closed form.

A pixel p of frame i with ray r and inverse depth d is the projective point (r, d). Seen from frame j it is
y = R_ji r + d t_ji, whose pixel pi(y) is compared with where the flow put it. Written this way a point at infinity
(d = 0) is no special case. Poses are perturbed on the right, T <- T exp(v, omega), so that

    dy/dv_i = d R_ji,  dy/domega_i = -R_ji [r]x,  dy/dd = t_ji.

Only the relative pose counts, so the derivatives by frame j's pose are those by frame i's, times `target_adjoint`:
they are never written out.

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

SOURCE = slice(0, 6)
DEPTH, RESIDUAL = 6, 7
LENS = slice(8, 8 + LENS_SIZE)
COLUMNS = 8 + LENS_SIZE
"""Order of the derivatives; those by the lens come last, so that they can be left out."""


def relative_poses(problem: FlowProblem, state: FlowState) -> Float[Tensor, "rows slots 4 4"]:
    """T_target_source of every row and slot, made in the poses' precision and given in the points'."""
    return (se3.inverse(state.c2w)[problem.neighbours] @ state.c2w[problem.sources][:, None]).to(problem.points.dtype)


def homogeneous(
    ray: Float[Tensor, "rows 2 points"], depth: Float[Tensor, "rows points"]
) -> Float[Tensor, "rows 4 points"]:
    """The projective points (x, y, 1, d) of rays (x/z, y/z) and inverse depths."""
    return torch.cat([ray, torch.ones_like(ray[:, :1]), depth[:, None]], dim=1)


def residuals(
    problem: FlowProblem, state: FlowState
) -> tuple[Float[Tensor, "rows slots 2 points"], Bool[Tensor, "rows slots points"]]:
    """Pose-induced minus measured target pixel (in units of the long side), and where it means anything."""
    relative, lens = relative_poses(problem, state), state.lens.to(problem.points.dtype)
    depth = state.inverse_depth.to(problem.points.dtype)
    y = relative[..., :3, :] @ homogeneous(rays(problem.points, lens), depth)[:, None]
    z = y[..., 2:, :]
    pixels = project(y[..., :2, :] / z.clamp(min=MIN_DEPTH_RATIO), lens)
    return pixels - problem.targets, z[..., 0, :] > MIN_DEPTH_RATIO


def reproduced(problem: FlowProblem, state: FlowState, within: float) -> Bool[Tensor, "rows slots points"]:
    """Which flow vectors the state reproduces: it puts their targets `within` this distance (long sides)."""
    error, valid = residuals(problem, state)
    return valid & (error.norm(dim=2) < within)


def linearize(
    problem: FlowProblem, state: FlowState, with_lens: bool = True
) -> tuple[Float[Tensor, "rows slots columns 2 points"], Bool[Tensor, "rows slots points"]]:
    """Derivatives of both residual components, and the residual itself as the last column.

    The columns are the source pose (6), inverse depth, residual and, `with_lens`, the lens.
    """
    lens, inverse_depth = state.lens.to(problem.points.dtype), state.inverse_depth.to(problem.points.dtype)
    ray = rays(problem.points, lens)
    relative = relative_poses(problem, state)
    y = relative[..., :3, :] @ homogeneous(ray, inverse_depth)[:, None]
    z = y[..., 2:, :].clamp(min=MIN_DEPTH_RATIO)
    ray_target = y[..., :2, :] / z
    pixels, by_ray, by_lens = project_jacobians(ray_target, lens, with_lens)
    rows, slots, _, points = pixels.shape
    out = pixels.new_empty(rows, slots, COLUMNS if with_lens else LENS.start, 2, points)

    by_y = pixels.new_empty(rows, slots, 3, 2, points)
    by_y[:, :, :2] = by_ray / z[..., None, :]
    by_y[:, :, 2] = -(by_y[:, :, :2] * ray_target[..., None, :]).sum(2)
    rotation, translation = relative[..., :3, :3], relative[..., :3, 3:]
    flat = by_y.flatten(3)
    by_y_source = (rotation.transpose(-1, -2) @ flat).reshape(by_y.shape)
    depth = inverse_depth[:, None, None, None, :]
    source_point = torch.cat([ray, torch.ones_like(ray[:, :1])], dim=1)[:, None, :, None, :]

    torch.mul(by_y_source, depth, out=out[:, :, 0:3])
    cross(source_point, by_y_source, out[:, :, 3:6])
    if by_lens is not None:
        ray_by_lens = ray_lens_jacobian(problem.points, ray, lens)
        out[:, :, LENS] = by_lens + torch.einsum("rskap,rlkp->rslap", by_y_source[:, :, :2], ray_by_lens)
    out[:, :, DEPTH] = (translation.transpose(-1, -2) @ flat).reshape(rows, slots, 2, points)
    out[:, :, RESIDUAL] = pixels - problem.targets
    return out, y[..., 2, :] > MIN_DEPTH_RATIO


def target_adjoint(problem: FlowProblem, state: FlowState) -> Float[Tensor, "rows slots 6 6"]:
    """What turns derivatives by the source's pose into those by the target's: J_target = J_source A, float64.

    T_ji exp(xi_i) and exp(-xi_j) T_ji = T_ji exp(-Ad(T_ij) xi_j) are the same motion seen from both ends.
    """
    back = se3.inverse(state.c2w)[problem.sources][:, None] @ state.c2w[problem.neighbours]
    rotation, translation = back[..., :3, :3], back[..., :3, 3]
    adjoint = back.new_zeros(*back.shape[:2], 6, 6)
    adjoint[..., :3, :3] = adjoint[..., 3:, 3:] = -rotation
    adjoint[..., :3, 3:] = -se3.skew(translation) @ rotation
    return adjoint


def cross(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Cross product along dimension 2, into `out`."""
    for k in range(3):
        first, second = (k + 1) % 3, (k + 2) % 3
        torch.mul(a[:, :, first], b[:, :, second], out=out[:, :, k])
        out[:, :, k].addcmul_(a[:, :, second], b[:, :, first], value=-1)
