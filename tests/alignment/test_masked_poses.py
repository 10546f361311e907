"""Masks keep a burnt-in logo and a moving thing out of the solve: poses as good as without them, and far better than
with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.point_cloud import point_cloud
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.geometry.metrics import PoseScores, score_trajectory
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.video.frames import Frames

WIDTH, HEIGHT, FRAMES = 384, 216, 14


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    """A short orbit."""
    return make_clip("orbit", seed=2, frames=FRAMES, width=WIDTH, height=HEIGHT)


def with_logo(clip: SyntheticClip) -> Frames:
    """A textured plate burnt into the same place of every frame, over a third of the picture."""
    images, masks = clip.rgb.copy(), np.ones(clip.rgb.shape[:3], bool)
    plate = np.random.default_rng(0).integers(0, 255, (135, 210, 3), dtype=np.uint8)
    images[:, 60:195, 90:300] = plate
    masks[:, 60:195, 90:300] = False
    return replace(clip.to_frames(), images=images, masks=masks)


def with_moving_block(clip: SyntheticClip) -> Frames:
    """A textured block that slides through the picture on its own."""
    images, masks = clip.rgb.copy(), np.ones(clip.rgb.shape[:3], bool)
    block = np.random.default_rng(1).integers(0, 255, (150, 165, 3), dtype=np.uint8)
    for index in range(len(clip)):
        here = (slice(index, index + 150), slice(30 + 12 * index, 195 + 12 * index))
        images[index][here] = block
        masks[index][here] = False
    return replace(clip.to_frames(), images=images, masks=masks)


def solved(frames: Frames) -> tuple[Alignment, PoseScores]:
    found = estimate_poses(frames, options=AlignmentOptions(cache=False, find_overlays=False))
    assert frames.ground_truth is not None
    return found, score_trajectory(found.c2w, torch.from_numpy(frames.ground_truth.c2w), found.posed)


@pytest.mark.parametrize("disturbed", [with_logo, with_moving_block])
def test_what_is_masked_does_not_move_the_cameras(
    clip: SyntheticClip, disturbed: Callable[[SyntheticClip], Frames]
) -> None:
    frames = disturbed(clip)
    found, scores = solved(frames)
    _, without = solved(replace(frames, masks=None))
    assert scores.posed == FRAMES
    assert scores.max_rotation_deg < 1.0
    assert scores.max_position_relative < 0.05
    assert without.posed < FRAMES or without.max_position_relative > 2 * scores.max_position_relative
    cloud = point_cloud(frames, found)
    assert len(cloud) > 100
    assert frames.masks is not None
    columns, rows = np.floor(cloud.pixels).astype(int).T
    assert frames.masks[cloud.frame, rows, columns].all()
