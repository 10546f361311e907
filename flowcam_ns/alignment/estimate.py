"""The pose estimation as a whole: frames in, poses, lens and surface points out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.bootstrap import FOCAL_SPREAD, PIXEL, TYPICAL_FOCAL, LensBelief
from flowcam_ns.alignment.bridge import Bridged, Video, bridge
from flowcam_ns.alignment.chunks import single_torch_thread
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.far_pairs import FlowPrediction, choose_far_pairs, measure_far_pairs
from flowcam_ns.alignment.feature_rows import feature_rows, weighted
from flowcam_ns.alignment.given_start import segment_from_poses
from flowcam_ns.alignment.grow import Segment
from flowcam_ns.alignment.handover import make_alignment
from flowcam_ns.alignment.lens import lens_from_camera
from flowcam_ns.alignment.measure import Measurements
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.parallax import fit_rotation, only_turns
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import ALL_OF_LENS, refine_all, retriangulate
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.alignment.revisits import without_drift
from flowcam_ns.alignment.segments import solve_segments, unposed_reasons
from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.cache import FlowCache
from flowcam_ns.flow.estimator import make_estimator
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import MIN_FRAMES

Progress = Callable[[str, float, "Tensor | None"], None]
"""Called with the stage's name, the share of it that is done, and the poses so far (OpenCV c2w), if there are any."""

STILL = 0.0015
"""A video whose picture moves less than this share of its long side between any two frames shows a still camera."""
COARSE_SHARE = 4
"""Neighbouring flow vectors err together: one of so many points tells the cameras as much as all do ..."""
MIN_POINTS = 64
"""... but not fewer points than these."""
EXIF_SPREAD = 0.05
"""Standard deviation of the logarithm of a focal length that EXIF tells."""
PRINCIPAL_POINT_SPREAD, DISTORTION_SPREAD, TANGENTIAL_SPREAD = 0.005, 0.1, 0.0005
"""Standard deviations of the principal point (long sides), of k1 and k2, and of p1 and p2, before seeing the video."""
ONLY_TURNS = (
    "The camera only turns, it does not move: rotations are estimated, all positions are the same and no depth can be "
    "told."
)
NOT_POSED = (
    "selected frames could not be posed together with the others: the video has a cut or a jump, or the flow breaks "
    "off, and no matched features bridge it."
)


def estimate_poses(
    frames: Frames | str | Path,
    camera: Camera | None = None,
    options: AlignmentOptions | None = None,
    progress: Progress | None = None,
    flow: FlowStore | None = None,
    start: Float[Tensor, "frames 4 4"] | None = None,
) -> Alignment:
    """Camera poses, lens and surface points of a video, by flow bundle adjustment.

    Args:
        frames: decoded frames, or the path of a video or image folder.
        camera: the lens if it is known; solved for otherwise.
        options: settings.
        progress: called as the work goes on.
        flow: the frames' optical flow, if it is at hand already; made from `options` otherwise.
        start: poses of all frames to start from (OpenCV c2w in any world and scale, such as the network's); where they
            lead nowhere, and where None, the solve starts from nothing.

    Raises:
        FlowCamError: the frames carry no poses: too few, a still camera, no texture.
    """
    if not isinstance(frames, Frames):
        frames = load_frames(frames)
    with single_torch_thread():
        return _estimate(frames, camera, options or AlignmentOptions(), progress, flow, start)


def _estimate(
    frames: Frames,
    camera: Camera | None,
    options: AlignmentOptions,
    progress: Progress | None,
    flow: FlowStore | None,
    start: Float[Tensor, "frames 4 4"] | None,
) -> Alignment:
    if len(frames) < MIN_FRAMES:
        raise FlowCamError(f"{frames.name}: poses need at least {MIN_FRAMES} frames, and here are {len(frames)}.")
    report = progress or (lambda _stage, _done, _c2w: None)

    def report_part(part: Segment) -> None:
        report("Poses", (part.stop - part.start) / len(frames), part.state.c2w)

    watch = Stopwatch()
    store = flow or flow_store(frames, options)
    belief = lens_belief(frames, camera or frames.camera, options)
    with watch("flow"):
        points, measured, motion, support = _measure(frames, store, options, report)
    features = Features.of_store(store)
    with watch("solve"), features.found_meanwhile():
        problem = measure.build_problem(store, points, measured)
        coarse = problem.thinned(_subset(points.shape[1], COARSE_SHARE))
        given = None if start is None else segment_from_poses(coarse, start, belief)
        segments = [given] if given is not None else solve_segments(coarse, motion, support, belief, report_part)
        if not segments:
            raise FlowCamError(
                f"{frames.name}: fewer than three neighbouring frames share trustworthy flow; is the video sharp and "
                "textured?"
            )
        main, *others = map(Part.of_segment, segments)
        part = main.problem(coarse)
        main = replace(main, state=refine_all(part, main.state, belief, scales=(4.0, 1.0), iterations=10).state)
    report("Poses", 1.0, main.state.c2w)
    warnings: list[str] = []
    with watch("solve"):
        turning = fit_rotation(part, main.state, belief)
    if only_turns(part, main.state, turning):
        warnings.append(ONLY_TURNS)
        bridged, fine_problem, fine = Bridged(main), part, turning
    else:
        few = points[:, _subset(points.shape[1], COARSE_SHARE)]
        bridged = _tie(Video(store, features, coarse, few, points), main, others, motion, watch)
        fine_problem, fine = _refine_with_far_pairs(store, features, points, measured, bridged, belief, report, watch)
    report("Refining", 1.0, fine.c2w)
    reasons = unposed_reasons(segments, bridged.part.frames.tolist(), len(frames), bridged.why_not)
    if reasons:
        warnings.append(f"{len(reasons)} of {len(frames)} {NOT_POSED}")
    return make_alignment(
        frames,
        points,
        bridged.part.frames,
        fine_problem,
        fine,
        lens_std=belief.std,
        reasons=reasons,
        warnings=warnings,
        seconds=watch.seconds,
    )


def _tie(video: Video, main: Part, others: list[Part], motion: Float[np.ndarray, "steps"], watch: Stopwatch) -> Bridged:
    """Parts that flow did not connect tied to the main one, and its drift taken out where the camera returned."""
    bridged = Bridged(main)
    if len(main) < len(video.store):
        with watch("bridges"):
            bridged = bridge(video, main, others)
    with watch("revisits"):
        tied, revisits = without_drift(video, bridged.part, motion)
    return replace(bridged, part=tied, revisits=revisits)


def lens_belief(frames: Frames, camera: Camera | None, options: AlignmentOptions) -> LensBelief:
    """What is known about the lens before any flow is seen."""
    if camera is not None:
        lens = lens_from_camera(camera.scaled_to(frames.width, frames.height))
        return LensBelief.of_known(lens)
    focal, spread = TYPICAL_FOCAL, FOCAL_SPREAD
    if frames.focal_prior is not None:
        focal, spread = frames.focal_prior / max(frames.width, frames.height), EXIF_SPREAD
    point = PRINCIPAL_POINT_SPREAD if options.refine_principal_point else 1e-9
    radial, tangential = (DISTORTION_SPREAD, TANGENTIAL_SPREAD) if options.refine_distortion else (1e-9, 1e-9)
    std = torch.tensor([spread, point, point, radial, radial, tangential, tangential], dtype=torch.float64)
    return LensBelief(torch.tensor([math.log(focal), 0, 0, 0, 0, 0, 0], dtype=torch.float64), std)


def flow_store(frames: Frames, options: AlignmentOptions) -> FlowStore:
    """Optical flow of the frames, computed when asked for and cached on disk where the options say so."""
    cache = FlowCache(options.cache_dir) if options.cache else None
    estimator = make_estimator(options.flow, options.device)
    return FlowStore(
        frames.images,
        estimator,
        options.flow_size,
        masks=frames.masks,
        cache=cache,
        use_confidence=options.flow_confidence,
    )


def _measure(
    frames: Frames, store: FlowStore, options: AlignmentOptions, report: Progress
) -> tuple[
    Float32[np.ndarray, "frames points 2"], Measurements, Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]
]:
    """Flow between neighbours, then over longer distances as the motion allows; also the motion and its support."""
    spacing = options.point_spacing * max(frames.width, frames.height) / options.flow_size
    points = store.good_points(spacing)
    motion, support = measure.neighbour_motion(
        store, points, lambda done, total: report("Optical flow", 0.3 * done / total, None)
    )
    if float(np.where(np.isfinite(motion), motion, 1.0).sum()) < STILL * max(1, len(motion) // 4) or (
        _largest_motion(store, points) < STILL
    ):
        raise FlowCamError(
            f"{frames.name}: the picture stands still; poses need a camera that moves (sideways, around or forward)."
        )
    pairs = measure.choose_pairs(motion)
    measured = measure.measure_pairs(
        store, points, pairs, lambda done, total: report("Optical flow", 0.3 + 0.7 * done / total, None)
    )
    return points, measured, motion, support


def _refine_with_far_pairs(
    store: FlowStore,
    features: Features,
    points: Float32[np.ndarray, "frames points 2"],
    measured: Measurements,
    bridged: Bridged,
    belief: LensBelief,
    report: Progress,
    watch: Stopwatch,
) -> tuple[FlowProblem, FlowState]:
    """Solve all frames with flow between distant frames and matched features."""
    part, place, frames = bridged.part, bridged.part.place(), bridged.part.frames.tolist()
    state, sequence = part.state, {(place[i], place[j]) for i, j in measured.pairs if i < j and {i, j} <= place.keys()}
    if bridged.crossing is not None:
        measured = measured + bridged.crossing
    problem = part.problem(measure.build_problem(store, points, measured))
    with watch("solve"):
        few = problem.thinned(_subset(points.shape[1], COARSE_SHARE))
        if bridged.crossing is not None:
            # What features tied roughly now finds its exact place and scale.
            state = refine_all(few, state, belief, scales=(16.0, 4.0, 1.0), iterations=10).state
        known = {(place[i], place[j]) for i, j in measured.pairs if {i, j} <= place.keys()}
        pairs = [pair for pair in choose_far_pairs(few, state, sequence) if pair not in known]
        state = retriangulate(problem, state)
    with watch("far pairs"):
        if pairs:
            predict = FlowPrediction(store, points[frames], frames, state)
            far = measure_far_pairs(
                store,
                points,
                predict,
                [(frames[i], frames[j]) for i, j in pairs],
                lambda done, total: report("Far pairs", done / total, None),
            )
            measured = measured + far
            problem = part.problem(measure.build_problem(store, points, measured))
    few = _subset(points.shape[1], COARSE_SHARE)
    some = problem.thinned(few)
    with watch("features"):
        matched = feature_rows(
            store, features, some, bridged.part.frames, lambda done, total: report("Features", done / total, None)
        )
    with watch("final solve"):
        report("Refining", 0.5, state.c2w)
        start = replace(state, inverse_depth=state.inverse_depth[:, few])
        if matched is not None:
            placed = retriangulate(matched, start)
            some = some.with_rows(weighted(matched, placed, some, start))
            start = replace(start, inverse_depth=torch.cat([start.inverse_depth, placed.inverse_depth]))
        solved = refine_all(
            some,
            start,
            belief,
            scales=(8.0, 2.0, 0.5) if bridged.revisits else (2.0, 0.5),
            iterations=10,
            stages=(ALL_OF_LENS,),
            tolerance=3e-4,
        ).state
        depth = state.inverse_depth.clone()
        depth[:, few] = solved.inverse_depth[: len(depth)]
        state = triangulate(problem, replace(solved, inverse_depth=depth), (2 * PIXEL, 0.5 * PIXEL), steps=3)
    return problem, state


def _subset(points: int, share: int) -> Tensor:
    """Indices of one in `share` points, spread at random but the same each time."""
    kept = max(points // share, min(points, MIN_POINTS))
    return torch.randperm(points, generator=torch.Generator().manual_seed(0))[:kept].sort().values


def _largest_motion(store: FlowStore, points: Float[np.ndarray, "frames points 2"]) -> float:
    """Median motion (share of the long side) between the first frame and a few others, at its largest."""
    last = len(store) - 1
    others = sorted({max(1, round(last * share)) for share in (0.25, 0.5, 0.75, 1.0)})
    targets, confidence = store.sample([(0, j) for j in others], points)
    length = np.linalg.norm(targets - points[0], axis=-1) / max(store.width, store.height)
    moved = [
        np.median(row[good]) if good.any() else np.inf
        for row, good in zip(length, confidence > measure.GOOD, strict=True)
    ]
    return float(max(moved))


class Stopwatch:
    """Wall-clock of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started
