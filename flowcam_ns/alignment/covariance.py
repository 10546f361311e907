"""How well the solved poses and the lens are determined, from the solve's own normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment import normal_equations
from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import residuals
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.robust import robust_cost

EFFECTIVE_SHARE = 0.02
"""Share of the flow vectors that count as independent measurements: neighbouring vectors, and a point's flow to
several frames, err together."""
GAUGE_PRIOR = 1e-9
MAX_BELIEF = 1e6
"""Most that is added for the lens, relative to the mean of the diagonal: a lens that is known is as good as held."""
ORIENTATION_SHARE = 1e-8
"""Weight of orientations in the fit of the centres: they count where those lie on a line and leave a rotation open."""
STILL = 1e-9
"""Extent of a trajectory below which the camera stays in one place."""
KERNEL = 0.5 * PIXEL


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations in the solver's units."""

    rotation: Float[Tensor, "frames"]
    """Radians."""
    position: Float[Tensor, "frames"]
    inverse_depth: Float[Tensor, "frames points"]
    log_focal: float


def marginal_uncertainty(
    problem: FlowProblem, state: FlowState, lens_std: Float[Tensor, "lens"] | None = None
) -> Uncertainty:
    """Marginal standard deviations of poses, depths (poses held) and the focal length.

    The covariance is the inverse of the reduced normal equations, scaled by the measured residuals' variance and by
    `EFFECTIVE_SHARE`. The free choice of world frame and scale (the gauge) is taken out: a position's deviation is what
    remains after a Sim(3) fit of the centres, a rotation's what remains after one rotation of the world.

    Args:
        problem: the measurements, one row a frame.
        state: the solution.
        lens_std: what was believed of the lens beforehand.
    """
    residual, valid = residuals(problem, state)
    _, weights = robust_cost(problem.confidence, residual, valid, KERNEL)
    noise = float((weights.double() * residual.double().square().sum(-2)).sum() / (2 * weights.sum()).clamp(min=1e-9))
    frames = len(state.c2w)
    equations, _ = normal_equations.build(problem, state, KERNEL)
    variance = max(noise, 1e-12) / EFFECTIVE_SHARE
    depth_std = (variance / equations.depth.clamp(min=1e-12)).sqrt()
    depth_std = torch.where(equations.depth > normal_equations.TINY, depth_std, torch.inf)
    believed = equations.camera.new_zeros(LENS_SIZE) if lens_std is None else variance / lens_std.double() ** 2
    if frames > normal_equations.DENSE_FRAMES:
        return _sparse_uncertainty(equations, state, variance, depth_std, float(believed[0]))
    information = normal_equations.assemble_dense(
        normal_equations.schur_complement(equations), equations.columns, equations.size
    )
    strength = torch.diagonal(information).mean()
    information.diagonal()[-LENS_SIZE:] += believed.clamp(max=float(MAX_BELIEF * strength))
    gauge = _gauge_directions(state)
    # Information along the gauge, where flow gives none, makes the matrix invertible; `_after_fit` takes it out.
    unit = gauge / gauge.norm(dim=0).clamp(min=1e-12)
    information = information + strength * unit @ unit.T
    information += torch.eye(len(information), dtype=information.dtype) * (GAUGE_PRIOR * strength)
    covariance = torch.linalg.inv(information) * variance
    centre = state.c2w[:, :3, 3]
    still = float((centre - centre.mean(0)).norm(dim=-1).max()) < STILL
    by_centres = _after_fit(covariance, gauge, (0.0, 1.0) if still else (1.0, ORIENTATION_SHARE))
    by_orientations = _after_fit(covariance, gauge, (0.0, 1.0))
    return Uncertainty(
        rotation=by_orientations[:, 3:].sum(-1).sqrt(),
        position=by_centres[:, :3].sum(-1).sqrt(),
        inverse_depth=depth_std,
        log_focal=float(covariance[-LENS_SIZE, -LENS_SIZE].clamp(min=0).sqrt()),
    )


def _gauge_directions(state: FlowState) -> Float[Tensor, "unknowns 7"]:
    """Changes of all poses that move the whole world: 3 translations, 3 rotations about its middle, 1 scale."""
    frames = len(state.c2w)
    back = state.c2w[:, :3, :3].transpose(1, 2)
    centre = state.c2w[:, :3, 3] - state.c2w[:, :3, 3].mean(0)
    directions = centre.new_zeros(7, frames, 6)
    for axis in range(3):
        unit = centre.new_zeros(3)
        unit[axis] = 1
        directions[axis, :, :3] = back @ unit
        directions[3 + axis, :, :3] = (back @ torch.linalg.cross(unit.expand_as(centre), centre)[..., None])[..., 0]
        directions[3 + axis, :, 3:] = back @ unit
    directions[6, :, :3] = (back @ centre[..., None])[..., 0]
    return torch.cat([directions.reshape(7, -1), centre.new_zeros(7, LENS_SIZE)], dim=1).T


def _after_fit(
    covariance: Float[Tensor, "unknowns unknowns"], gauge: Float[Tensor, "unknowns 7"], weights: tuple[float, float]
) -> Float[Tensor, "frames 6"]:
    """Variances of the poses after a fit of the world, in which centres and orientations have these `weights`."""
    weight = gauge.new_zeros(len(gauge))
    poses = weight[:-LENS_SIZE].view(-1, 6)
    poses[:, :3], poses[:, 3:] = weights
    weighted = gauge * weight[:, None]
    fit = torch.linalg.pinv(gauge.T @ weighted, hermitian=True) @ weighted.T
    left = covariance - gauge @ (fit @ covariance)
    diagonal = torch.diagonal(left) - ((left @ fit.T) * gauge).sum(1)
    return diagonal[:-LENS_SIZE].clamp(min=0).reshape(-1, 6)


def _sparse_uncertainty(
    equations: normal_equations.NormalEquations,
    state: FlowState,
    variance: float,
    depth_std: Tensor,
    believed_focal: float,
) -> Uncertainty:
    """For long videos: each pose's own block, with its neighbours held, widened by the number of poses it hangs on."""
    local = normal_equations.schur_complement(equations)
    frames = len(state.c2w)
    own = local.new_zeros(frames, 6, 6)
    own.index_add_(0, equations.columns[:, 0] // 6, local[:, :6, :6])
    for slot in range((equations.columns.shape[1] - LENS_SIZE) // 6 - 1):
        here = slice(6 + 6 * slot, 12 + 6 * slot)
        own.index_add_(0, equations.columns[:, here.start] // 6, local[:, here, here])
    own = own + torch.eye(6, dtype=own.dtype) * (1e-9 * torch.diagonal(own, dim1=1, dim2=2).mean())
    diagonal = torch.diagonal(torch.linalg.inv(own), dim1=1, dim2=2) * variance
    distance = torch.minimum(torch.arange(frames), frames - 1 - torch.arange(frames)).to(diagonal) + 1
    diagonal = diagonal * distance[:, None]
    lens = local[:, -LENS_SIZE, -LENS_SIZE].sum().clamp(min=1e-12) + believed_focal
    return Uncertainty(
        diagonal[:, 3:].sum(-1).sqrt(), diagonal[:, :3].sum(-1).sqrt(), depth_std, float((variance / lens).sqrt())
    )
