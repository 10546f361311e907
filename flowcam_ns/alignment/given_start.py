"""A solve that starts from given poses (the network's) instead of growing them frame by frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.bootstrap import PIXEL, LensBelief, in_front
from flowcam_ns.alignment.grow import Segment
from flowcam_ns.alignment.levenberg import robust_cost_at
from flowcam_ns.alignment.linearize import reproduced
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import LENS_STAGES, refine_all, retriangulate
from flowcam_ns.geometry import se3

DEPTHS = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Common depths tried at first, in steps of the camera: the start's scale is its own."""
KERNELS = (32.0, 8.0)
"""Widths of the robust kernel, px of an image 512 px wide: chained poses drift, so the first must be wide."""
EXPLAINED = 3 * PIXEL
BELIEVED = 0.85
"""Share of its trustworthy flow that every frame's pose must explain within `EXPLAINED`. A start that is wrong at a few
frames hardly shows in the error of all: on recorded sequences good ends had 0.90 and more at their worst frame (one
0.83), false ones 0.82 and less (from twice and three times the true focal length)."""


def segment_from_poses(problem: FlowProblem, c2w: Float[Tensor, "frames 4 4"], belief: LensBelief) -> Segment | None:
    """All frames as one segment, solved from given poses; None where these do not lead to poses that explain the flow.

    Args:
        problem: one row a frame.
        c2w: OpenCV camera-to-world poses of all frames, in any world and scale.
        belief: what is known about the lens.
    """
    frames = len(problem.sources)
    if c2w.shape != (frames, 4, 4) or not bool(torch.isfinite(c2w).all()):
        raise ValueError(f"the start must hold a finite pose for each of the {frames} frames")
    poses = se3.orthonormalized(se3.inverse(c2w[:1].double()) @ c2w.double())
    step = float((poses[1:, :3, 3] - poses[:-1, :3, 3]).norm(dim=-1).mean())
    if step <= 0:
        return None
    poses[:, :3, 3] /= step
    best, best_cost = None, float("inf")
    for depth in DEPTHS:
        scaled = poses.clone()
        scaled[:, :3, 3] /= depth
        flat = FlowState(scaled, scaled.new_ones(frames, problem.points.shape[-1]), belief.mean.double())
        trial = retriangulate(problem, flat)
        cost = robust_cost_at(problem, trial, KERNELS[0] * PIXEL)
        if cost < best_cost:
            best, best_cost = trial, cost
    assert best is not None
    solved = refine_all(problem, best, belief, scales=KERNELS, iterations=8, stages=LENS_STAGES[:1]).state
    solved = in_front(solved)
    if float(explained_shares(problem, solved).min()) < BELIEVED:
        return None
    return Segment(0, frames, solved)


def explained_shares(problem: FlowProblem, state: FlowState, trusted: float = 0.04) -> Float[Tensor, "rows"]:
    """The share of its trustworthy flow that each frame's pose explains; 0 where there is none."""
    counts = problem.confidence > trusted
    explained = counts & reproduced(problem, state, EXPLAINED)
    seen = counts.sum(dim=(1, 2))
    share = explained.sum(dim=(1, 2)) / seen.clamp(min=1)
    return torch.where(seen > 0, share, torch.zeros_like(share))
