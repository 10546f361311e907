"""From a first window to the whole video: one frame at a time, onto the depths already known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.frame_pose import Sightings, explained, pose_from_two_views, refine_pose, sampled_pose
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.levenberg import Prior, minimize
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.geometry import se3

WINDOW = 7
"""Frames re-solved together with a new one."""
HELD = 2
"""Oldest frames of that window whose poses stay: they tie the scale."""
WINDOW_TOLERANCE = 1e-2
"""Share of the cost below which a step of that solve counts as standing still."""
SOURCES = 4
"""Nearest known frames whose depths pose a new one."""
MIN_SUPPORT = 0.06
"""Least share of a frame's points with trustworthy flow from the known frames for it to be posed."""
TRUSTED = 0.02
"""Weight from which flow counts as trustworthy: confidence 0.25."""
REACH = 32
"""Frames on either side that may share flow with a new one."""
RESECTION_KERNELS = ((24 * PIXEL, 5), (4 * PIXEL, 6))
"""Robust kernels under which it is posed, and their most steps."""
SAMPLE_TOLERANCE = 6 * PIXEL
"""Within this a point agrees with a pose made from a sample of others."""
INLIER = 3 * PIXEL
PLENTY = 0.8
"""With this share explained, the pose needs no second start."""
MIN_INLIERS = 0.35
"""Least share of that flow which the found pose must explain within `INLIER`."""
MIN_EXPLAINED = 0.13
"""Least share of a frame's points whose flow it must explain. Across a jump about a tenth agree on a wrong pose;
features tie such parts better (`bridge.py`)."""


@dataclass
class Segment:
    """Frames [start, stop) posed in one world frame; `state` covers all frames of the video, valid inside only."""

    start: int
    stop: int
    state: FlowState


def grow(
    problem: FlowProblem,
    segment: Segment,
    limits: tuple[int, int],
    prior: Prior,
    progress: Callable[[Segment], None] | None = None,
    settle: Callable[[Segment], None] | None = None,
) -> Segment:
    """Extend a segment to both sides as far as flow carries, within the frames `limits`.

    Stops on a side where too little flow leads to the next frame, or no pose explains it (a cut). `settle` is called
    whenever the segment has doubled, to correct what longer baselines tell better: the focal length above all.
    """
    forward = backward = True
    settled = segment.stop - segment.start
    while (forward and segment.stop < limits[1]) or (backward and segment.start > limits[0]):
        if forward and segment.stop < limits[1]:
            forward = _extend(problem, segment, segment.stop, prior)
        if backward and segment.start > limits[0]:
            backward = _extend(problem, segment, segment.start - 1, prior)
        if settle is not None and segment.stop - segment.start >= 2 * settled:
            settle(segment)
            settled = segment.stop - segment.start
        if progress is not None:
            progress(segment)
    return segment


def _extend(problem: FlowProblem, segment: Segment, new: int, prior: Prior) -> bool:
    """Pose frame `new` next to the segment and re-solve its neighbourhood; False where that cannot be done."""
    start, stop = min(segment.start, new), max(segment.stop, new + 1)
    pose = _resect(problem, segment, new)
    if pose is None:
        return False
    state = segment.state
    c2w = state.c2w.clone()
    c2w[new] = pose
    depth = state.inverse_depth.clone()
    nearest = new - 1 if new >= segment.stop else new + 1
    depth[new] = depth[nearest].median()
    segment.start, segment.stop, segment.state = start, stop, FlowState(c2w, depth, state.lens)
    _triangulate_new(problem, segment, new)
    _solve_window(problem, segment, new, prior)
    return True


def _resect(problem: FlowProblem, segment: Segment, new: int) -> Float[Tensor, "4 4"] | None:
    """The new frame's pose from the flow that known points have into it; the best of a few starts."""
    rows, slots = _leading_to(problem, segment, new)
    if len(rows) == 0:
        return None
    confidence = problem.confidence[rows, slots]
    support = float((confidence > TRUSTED).to(confidence).mean(-1).max())
    if support < MIN_SUPPORT:
        return None
    known = _depth_known(problem, segment, rows)
    seen = _sightings(problem, segment.state, rows, slots, known)
    lens = segment.state.lens
    side = 1 if new >= segment.stop else -1
    c2w = segment.state.c2w
    last, before = se3.inverse(c2w[new - side]), se3.inverse(c2w[new - 2 * side])
    starts = (
        lambda: last @ se3.inverse(before) @ last,  # as fast as up to now
        lambda: sampled_pose(seen, lens, SAMPLE_TOLERANCE),
        lambda: last,
    )
    best, best_share = None, MIN_INLIERS
    for make_start in starts:
        start = make_start()
        if start is None:
            continue
        pose = refine_pose(seen, lens, se3.orthonormalized(start), RESECTION_KERNELS)
        share = explained(seen, lens, pose, INLIER)
        if share >= best_share:
            best, best_share = pose, share
        if share > PLENTY:
            break
    if best is None or support * best_share < MIN_EXPLAINED:
        best = pose_from_two_views(
            problem.points[rows[0]],
            problem.targets[rows[0], slots[0]],
            confidence[0] > TRUSTED,
            known[0],
            segment.state.inverse_depth[rows[0]],
            lens,
            se3.inverse(c2w[rows[0]]),
        )
    return None if best is None else se3.inverse(best)


def _depth_known(problem: FlowProblem, segment: Segment, rows: Int[Tensor, "few"]) -> Bool[Tensor, "few points"]:
    """Which points of some rows have trustworthy flow to a posed frame, and so a depth."""
    others = problem.neighbours[rows]
    posed = (others >= segment.start) & (others < segment.stop) & (others != rows[:, None])
    return ((problem.confidence[rows] > TRUSTED) & posed[..., None]).any(1)


def _sightings(
    problem: FlowProblem,
    state: FlowState,
    rows: Int[Tensor, "few"],
    slots: Int[Tensor, "few"],
    known: Bool[Tensor, "few points"],
) -> Sightings:
    """What the flow from known frames says of where the new one sees those of their points that have a depth."""
    weight = problem.confidence[rows, slots].double() * known
    return Sightings.of_flow(
        problem.points[rows],
        state.c2w[rows],
        state.inverse_depth[rows],
        state.lens,
        problem.targets[rows, slots],
        weight,
    )


def _leading_to(problem: FlowProblem, segment: Segment, new: int) -> tuple[Int[Tensor, "few"], Int[Tensor, "few"]]:
    """The nearest known rows that have flow into `new`, and the slot it stands in."""
    found = [
        (abs(row - new), row, int(slot))
        for row in range(max(segment.start, new - REACH), min(segment.stop, new + REACH + 1))
        for slot in torch.nonzero(problem.neighbours[row] == new)[:1, 0]
        if row != new
    ]
    found = sorted(found)[:SOURCES]
    device = problem.sources.device
    return (
        torch.tensor([row for _, row, _ in found], dtype=torch.long, device=device),
        torch.tensor([slot for _, _, slot in found], dtype=torch.long, device=device),
    )


def _triangulate_new(problem: FlowProblem, segment: Segment, new: int) -> None:
    """Depths of the new frame's points with all poses held."""
    row = torch.tensor([new], device=problem.sources.device)
    near = torch.arange(max(segment.start, new - REACH), min(segment.stop, new + REACH + 1), device=row.device)
    part = problem.rows(row).renumbered(near)
    state = segment.state
    trial = FlowState(state.c2w[near], state.inverse_depth[row], state.lens)
    trial = triangulate(part, trial, (16 * PIXEL, 4 * PIXEL))
    state.inverse_depth[new] = trial.inverse_depth[0]


def _solve_window(problem: FlowProblem, segment: Segment, new: int, prior: Prior) -> None:
    """A few joint steps over the frames nearest to the new one."""
    forward = new == segment.stop - 1
    low = max(segment.start, segment.stop - WINDOW) if forward else segment.start
    high = segment.stop if forward else min(segment.stop, segment.start + WINDOW)
    free_poses = torch.ones(high - low, dtype=torch.bool, device=problem.sources.device)
    if forward:
        free_poses[:HELD] = False
    else:
        free_poses[-HELD:] = False
    free = Free(free_poses, torch.ones_like(free_poses), _no_lens(problem.sources))
    state = segment.state
    found = minimize(
        problem.window(low, high),
        state.window(low, high),
        free,
        scale=3 * PIXEL,
        prior=prior,
        iterations=4,
        tolerance=WINDOW_TOLERANCE,
    ).state
    state.c2w[low:high] = found.c2w
    state.inverse_depth[low:high] = found.inverse_depth


def _no_lens(like: Tensor) -> Tensor:
    return torch.zeros(LENS_SIZE, dtype=torch.bool, device=like.device)
