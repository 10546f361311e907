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

SOLVE_AFTER = 0.05
"""The newest frames are solved together whenever the picture has moved so far (share of the long side) since the last
time. More often costs more than all the rest of growth; and lets the trajectory drift where the camera is slow, since
frames that were just solved pull on those before them."""
WINDOW = 7
"""Frames that are solved then."""
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
    settled = segment.stop - segment.start
    forward, backward = (_Side(problem, segment, limits, prior, onward) for onward in (True, False))
    while forward.open or backward.open:
        for side in (forward, backward):
            if side.open:
                side.extend()
        if settle is not None and segment.stop - segment.start >= 2 * settled:
            settle(segment)
            settled = segment.stop - segment.start
        if progress is not None:
            progress(segment)
    return segment


class _Side:
    """One end of a growing segment."""

    def __init__(
        self, problem: FlowProblem, segment: Segment, limits: tuple[int, int], prior: Prior, forward: bool
    ) -> None:
        self.problem, self.segment, self.limits, self.prior = problem, segment, limits, prior
        self.forward = forward
        self._moved = 0.0
        self._stuck = False

    @property
    def open(self) -> bool:
        """Whether there is a next frame, and none before it could not be posed."""
        ended = self.segment.stop >= self.limits[1] if self.forward else self.segment.start <= self.limits[0]
        return not (ended or self._stuck)

    def extend(self) -> None:
        """Pose the next frame, and now and then solve the newest ones together."""
        problem, segment = self.problem, self.segment
        last, new = (segment.stop - 1, segment.stop) if self.forward else (segment.start, segment.start - 1)
        pose = _resect(problem, segment, new)
        if pose is None:
            self._stuck = True
            return
        state = segment.state
        c2w, depth = state.c2w.clone(), state.inverse_depth.clone()
        c2w[new], depth[new] = pose, depth[last].median()
        segment.start, segment.stop = min(segment.start, new), max(segment.stop, new + 1)
        segment.state = FlowState(c2w, depth, state.lens)
        _triangulate_new(problem, segment, new)
        self._moved += _motion(problem, last, new)
        if self._moved > SOLVE_AFTER:
            _solve_window(problem, segment, new, self.prior)
            self._moved = 0.0


def _motion(problem: FlowProblem, source: int, target: int) -> float:
    """How far the picture moves between two frames (share of the long side); infinite where flow does not tell."""
    slots = torch.nonzero(problem.neighbours[source] == target)[:1, 0]
    flow = (problem.targets[source, slots] - problem.points[source]).norm(dim=1)
    trusted = flow[problem.confidence[source, slots] > TRUSTED]
    return float(trusted.median()) if trusted.numel() else float("inf")


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
