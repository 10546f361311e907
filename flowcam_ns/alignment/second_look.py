"""A second look at frames that much of the flow around them contradicts.

Growth poses one frame after another, and a robust solve stays near where it began: a frame that was put in a wrong
place agrees with one neighbour and disregards the others for good. Here it is posed anew from all it shares with them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment.agreement import explained_links
from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.frame_pose import Sightings, explained, refine_pose, sampled_pose
from flowcam_ns.alignment.grow import INLIER, RESECTION_KERNELS, SAMPLE_TOLERANCE, TRUSTED
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.geometry import se3

DOUBTED = 0.7
"""A frame of whose flow a smaller share (of the weight) is explained within `INLIER` is looked at again."""
BETTER = 0.1
"""A new pose must explain so much more of what the other frames tell."""
DEPTH_KERNELS = (16 * PIXEL, 4 * PIXEL)


def look_again(problem: FlowProblem, state: FlowState, sure: Collection[int] = ()) -> FlowState:
    """The state with another pose, and depths to match, for each frame that has a clearly better one.

    Args:
        problem: the measurements, any number of rows a frame.
        state: where a solve has ended.
        sure: frames that are left where they are, because more than this flow tells it.
    """
    shares = explained_around(problem, state)
    c2w, depth = state.c2w.clone(), state.inverse_depth.clone()
    for frame in shares.argsort().tolist():
        if shares[frame] >= DOUBTED:
            break
        if frame in sure:
            continue
        pose = _better_pose(problem, replace(state, c2w=c2w, inverse_depth=depth), frame)
        if pose is not None:
            c2w[frame] = pose
            own = torch.nonzero(problem.sources == frame)[:, 0]
            start = depth[own].median(dim=-1, keepdim=True).values.expand_as(depth[own])
            depth[own] = triangulate(
                problem.rows(own), FlowState(c2w, start.contiguous(), state.lens), DEPTH_KERNELS
            ).inverse_depth
    return replace(state, c2w=c2w, inverse_depth=depth)


def explained_around(problem: FlowProblem, state: FlowState) -> Float[Tensor, "frames"]:
    """For each frame: how much (of the weight) of the flow from it and into it lands within `INLIER` of its target."""
    links = explained_links(problem, state, INLIER)
    total, good = (
        values.new_zeros(len(state.c2w)).index_add_(0, links.sources, values).index_add_(0, links.targets, values)
        for values in (links.weight, links.explained)
    )
    return good / total.clamp(min=1e-9)


def _better_pose(problem: FlowProblem, state: FlowState, frame: int) -> Float[Tensor, "4 4"] | None:
    """A pose of one frame that explains clearly more of what all others tell about it; None where there is none."""
    rows, slots = torch.nonzero((problem.neighbours == frame) & (problem.sources != frame)[:, None], as_tuple=True)
    if len(rows) == 0:
        return None
    seen = _sightings(problem, state, rows, slots, frame)
    now = se3.inverse(state.c2w[frame])
    beside = [k for k in (frame - 1, frame + 1) if 0 <= k < len(state.c2w)]
    starts = [now, sampled_pose(seen, state.lens, SAMPLE_TOLERANCE), *(se3.inverse(state.c2w[k]) for k in beside)]
    best, best_share = None, explained(seen, state.lens, now, INLIER) + BETTER
    for start in starts:
        if start is not None:
            pose = refine_pose(seen, state.lens, se3.orthonormalized(start), RESECTION_KERNELS)
            share = explained(seen, state.lens, pose, INLIER)
            if share > best_share:
                best, best_share = pose, share
    return None if best is None else se3.inverse(best)


def _sightings(
    problem: FlowProblem, state: FlowState, rows: Int[Tensor, "few"], slots: Int[Tensor, "few"], frame: int
) -> Sightings:
    """Where others' points are seen in a frame, with the depths that they have without it."""
    part = problem.rows(rows)
    others = (part.neighbours != frame) & (part.neighbours != part.sources[:, None])
    without = replace(part, confidence=part.confidence * others[..., None])
    start = FlowState(state.c2w, state.inverse_depth[rows], state.lens)
    depth = triangulate(without, start, DEPTH_KERNELS).inverse_depth
    known = (without.confidence > TRUSTED).any(1)
    weight = problem.confidence[rows, slots].double() * known
    c2w = state.c2w[part.sources]
    return Sightings.of_flow(part.points, c2w, depth, state.lens, problem.targets[rows, slots], weight)
