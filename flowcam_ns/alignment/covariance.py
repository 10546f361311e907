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
KERNEL = 0.5 * PIXEL


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations in the solver's units."""

    rotation: Float[Tensor, "frames"]
    """Radians."""
    position: Float[Tensor, "frames"]
    inverse_depth: Float[Tensor, "frames points"]
    log_focal: float


def marginal_uncertainty(problem: FlowProblem, state: FlowState) -> Uncertainty:
    """Marginal standard deviations of poses, depths (poses held) and the focal length.

    The covariance is the inverse of the reduced normal equations, scaled by the measured residuals' variance and by
    `EFFECTIVE_SHARE`; the free choice of world frame and scale (the gauge) is projected out, so that a pose's deviation
    is what remains after a Sim(3) fit of the trajectory.
    """
    residual, valid = residuals(problem, state)
    _, weights = robust_cost(problem.confidence, residual, valid, KERNEL)
    noise = float((weights.double() * residual.double().square().sum(-2)).sum() / (2 * weights.sum()).clamp(min=1e-9))
    frames = len(state.c2w)
    equations, _ = normal_equations.build(problem, state, KERNEL)
    variance = max(noise, 1e-12) / EFFECTIVE_SHARE
    depth_std = (variance / equations.depth.clamp(min=1e-12)).sqrt()
    depth_std = torch.where(equations.depth > normal_equations.TINY, depth_std, torch.inf)
    if frames > normal_equations.DENSE_FRAMES:
        return _sparse_uncertainty(equations, state, variance, depth_std)
    information = normal_equations.assemble_dense(
        normal_equations.schur_complement(equations), equations.columns, equations.size
    )
    gauge = _gauge_directions(state)
    # Adding the gauge directions with a large weight and inverting leaves them out of the covariance.
    strength = torch.diagonal(information).mean()
    information = information + strength * gauge @ gauge.T
    information += torch.eye(len(information), dtype=information.dtype) * (GAUGE_PRIOR * strength)
    covariance = torch.linalg.inv(information) * variance
    diagonal = torch.diagonal(covariance).clamp(min=0)
    poses = diagonal[:-LENS_SIZE].reshape(frames, 6)
    return Uncertainty(
        rotation=poses[:, 3:].sum(-1).sqrt(),
        position=poses[:, :3].sum(-1).sqrt(),
        inverse_depth=depth_std,
        log_focal=float(diagonal[-LENS_SIZE].sqrt()),
    )


def _gauge_directions(state: FlowState) -> Float[Tensor, "unknowns 7"]:
    """Orthonormal changes of all poses that move the whole world: 3 translations, 3 rotations, 1 scale."""
    frames = len(state.c2w)
    rotation, centre = state.c2w[:, :3, :3], state.c2w[:, :3, 3]
    back = rotation.transpose(1, 2)
    directions = centre.new_zeros(7, frames, 6)
    for axis in range(3):
        unit = centre.new_zeros(3)
        unit[axis] = 1
        directions[axis, :, :3] = back @ unit
        directions[3 + axis, :, :3] = (back @ torch.linalg.cross(unit.expand_as(centre), centre)[..., None])[..., 0]
        directions[3 + axis, :, 3:] = back @ unit
    directions[6, :, :3] = (back @ (centre - centre.mean(0))[..., None])[..., 0]
    flat = torch.cat([directions.reshape(7, -1), centre.new_zeros(7, LENS_SIZE)], dim=1)
    return torch.linalg.qr(flat.T)[0]


def _sparse_uncertainty(
    equations: normal_equations.NormalEquations, state: FlowState, variance: float, depth_std: Tensor
) -> Uncertainty:
    """For long videos: each pose's own block, with its neighbours held, widened by the number of poses it hangs on."""
    local = normal_equations.schur_complement(equations)
    frames = len(state.c2w)
    own = local.new_zeros(frames, 6, 6)
    own.index_add_(0, equations.columns[:, 0] // 6, local[:, :6, :6])
    for slot in range(equations.columns.shape[1] // 6 - 1):
        here = slice(6 + 6 * slot, 12 + 6 * slot)
        own.index_add_(0, equations.columns[:, here.start] // 6, local[:, here, here])
    own = own + torch.eye(6, dtype=own.dtype) * (1e-9 * torch.diagonal(own, dim1=1, dim2=2).mean())
    diagonal = torch.diagonal(torch.linalg.inv(own), dim1=1, dim2=2) * variance
    distance = torch.minimum(torch.arange(frames), frames - 1 - torch.arange(frames)).to(diagonal) + 1
    diagonal = diagonal * distance[:, None]
    lens = local[:, -LENS_SIZE, -LENS_SIZE].sum()
    return Uncertainty(
        diagonal[:, 3:].sum(-1).sqrt(), diagonal[:, :3].sum(-1).sqrt(), depth_std, float((variance / lens).sqrt())
    )
