"""The pose estimation as a whole: frames in, poses, lens and surface points out."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.attempt import attempt
from flowcam_ns.alignment.bootstrap import FOCAL_SPREAD, TYPICAL_FOCAL, LensBelief
from flowcam_ns.alignment.chunks import single_torch_thread
from flowcam_ns.alignment.first_flow import FINE, see_video
from flowcam_ns.alignment.foreign import foreign_pixels
from flowcam_ns.alignment.handover import make_alignment
from flowcam_ns.alignment.lens import lens_from_camera
from flowcam_ns.alignment.moving import ATTEMPTS, DOUBTED, Stilled, without_moving
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.alignment.segments import unposed_reasons
from flowcam_ns.alignment.watch import Progress, Stopwatch
from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.cache import FlowCache
from flowcam_ns.flow.estimator import FlowEstimator, make_estimator
from flowcam_ns.flow.overlay import find_overlay
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.flow.threads import one_library_thread
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import MIN_FRAMES

EXIF_SPREAD = 0.05
"""Standard deviation of the logarithm of a focal length that EXIF tells."""
PRINCIPAL_POINT_SPREAD, DISTORTION_SPREAD, TANGENTIAL_SPREAD = 0.0035, 0.1, 0.0005
"""Standard deviations of the principal point (long sides), of k1 and k2, and of p1 and p2, before seeing the video."""
ONLY_TURNS = (
    "The camera only turns, it does not move: rotations are estimated, all positions are the same and no depth can be "
    "told."
)
OVERLAY = (
    "of the picture stays where it is while the rest moves (a logo, a caption, bars, a part of the car) and is left "
    "out of poses and depths."
)
MOVING = "of the pictures seem to move on their own and are left out of the poses."
DOUBTFUL = (
    "of the flow agrees with these poses to the pixel, which may be wrong: something large moves (mask it with "
    "--masks), or the pictures are too blurred."
)
DOUBTFUL_JOINT = (
    "of the flow across frame {} agrees with these poses to the pixel: the parts before and after it may be tied "
    "together wrongly."
)
NO_START = "fewer than three neighbouring frames share trustworthy flow; is the video sharp and textured?"
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
    with_information: bool = False,
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
        with_information: also tell what flow says about small changes of the cameras (`Alignment.information`).

    Raises:
        FlowCamError: the frames carry no poses: too few, a still camera, no texture.
    """
    if not isinstance(frames, Frames):
        frames = load_frames(frames)
    with single_torch_thread(), one_library_thread():
        return _estimate(frames, camera, options or AlignmentOptions(), progress, flow, start, with_information)


def _estimate(
    frames: Frames,
    camera: Camera | None,
    options: AlignmentOptions,
    progress: Progress | None,
    flow: FlowStore | None,
    start: Float[Tensor, "frames 4 4"] | None,
    with_information: bool,
) -> Alignment:
    if len(frames) < MIN_FRAMES:
        raise FlowCamError(f"{frames.name}: poses need at least {MIN_FRAMES} frames, and here are {len(frames)}.")
    report = progress or (lambda _stage, _done, _c2w: None)
    watch = Stopwatch()
    belief = lens_belief(frames, camera or frames.camera, options)
    with watch("flow"):
        seen = see_video(frames, flow or flow_store(frames, options), options, report)
    solve = partial(attempt, belief=belief, start=start, report=report, watch=watch)
    first = solve(seen)
    if first is None:
        raise FlowCamError(f"{frames.name}: {NO_START}")
    found = without_moving(seen, first, belief, solve, ATTEMPTS if options.find_moving else 0)
    solved, posed = found.attempt.solved, found.attempt.bridged.part.frames
    report("Refining", 1.0, solved.state.c2w)
    reasons = unposed_reasons(found.attempt.segments, posed.tolist(), len(frames), found.attempt.bridged.why_not)
    return make_alignment(
        frames,
        seen.points,
        posed,
        solved,
        lens_std=belief.std,
        with_information=with_information,
        foreign=foreign_pixels(len(frames), seen.store.overlay, found.scene),
        reasons=reasons,
        warnings=warnings_of(seen.store, found, len(reasons)),
        seconds=watch.seconds,
    )


def warnings_of(store: FlowStore, found: Stilled, unposed: int) -> list[str]:
    """What the user should know."""
    warnings = []
    if store.overlay is not None:
        warnings.append(f"{100 * store.overlay.mean():.1f} % {OVERLAY}")
    if found.moving:
        warnings.append(f"{100 * found.moving:.0f} % {MOVING}")
    agreed = found.agreed
    if agreed is not None and agreed.whole < DOUBTED:
        warnings.append(f"Only {100 * agreed.whole:.0f} % {DOUBTFUL}")
    elif agreed is not None and found.doubted:
        torn = int(found.attempt.bridged.part.frames[int(agreed.across.argmin())])
        warnings.append(f"Only {100 * agreed.weakest:.0f} % {DOUBTFUL_JOINT.format(torn)}")
    if found.attempt.turns:
        warnings.append(ONLY_TURNS)
    if unposed:
        warnings.append(f"{unposed} of {len(store)} {NOT_POSED}")
    return warnings


def _flow_size(frames: Frames, estimator: FlowEstimator) -> int:
    """The size to begin with. Pictures are never enlarged: small ones cost no more at the finer size, whose points lie
    closer together.
    """
    return estimator.long_side if max(frames.width, frames.height) > estimator.long_side else FINE


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
        options.flow_size or _flow_size(frames, estimator),
        masks=frames.masks,
        cache=cache,
        use_confidence=options.flow_confidence,
        overlay=find_overlay(frames.images) if options.find_overlays else None,
    )
