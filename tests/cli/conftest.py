"""A small clip of the procedural scene and its exact alignment, for the tests of what is written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flowcam_ns.alignment.result import Alignment
from flowcam_ns.geometry.se3 import transform
from flowcam_ns.geometry.trajectory import normalize_world
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.video.frames import Frames


def exact_alignment(frames: Frames, depth: torch.Tensor) -> Alignment:
    """The alignment that a perfect solve would hand on, with an arbitrary scale and frame 3 missing."""
    truth = frames.ground_truth
    assert truth is not None
    assert truth.camera is not None
    grid = torch.cartesian_prod(torch.arange(4, frames.width, 12), torch.arange(4, frames.height, 12))
    z = depth[:, grid[:, 1], grid[:, 0]].double()
    pixels = (grid + 0.5).expand(len(frames), -1, 2)
    c2w = torch.from_numpy(truth.c2w)
    surface = transform(c2w[:, None], truth.camera.unproject(pixels.double()) * z[..., None])
    world = normalize_world(c2w, surface.reshape(-1, 3))
    inverse_depth = (1 / (world.scale * z)).float()
    posed = torch.arange(len(frames)) != 3
    c2w = world.apply_c2w(c2w)
    c2w[3] = c2w[2]
    return Alignment(
        camera=truth.camera,
        c2w=c2w,
        posed=posed,
        points=pixels.float(),
        inverse_depth=inverse_depth,
        inverse_depth_std=0.01 * inverse_depth,
        reprojection_error=0.31,
        unposed_reasons={3: "no flow to its neighbours"},
        focal_std=1.5,
        rotation_std_deg=torch.full((len(frames),), 0.02),
        seconds={"flow": 1.25, "solve": 0.5},
    )


@pytest.fixture(scope="session")
def clip_and_alignment() -> tuple[Frames, Alignment]:
    """Ten frames of 160x96 px, of which the fourth is not posed, and 5 more that were thinned out."""
    clip = make_clip("orbit", seed=1, frames=10, width=160, height=96)
    frames = replace(clip.to_frames(), thinned=5, name="orbit")
    return frames, exact_alignment(frames, torch.from_numpy(clip.depth))
