"""The first few frames: poses, depths and focal length from nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.levenberg import Prior, Solution, minimize, robust_cost_at
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.geometry import se3

WINDOW = 8
"""Frames of the first window."""
FOCAL_STARTS = (0.6, 0.85, 1.2)
"""Focal lengths tried, in long sides of the image: wide phones and action cameras to mild telephoto."""
TYPICAL_FOCAL, FOCAL_SPREAD = 0.75, 0.3
"""What is believed of a video's focal length (long sides; standard deviation of its logarithm) before seeing it."""
PIXEL = 1 / 512
"""The unit in which flow noise is thought of: one px of an image 512 px wide."""
START_KERNELS = ((64 * PIXEL, 6), (24 * PIXEL, 6), (8 * PIXEL, 8))
"""Robust kernels of the start and their most steps. Nothing is known yet, so all flow must pull at first: under a
narrow kernel a frame whose picture has moved far counts as one great outlier, and never finds its place."""
INDEPENDENT = 1000
"""How many independent measurements of the lens a video's flow amounts to, against the prior."""
LENS_FREE = torch.tensor([True, False, False, False, False, False, False])


@dataclass(frozen=True)
class LensBelief:
    """What is known about the lens beforehand, and which parts of it may be solved for."""

    mean: Float[Tensor, "lens"]
    std: Float[Tensor, "lens"]
    known: bool = False
    """True where the user gave the camera: nothing of the lens is solved for."""

    def prior(self, cost: float) -> Prior:
        """The prior in the units of a robust cost that stands at `cost`.

        The whole video is credited with as much evidence as `INDEPENDENT` measurements: flow vectors err together
        (rolling shutter, smoothed flow, moving shadows), and more of them do not average that away.
        """
        return Prior(self.mean, 2 * cost / INDEPENDENT / self.std**2)


def solve_first_window(problem: FlowProblem, belief: LensBelief) -> Solution:
    """Poses, depths and focal length of a few frames, starting from a camera at rest before a plane at depth 1.

    Several focal lengths are tried; the lowest converged robust cost wins. Frame 0 is the origin.
    """
    frames = len(problem.sources)
    free_poses = torch.arange(frames, device=problem.sources.device) > 0
    all_depths = torch.ones_like(free_poses)
    fixed_lens = torch.zeros(LENS_SIZE, dtype=torch.bool, device=problem.sources.device)
    free_lens = fixed_lens if belief.known else LENS_FREE.to(fixed_lens.device)
    starts = [belief.mean] if belief.known else [_with_focal(belief.mean, f) for f in FOCAL_STARTS]
    best: Solution | None = None
    for lens in starts:
        state = FlowState(
            se3.identity(frames, belief.mean),
            belief.mean.new_ones(frames, problem.points.shape[-1]),
            lens,
        )
        held = Free(free_poses, all_depths, fixed_lens)
        found = Solution(state, math.inf, 0, 1.0)
        for scale, iterations in START_KERNELS:
            found = minimize(
                problem, found.state, held, scale=scale, prior=Prior.none(), iterations=iterations, damping=1.0
            )
        free = Free(free_poses, all_depths, free_lens)
        for scale, iterations in ((4 * PIXEL, 20), (2 * PIXEL, 15)):
            prior = belief.prior(robust_cost_at(problem, found.state, scale))
            found = minimize(
                problem, found.state, free, scale=scale, prior=prior, iterations=iterations, damping=found.damping
            )
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return replace(best, state=in_front(best.state))


def in_front(state: FlowState) -> FlowState:
    """The same solution, its points before the cameras: flow cannot tell (depths, positions) from their negatives."""
    if float(state.inverse_depth.median()) >= 0:
        return state
    c2w = state.c2w.clone()
    c2w[:, :3, 3] *= -1
    return replace(state, c2w=c2w, inverse_depth=-state.inverse_depth)


def _with_focal(lens: Float[Tensor, "lens"], focal: float) -> Float[Tensor, "lens"]:
    changed = lens.clone()
    changed[0] = math.log(focal)
    return changed
