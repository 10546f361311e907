"""From a video's flow to its solved cameras, once: the parts that flow carries, their ties, the last solve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.bootstrap import LensBelief
from flowcam_ns.alignment.bridge import Bridged, Video, bridge
from flowcam_ns.alignment.feature_rows import feature_pairs
from flowcam_ns.alignment.final_solve import solve_finally
from flowcam_ns.alignment.first_flow import VideoFlow
from flowcam_ns.alignment.given_start import segment_from_poses
from flowcam_ns.alignment.grow import Segment
from flowcam_ns.alignment.measure import few_points
from flowcam_ns.alignment.parallax import fit_rotation, only_turns
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import Solved
from flowcam_ns.alignment.refine import ROUGHLY, refine_all
from flowcam_ns.alignment.revisits import without_drift
from flowcam_ns.alignment.segments import solve_segments
from flowcam_ns.alignment.watch import Progress, Stopwatch
from flowcam_ns.alignment.weak_links import LinkTester
from flowcam_ns.alignment.window import window_problem


@dataclass(frozen=True)
class Attempt:
    """What one attempt has come to."""

    segments: list[Segment]
    """The parts through which flow carries."""
    bridged: Bridged
    """The frames that are posed, and why others are not."""
    solved: Solved
    turns: bool
    """Whether the camera only turns."""


def attempt(
    seen: VideoFlow,
    belief: LensBelief,
    start: Float[Tensor, "frames 4 4"] | None,
    report: Progress,
    watch: Stopwatch,
) -> Attempt | None:
    """Solve a video's cameras from its flow; None where no part of it has enough to begin with.

    Args:
        seen: the video's flow.
        belief: about the lens.
        start: poses of all frames to start from, where there are any.
        report: told how far it is.
        watch: takes the time of each stage.
    """
    store, points, motion = seen.store, seen.points, seen.motion
    frames = len(store)

    def report_part(part: Segment) -> None:
        report("Poses", (part.stop - part.start) / frames, part.state.c2w)

    few = few_points(points.shape[1], frames)
    with watch("solve"), store.features.found_meanwhile(feature_pairs(frames)):
        coarse = measure.build_problem(store, points, seen.measured).thinned(few)
        given = None if start is None else segment_from_poses(coarse, start, belief)
        texture = store.texture(points)
        textured = measure.where_seen(coarse, texture[:, few])
        window = partial(window_problem, store, points, texture, few, motion)
        segments = [given] if given else solve_segments(textured, motion, seen.support, belief, report_part, window)
        if not segments:
            return None
        segments = LinkTester(store, store.features, coarse).cut(segments)
        main, *others = map(Part.of_segment, segments)
        part = main.problem(textured)
        solution = refine_all(part, main.state, belief, scales=(4.0, 1.0), iterations=10, tolerance=ROUGHLY)
        main = replace(main, state=solution.state)
        turning = fit_rotation(part, main.state, belief)
    report("Poses", 1.0, main.state.c2w)
    if only_turns(part, main.state, turning):
        return Attempt(segments, Bridged(main), Solved(part, turning, part, turning), turns=True)
    video = Video(store, store.features, coarse, points[:, few], points)
    bridged = _tie(video, main, others, motion, watch)
    solved = solve_finally(video, bridged, seen.measured, belief, report, watch)
    return Attempt(segments, bridged, solved, turns=False)


def _tie(video: Video, main: Part, others: list[Part], motion: Float[np.ndarray, "steps"], watch: Stopwatch) -> Bridged:
    """Parts that flow did not connect tied to the main one, and its drift taken out where the camera returned."""
    bridged = Bridged(main)
    if len(main) < len(video.store):
        with watch("bridges"):
            bridged = bridge(video, main, others)
    with watch("revisits"):
        tied, revisits = without_drift(video, bridged.part, motion)
    return replace(bridged, part=tied, revisits=revisits)
