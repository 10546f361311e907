"""All frames at once: the robust solve that removes drift and settles the lens."""

from __future__ import annotations

from dataclasses import replace

import torch

from flowcam_ns.alignment.bootstrap import FOCAL, PIXEL, LensBelief
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.levenberg import Solution, minimize, robust_cost_at
from flowcam_ns.alignment.linearize import residuals
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.geometry import se3

ALL_OF_LENS = (True,) * LENS_SIZE
LENS_STAGES = (FOCAL, ALL_OF_LENS)
"""The focal length alone while the trajectory is still rough, then all of the lens."""
LEAST_DAMPING, MOST_DAMPING = 1e-5, 1e-3
"""Damping that one robust kernel may hand on to the next: one that ended where no step helps must not hold that one."""
ROUGHLY = 1e-2
"""Tolerance of solves that others follow: they need not settle what those will."""
KERNEL_IN_ERRORS, KERNEL_LIMITS = 3.0, (0.5, 2.0)
"""Last robust kernel, in median errors, and the least and the most that it may be, px of an image 512 px wide."""


def refine_all(
    problem: FlowProblem,
    state: FlowState,
    belief: LensBelief,
    *,
    scales: tuple[float, ...],
    iterations: int,
    stages: tuple[tuple[bool, ...], ...] = LENS_STAGES,
    tolerance: float = 1e-4,
) -> Solution:
    """Robust solve over every pose, depth and the lens; frame 0 of the problem is held.

    Args:
        problem: the measurements.
        state: the start.
        belief: prior on the lens.
        scales: widths of the robust kernel, one after another, px of an image 512 px wide.
        iterations: most steps for each of them.
        stages: which lens unknowns are free at each scale (the last stage serves all further scales).
        tolerance: share of the cost below which a step counts as standing still.
    """
    frames, rows = len(state.c2w), len(problem.sources)
    device = problem.sources.device
    solution = Solution(state, float("inf"), 0, 1e-4)
    for number, scale in enumerate(scales):
        lens = torch.tensor(stages[min(number, len(stages) - 1)], device=device)
        lens = torch.zeros_like(lens) if belief.known else lens & (belief.std > 0)
        free = Free(torch.arange(frames, device=device) > 0, torch.ones(rows, dtype=torch.bool, device=device), lens)
        solution = minimize(
            problem,
            solution.state,
            free,
            scale=scale * PIXEL,
            prior=belief.prior(robust_cost_at(problem, solution.state, scale * PIXEL), solution.state.lens),
            iterations=iterations,
            damping=min(max(solution.damping, LEAST_DAMPING), MOST_DAMPING),
            tolerance=tolerance,
        )
    c2w = se3.orthonormalized(solution.state.c2w)
    return replace(solution, state=replace(solution.state, c2w=c2w))


def fitting_kernel(problem: FlowProblem, state: FlowState) -> float:
    """Width of the robust kernel (long sides) that suits the errors of a solution: what counts as an outlier in a sharp
    video is the usual error of a blurred one.
    """
    low, high = KERNEL_LIMITS
    return min(max(KERNEL_IN_ERRORS * median_error(problem, state), low * PIXEL), high * PIXEL)


def retriangulate(problem: FlowProblem, state: FlowState) -> FlowState:
    """Depths for the problem's points with poses and lens held, from one common start a frame."""
    points = problem.points.shape[-1]
    depth = state.inverse_depth.median(dim=-1, keepdim=True).values.expand(-1, points)
    start = FlowState(state.c2w, depth.contiguous(), state.lens)
    return triangulate(problem, start, (32 * PIXEL, 8 * PIXEL, 2 * PIXEL))


def median_error(problem: FlowProblem, state: FlowState, trusted: float = 0.04) -> float:
    """Median distance between measured and induced flow (units of the long side), over trustworthy flow."""
    error, valid = residuals(problem, state)
    error = error.norm(dim=-2)[valid & (problem.confidence > trusted)]
    return float(error.median()) if error.numel() else float("inf")
