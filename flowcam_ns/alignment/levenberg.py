"""Robust Levenberg-Marquardt on the flow bundle adjustment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment import normal_equations
from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import residuals
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.robust import robust_cost
from flowcam_ns.alignment.watch import count_effort
from flowcam_ns.geometry import se3

MIN_DAMPING, MAX_DAMPING = 1e-7, 1e6
FOCAL_STILL = 1e-3
"""Relative change of the focal length from which a step is none on the spot, however little it gains: on a straight
drive the way to the optimum is long and shallow."""
MAX_POSE_STEP = 0.5
"""Largest change of a rotation (radians) in one step; a longer step is a sign of a bad linearisation."""


@dataclass(frozen=True)
class Prior:
    """A Gaussian prior on the lens: what is believed before any flow is seen."""

    mean: Float[Tensor, "lens"]
    information: Float[Tensor, "lens"]
    """1 / variance, in the units of the robust cost."""

    @classmethod
    def none(cls) -> Prior:
        """No prior: for solves that hold the lens."""
        nothing = torch.zeros(LENS_SIZE, dtype=torch.float64)
        return cls(nothing, nothing)

    def cost(self, lens: Float[Tensor, "lens"]) -> Float[Tensor, ""]:
        """Half the squared Mahalanobis distance."""
        return 0.5 * (self.information * (lens - self.mean) ** 2).sum()


@dataclass(frozen=True)
class Solution:
    """A state, its robust cost and how it was reached."""

    state: FlowState
    cost: float
    iterations: int
    damping: float


def minimize(
    problem: FlowProblem,
    state: FlowState,
    free: Free,
    *,
    scale: float,
    prior: Prior,
    iterations: int,
    damping: float = 1e-3,
    tolerance: float = 1e-4,
) -> Solution:
    """Minimise the robust reprojection cost over the free unknowns.

    Args:
        problem: the flow measurements.
        state: the start.
        free: which unknowns may change.
        scale: width of the Geman-McClure kernel, in units of the image's long side.
        prior: prior on the lens.
        iterations: most steps tried.
        damping: Marquardt's damping at the start.
        tolerance: stop when an accepted step lowers the cost by less than this share, and holds the focal length.
    """
    # Rows that fill as many slots side by side: see `over_chunks`.
    order = torch.argsort(problem.slots_used(), stable=True)
    problem, free = problem.rows(order), replace(free, depths=free.depths[order])
    state = replace(state, inverse_depth=state.inverse_depth[order])
    done, cost = 0, torch.inf
    factor, small_steps = 2.0, 0
    while done < iterations:
        equations, data_cost = normal_equations.build(problem, state, scale, bool(free.lens.any()))
        cost = float(data_cost + prior.cost(state.lens))
        pose_zeros = state.lens.new_zeros(equations.size - len(state.lens))
        information = torch.cat([pose_zeros, prior.information])
        gradient = torch.cat([pose_zeros, prior.information * (state.lens - prior.mean)])
        accepted = False
        while done < iterations and not accepted and damping < MAX_DAMPING:
            done += 1
            step, depth_step = normal_equations.solve(equations, free, damping, information, gradient)
            candidate = _apply(state, step, depth_step)
            new_cost = torch.inf
            if candidate is not None:
                new_cost = robust_cost_at(problem, candidate, scale) + float(prior.cost(candidate.lens))
            if new_cost < cost:
                accepted, factor = True, 2.0
                damping = max(damping / 5, MIN_DAMPING)
                assert candidate is not None
                state = candidate
                still = cost - new_cost < tolerance * cost and abs(float(step[-len(state.lens)])) < FOCAL_STILL
                small_steps = small_steps + 1 if still else 0
                cost = new_cost
            else:
                damping, factor = damping * factor, factor * 2
        del equations  # before the next ones are built: for a long video they are the largest thing in memory
        if not accepted or small_steps >= 2:
            break
    count_effort(done, len(state.c2w))
    state = replace(state, inverse_depth=state.inverse_depth[torch.argsort(order)])
    return Solution(state, float(cost), done, damping)


def robust_cost_at(problem: FlowProblem, state: FlowState, scale: float) -> float:
    """The robust cost of a state, without any prior."""

    def cost(chunk: FlowProblem, part: FlowState) -> float:
        residual, valid = residuals(chunk, part)
        return float(robust_cost(chunk.confidence, residual, valid, scale)[0])

    return sum(over_chunks(problem, state, cost))


def _apply(state: FlowState, step: Tensor, depth_step: Tensor) -> FlowState | None:
    """The state after a step, or None where the step is not finite or turns a camera too far."""
    poses = step[: -len(state.lens)].reshape(-1, 6)
    if not bool(torch.isfinite(step).all()) or float(poses[:, 3:].abs().max()) > MAX_POSE_STEP:
        return None
    return replace(
        state,
        c2w=state.c2w @ se3.exp(poses),
        inverse_depth=state.inverse_depth + depth_step,
        lens=state.lens + step[-len(state.lens) :],
    )
