"""The lens that a network needs before it sees a video whose lens is not known."""

from __future__ import annotations

from dataclasses import replace

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.video.frames import Frames

LENS_FRAMES = 24
"""Neighbouring frames from which the lens is estimated."""
TYPICAL_FOCAL = 0.85
"""Focal length over the long side where nothing tells: a phone's main lens."""


def guessed_lens(frames: Frames) -> Camera:
    """What the file itself says about the focal length; a typical lens where it says nothing."""
    focal = frames.focal_prior or TYPICAL_FOCAL * max(frames.width, frames.height)
    return Camera.from_focal(frames.width, frames.height, focal)


def estimate_lens(frames: Frames, options: AlignmentOptions) -> tuple[Camera, float, list[str]]:
    """The lens by bundle adjustment of a few frames, its focal length's standard deviation in px, and warnings."""
    from flowcam_ns.alignment.estimate import estimate_poses

    for first in (0, max(0, len(frames) - LENS_FRAMES)):
        piece = slice(first, first + LENS_FRAMES)
        part = replace(
            frames,
            images=frames.images[piece],
            sources=frames.sources[piece],
            timestamps=frames.timestamps[piece],
            masks=None if frames.masks is None else frames.masks[piece],
            ground_truth=None,
        )
        try:
            solved = estimate_poses(part, None, options)
        except FlowCamError:
            continue
        return solved.camera, solved.focal_std, []
    lens = guessed_lens(frames)
    warning = (
        f"the lens could not be estimated; a focal length of {lens.fx:.0f} px is assumed (--frames.focal sets it)."
    )
    return lens, float("inf"), [warning]
