"""Is there anything but rotation in a video's flow?"""

from __future__ import annotations

import torch

from flowcam_ns.alignment.bootstrap import PIXEL, LensBelief
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.levenberg import minimize, robust_cost_at
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.refine import median_error

ROTATION_EXPLAINS = 1.25
"""A camera that only turns explains the flow if its median error is at most this many times that of the full motion."""
MIN_PARALLAX = 0.3 * PIXEL
"""... or exceeds it by less than this."""
ROUGHLY = 4
"""One in so many points says whether a rotation is worth fitting at all."""
HOPELESS = 2.0
"""Median error, in px of an image 512 px wide, at which a rotation is not worth fitting any better: several times what
any lens or flow leaves unexplained of a camera that only turns."""
ROUGH, FINE = 1e-2, 1e-4
"""Tolerance of the first fit, and of the others."""


def fit_rotation(problem: FlowProblem, state: FlowState, belief: LensBelief) -> FlowState:
    """Poses of a camera that only turns: all points at infinity, focal length free (rotation tells it).

    Of the lens only the focal length is taken from `state`: the rest bent to explain a motion that there was not.
    """
    frames = len(problem.sources)
    c2w = state.c2w.clone()
    c2w[:, :3, 3] = 0
    lens = belief.mean.clone()
    lens[0] = state.lens[0]
    free_lens = torch.zeros(LENS_SIZE, dtype=torch.bool, device=problem.sources.device)
    free_lens[0] = not belief.known
    free = Free(
        torch.arange(frames, device=problem.sources.device) > 0,
        torch.zeros(frames, dtype=torch.bool, device=problem.sources.device),
        free_lens,
    )
    few = problem.thinned(torch.arange(0, problem.points.shape[-1], ROUGHLY, device=problem.sources.device))
    for scale, measured, tolerance in ((12.0, few, ROUGH), (3.0, problem, FINE), (1.0, problem, FINE)):
        trial = FlowState(c2w, torch.zeros_like(measured.points[:, 0]).to(c2w), lens)
        prior = belief.prior(robust_cost_at(measured, trial, scale * PIXEL), lens)
        found = minimize(
            measured, trial, free, scale=scale * PIXEL, prior=prior, iterations=10, tolerance=tolerance
        ).state
        c2w, lens = found.c2w, found.lens
        if median_error(measured, found) > HOPELESS * PIXEL:
            break
    c2w[:, :3, 3] = 0
    return FlowState(c2w, torch.zeros_like(state.inverse_depth), lens)


def only_turns(problem: FlowProblem, moving: FlowState, turning: FlowState) -> bool:
    """Whether rotation alone explains the flow about as well as the full motion does."""
    full, rotation = median_error(problem, moving), median_error(problem, turning)
    return rotation < ROTATION_EXPLAINS * full or rotation - full < MIN_PARALLAX
