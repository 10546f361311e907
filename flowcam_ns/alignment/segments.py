"""Where to begin, and what to do when flow does not carry through the whole video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from flowcam_ns.alignment import bootstrap
from flowcam_ns.alignment.bootstrap import FOCAL_AND_BARREL, PIXEL, LensBelief
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.given_start import explained_shares
from flowcam_ns.alignment.grow import Segment, grow
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.levenberg import Prior, minimize
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.refine import refine_all
from flowcam_ns.alignment.window import first_window
from flowcam_ns.geometry import se3
from flowcam_ns.video.options import MIN_FRAMES

IN_FRONT = 0.7
"""Share of a frame's points that must lie before the camera for its pose to be believed."""
BELIEVED = 0.8
"""Share of its trustworthy flow that each of a first window's poses must explain. On recorded sequences the least of
true windows was 0.86, and false ones had a frame of 0.35 to 0.77."""
FILL_KERNELS = (32 * PIXEL, 8 * PIXEL)
"""Robust kernels under which the frames between those of the first window find their poses."""


def solve_segments(
    problem: FlowProblem,
    motion: Float[np.ndarray, "steps"],
    support: Float[np.ndarray, "steps"],
    belief: LensBelief,
    progress: Callable[[Segment], None] | None = None,
    window_problem: Callable[[list[int]], FlowProblem] | None = None,
) -> list[Segment]:
    """Pose the video in as few parts as flow allows, longest first. Frames in no part could not be posed.

    Args:
        problem: flow of the whole video, one row a frame.
        motion: apparent motion between neighbours.
        support: share of trustworthy flow between neighbours.
        belief: about the lens.
        progress: called with each part as it grows.
        window_problem: flow between the frames that a part begins with; what `problem` has of them where not given.
    """
    measured = window_problem or (lambda keys: problem.rows(torch.tensor(keys)).renumbered(torch.tensor(keys)))
    frames = len(problem.sources)
    todo: list[tuple[int, int]] = [(0, frames)]
    segments: list[Segment] = []
    while todo:
        low, high = todo.pop()
        if high - low < MIN_FRAMES:
            continue
        keys = first_window(motion, support, (low, high))
        if keys is None:
            continue
        first = _begin(problem, keys, measured(keys), belief)
        segment = _solve_part(problem, first, belief, (low, high), progress)
        segments.append(segment)
        todo += [(low, segment.start), (segment.stop, high)]
    return sorted(segments, key=lambda part: part.start - part.stop)


def _begin(problem: FlowProblem, keys: list[int], window: FlowProblem, belief: LensBelief) -> Segment:
    """The first window, then the frames between its own."""
    found = bootstrap.solve_first_window(window, belief).state
    first, last = longest_believable_run(window, found)
    if last - first < len(keys):
        # What was wrong at some frames has pulled at the others.
        kept = torch.arange(first, last)
        keys, window = keys[first:last], window.rows(kept).renumbered(kept)
        found = bootstrap.solve_first_window(window, belief).state
    c2w, depth = found.c2w, found.inverse_depth
    start, stop = keys[0], keys[-1] + 1
    frames = len(problem.sources)
    state = FlowState(se3.identity(frames, c2w), depth.new_ones(frames, depth.shape[1]), found.lens)
    state.c2w[start:stop] = se3.interpolated(c2w, keys, range(start, stop))
    state.inverse_depth[start:stop] = depth.median()
    state.inverse_depth[keys] = depth
    segment = Segment(start, stop, state)
    return segment if stop - start == len(keys) else _filled(problem, segment, keys)


def _filled(problem: FlowProblem, segment: Segment, keys: list[int]) -> Segment:
    """The segment with the poses between `keys` solved, those held and the lens too; then all poses together."""
    part, state = segment_problem(problem, segment)
    between = torch.ones(segment.stop - segment.start, dtype=torch.bool)
    between[[key - segment.start for key in keys]] = False
    rows = torch.nonzero(between)[:, 0]
    new = triangulate(part.rows(rows), replace(state, inverse_depth=state.inverse_depth[rows]), FILL_KERNELS)
    depth = state.inverse_depth.clone()
    depth[rows] = new.inverse_depth
    state = replace(state, inverse_depth=depth)
    no_lens = torch.zeros(LENS_SIZE, dtype=torch.bool)
    everything = torch.ones_like(between)
    everything_but_origin = torch.arange(len(between)) > 0
    for free, kernels in (
        (Free(between, between, no_lens), FILL_KERNELS),
        (Free(everything_but_origin, everything, no_lens), FILL_KERNELS[-1:]),
    ):
        for kernel in kernels:
            state = minimize(part, state, free, scale=kernel, prior=Prior.none(), iterations=5).state
    segment.state.c2w[segment.start : segment.stop] = state.c2w
    segment.state.inverse_depth[segment.start : segment.stop] = state.inverse_depth
    return segment


def _solve_part(
    problem: FlowProblem,
    segment: Segment,
    belief: LensBelief,
    limits: tuple[int, int],
    progress: Callable[[Segment], None] | None,
) -> Segment:
    if progress is not None:
        progress(segment)

    def settle(part: Segment) -> None:
        rows, start = segment_problem(problem, part)
        solved = refine_all(rows, start, belief, scales=(2.0,), iterations=6, stages=(FOCAL_AND_BARREL,)).state
        part.state.c2w[part.start : part.stop] = solved.c2w
        part.state.inverse_depth[part.start : part.stop] = solved.inverse_depth
        part.state = replace(part.state, lens=solved.lens)

    # Frame by frame the lens stays as it is; `settle` corrects it.
    return grow(problem, segment, limits, Prior.none(), progress, settle)


def longest_believable_run(window: FlowProblem, found: FlowState) -> tuple[int, int]:
    """The frames [start, stop) of a window that are believed; all, where those are too few to go on.

    A window may break in two, one half mirrored with its points behind the cameras; or it ends in a false valley, where
    some frames explain little of their flow. The rest is posed again by growth.
    """
    in_front = (found.inverse_depth > 0).double().mean(dim=-1) > IN_FRONT
    believed = (in_front & (explained_shares(window, found) > BELIEVED)).tolist()
    best, start = (0, 0), 0
    for frame, good in enumerate([*believed, False]):
        if not good:
            best = max(best, (start, frame), key=lambda run: run[1] - run[0])
            start = frame + 1
    return best if best[1] - best[0] >= MIN_FRAMES else (0, len(believed))


def segment_problem(problem: FlowProblem, segment: Segment) -> tuple[FlowProblem, FlowState]:
    """The part of a problem and of a state that a segment covers."""
    return problem.window(segment.start, segment.stop), segment.state.window(segment.start, segment.stop)


def unposed_reasons(
    segments: list[Segment], posed: Sequence[int], frames: int, why_not: Mapping[int, str] | None = None
) -> dict[int, str]:
    """Why each frame that is not `posed` has no pose; `why_not` says why features could not tie it to the others."""
    part_of = {index: part for part in segments for index in range(part.start, part.stop)}
    reasons = {}
    for index in sorted(set(range(frames)) - set(posed)):
        part = part_of.get(index)
        reason = "too little flow connects it to its neighbours"
        if part is not None:
            reason = (
                f"belongs to a part (selected frames {part.start} to {part.stop - 1}) that flow does not connect "
                "to the longest part of the video: a cut or a jump"
            )
        if index in (why_not or {}):
            reason += f"; {(why_not or {})[index]}"
        reasons[index] = reason
    return reasons
