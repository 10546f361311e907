"""The last solve: all frames at once, with flow between distant frames and matched features."""

from __future__ import annotations

from dataclasses import replace

import torch

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.bootstrap import PIXEL, LensBelief
from flowcam_ns.alignment.bridge import Bridged, Video
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.far_pairs import FlowPrediction, choose_far_pairs, measure_far_pairs
from flowcam_ns.alignment.feature_rows import feature_rows, weighted
from flowcam_ns.alignment.feature_tie import refuted
from flowcam_ns.alignment.measure import Measurements, few_points
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Solved
from flowcam_ns.alignment.refine import ALL_OF_LENS, ROUGHLY, fitting_kernel, refine_all, retriangulate
from flowcam_ns.alignment.second_look import look_again
from flowcam_ns.alignment.watch import Progress, Stopwatch

LONG = 250
"""Frames beyond which dense flow makes room for the solve: so much of it does not stay in memory anyway."""


def solve_finally(
    video: Video,
    bridged: Bridged,
    measured: Measurements,
    belief: LensBelief,
    report: Progress,
    watch: Stopwatch,
) -> Solved:
    """Cameras from all that can be measured, and the depths of all points under them.

    Args:
        video: flow, features and points of all frames.
        bridged: the frames that are tied together, and where they roughly are.
        measured: flow of the video's pairs of frames.
        belief: about the lens.
        report: told how far it is.
        watch: takes the time of each stage.
    """
    part = bridged.part
    measured = measured.without(refuted(video.problem, part, bridged.by_features))
    if bridged.crossing is not None:
        measured = measured + bridged.crossing
    with watch("solve"):
        problem = part.problem(measure.build_problem(video.store, video.points, measured))
        few = few_points(video.points.shape[1], len(video.points))
        state = part.state
        if bridged.crossing is not None:
            # What features tied roughly now finds its exact place and scale.
            few_rows, scales = problem.thinned(few), (16.0, 4.0, 1.0)
            state = refine_all(few_rows, state, belief, scales=scales, iterations=10, tolerance=ROUGHLY).state
        far = _far_pairs(problem.thinned(few), bridged, state, measured)
        state = retriangulate(problem, state)
    with watch("far pairs"):
        if far:
            predict = FlowPrediction(video.store, video.points[part.frames], part.frames.tolist(), state)
            measured = measured + measure_far_pairs(
                video.store, video.points, predict, far, lambda done, total: report("Far pairs", done / total, None)
            )
            problem = part.problem(measure.build_problem(video.store, video.points, measured))
    cameras, start = problem.thinned(few), replace(state, inverse_depth=state.inverse_depth[:, few])
    with watch("features"):
        cameras, start = _with_features(cameras, start, video, bridged, report)
    if len(video.store) > LONG:
        video.store.release()
    with watch("final solve"):
        report("Refining", 0.5, state.c2w)
        start = look_again(cameras, start, [part.place()[frame] for frame in bridged.by_features])
        found = _cameras(cameras, start, belief, (8.0, 2.0) if bridged.revisits else (2.0,))
        depth = state.inverse_depth.clone()
        depth[:, few] = found.inverse_depth[: len(depth)]
        state = triangulate(problem, replace(found, inverse_depth=depth), (2 * PIXEL, 0.5 * PIXEL), steps=3)
    return Solved(problem, state, cameras, found)


def _cameras(problem: FlowProblem, start: FlowState, belief: LensBelief, scales: tuple[float, ...]) -> FlowState:
    """Poses and lens under robust kernels of these widths (px), then with a kernel and a belief that fit the errors."""
    found = refine_all(
        problem, start, belief, scales=scales, iterations=10, stages=(ALL_OF_LENS,), tolerance=3e-4
    ).state
    scales = (fitting_kernel(problem, found) / PIXEL,)
    return refine_all(problem, found, belief, scales=scales, iterations=30, stages=(ALL_OF_LENS,), tolerance=3e-4).state


def _far_pairs(few: FlowProblem, bridged: Bridged, state: FlowState, measured: Measurements) -> list[measure.Pair]:
    """Pairs of the video's frames that are far apart, see the same, and are not measured yet."""
    place, frames = bridged.part.place(), bridged.part.frames.tolist()
    known = {(place[i], place[j]) for i, j in measured.pairs if {i, j} <= place.keys()}
    crossing = {(place[i], place[j]) for i, j in (bridged.crossing.pairs if bridged.crossing else [])}
    sequence = {(i, j) for i, j in known - crossing if i < j}
    return [(frames[i], frames[j]) for i, j in choose_far_pairs(few, state, sequence) if (i, j) not in known]


def _with_features(
    flow: FlowProblem, state: FlowState, video: Video, bridged: Bridged, report: Progress
) -> tuple[FlowProblem, FlowState]:
    """Flow and matched features together."""
    place = bridged.part.place()
    ties = [(place[known], place[frame]) for frame, others in bridged.by_features.items() for known in others]
    matched = feature_rows(
        video.store,
        video.features,
        flow,
        state,
        bridged.part.frames,
        [(min(pair), max(pair)) for pair in ties],
        lambda done, total: report("Features", done / total, None),
    )
    if matched is None:
        return flow, state
    placed = retriangulate(matched, state)
    both = flow.with_rows(weighted(matched, placed, flow, state))
    return both, replace(state, inverse_depth=torch.cat([state.inverse_depth, placed.inverse_depth]))
