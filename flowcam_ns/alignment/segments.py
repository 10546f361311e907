"""Where to begin, and what to do when flow does not carry through the whole video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment import bootstrap
from flowcam_ns.alignment.bootstrap import LensBelief
from flowcam_ns.alignment.grow import Segment, grow
from flowcam_ns.alignment.levenberg import Prior
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import refine_all
from flowcam_ns.geometry import se3
from flowcam_ns.video.options import MIN_FRAMES

IN_FRONT = 0.7
"""Share of a frame's points that must lie before the camera for its pose to be believed."""
WINDOW_SUPPORT = 0.1
"""Least share of trustworthy flow at every step of a first window (unrelated pictures match at a few points too)."""
GOOD_MOTION = 0.06
"""Apparent motion over the first window (share of the long side) beyond which more is not better."""


def solve_segments(
    problem: FlowProblem,
    motion: Float[np.ndarray, "steps"],
    support: Float[np.ndarray, "steps"],
    belief: LensBelief,
    progress: Callable[[Segment], None] | None = None,
) -> list[Segment]:
    """Pose the video in as few parts as flow allows, longest first. Frames in no part could not be posed."""
    frames = len(problem.sources)
    todo: list[tuple[int, int]] = [(0, frames)]
    segments: list[Segment] = []
    while todo:
        low, high = todo.pop()
        if high - low < MIN_FRAMES:
            continue
        window = first_window(motion, support, (low, high))
        if window is None:
            continue
        segment = _solve_part(problem, window, belief, (low, high), progress)
        segments.append(segment)
        todo += [(low, segment.start), (segment.stop, high)]
    return sorted(segments, key=lambda part: part.start - part.stop)


def _solve_part(
    problem: FlowProblem,
    window: tuple[int, int],
    belief: LensBelief,
    limits: tuple[int, int],
    progress: Callable[[Segment], None] | None,
) -> Segment:
    start, stop = window
    found = bootstrap.solve_first_window(problem.window(start, stop), belief).state
    frames = len(problem.sources)
    c2w = se3.identity(frames, found.c2w)
    c2w[start:stop] = found.c2w
    depth = found.inverse_depth.new_ones(frames, found.inverse_depth.shape[1])
    depth[start:stop] = found.inverse_depth
    first, last = longest_run_in_front(found.inverse_depth)
    segment = Segment(start + first, start + last, FlowState(c2w, depth, found.lens))
    if progress is not None:
        progress(segment)

    def settle(part: Segment) -> None:
        solved = refine_all(*segment_problem(problem, part), belief, scales=(2.0,), iterations=6).state
        part.state.c2w[part.start : part.stop] = solved.c2w
        part.state.inverse_depth[part.start : part.stop] = solved.inverse_depth
        part.state = replace(part.state, lens=solved.lens)

    # Frame by frame the lens stays as it is; `settle` corrects it.
    return grow(problem, segment, limits, Prior.none(), progress, settle)


def longest_run_in_front(inverse_depth: Float[Tensor, "frames points"]) -> tuple[int, int]:
    """The frames [start, stop) of a window whose points lie before the camera; all, where those are too few to go on.

    A window may break in two, one half mirrored with its points behind the cameras. The rest is posed again by growth.
    """
    in_front = ((inverse_depth > 0).double().mean(dim=-1) > IN_FRONT).tolist()
    best, start = (0, 0), 0
    for frame, good in enumerate([*in_front, False]):
        if not good:
            best = max(best, (start, frame), key=lambda run: run[1] - run[0])
            start = frame + 1
    return best if best[1] - best[0] >= MIN_FRAMES else (0, len(in_front))


def first_window(
    motion: Float[np.ndarray, "steps"], support: Float[np.ndarray, "steps"], limits: tuple[int, int]
) -> tuple[int, int] | None:
    """The frames [start, stop) to begin with: well-supported flow throughout, and enough motion for parallax.

    Shorter than usual where no longer run of frames hangs together; None where not even `MIN_FRAMES` do.
    """
    low, high = limits
    for length in range(min(bootstrap.WINDOW, high - low), MIN_FRAMES - 1, -1):
        best, best_score = None, -1.0
        for start in range(low, high - length + 1):
            steps = slice(start, start + length - 1)
            weakest = float(support[steps].min())
            total = float(np.where(np.isfinite(motion[steps]), motion[steps], 0).sum())
            # Early windows win ties: the video's first frame is a natural origin.
            score = weakest * min(total / GOOD_MOTION, 1.0) * (1 - 1e-3 * (start - low) / (high - low))
            if weakest >= WINDOW_SUPPORT and score > best_score:
                best, best_score = start, score
        if best is not None:
            return best, best + length
    return None


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
