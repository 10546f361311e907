"""Things that move on their own are found where poses explain too little of the flow, and do not bend the cameras."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.first_flow import see_video
from flowcam_ns.alignment.moving import Votes, still_pixels
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry.metrics import PoseScores, score_trajectory
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.video.frames import Frames

WIDTH, HEIGHT, FRAMES = 384, 216, 24
UNCACHED = AlignmentOptions(cache=False)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("walk", seed=2, frames=FRAMES, width=WIDTH, height=HEIGHT)


def corner(frame: int) -> tuple[int, int]:
    """Top and left of a block that bobs across the picture."""
    return 40 + int(6 * np.sin(0.7 * frame)), 20 + 8 * frame


def crossed(clip: SyntheticClip, height: int, width: int) -> Frames:
    coarse = np.random.default_rng(1).integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    block = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    images = clip.rgb.copy()
    for frame, image in enumerate(images):
        top, left = corner(frame)
        image[top : top + height, left : left + width] = block
    return replace(clip.to_frames(), images=images)


def scored(frames: Frames, clip: SyntheticClip, **options: bool) -> tuple[Alignment, PoseScores]:
    found = estimate_poses(frames, options=replace(UNCACHED, **options))
    return found, score_trajectory(found.c2w, torch.from_numpy(clip.c2w), found.posed)


def test_a_thing_that_crosses_the_picture_is_found_and_the_cameras_stay_right(clip: SyntheticClip) -> None:
    frames = crossed(clip, 90, 80)
    bent, wrong = scored(frames, clip, find_moving=False)
    found, right = scored(frames, clip)
    assert wrong.max_rotation_deg > 5  # what this test is about: a robust solve alone does not see it
    assert right.posed == FRAMES
    assert right.max_rotation_deg < 0.2
    assert right.max_position_relative < 0.01
    assert any("move on their own" in warning for warning in found.warnings)
    assert not any("may be wrong" in warning for warning in found.warnings)
    assert any("may be wrong" in warning for warning in bent.warnings)
    assert bent.foreign is None
    masks = frames.without(None if found.foreign is None else found.foreign.numpy()).masks
    assert masks is not None
    block = np.zeros_like(masks)
    for frame, image in enumerate(block):
        top, left = corner(frame)
        image[top : top + 90, left : left + 80] = True
    assert (block & ~masks).sum() > 0.95 * block.sum()
    assert (~masks).sum() < 1.8 * block.sum()  # points lie so close that their margin is narrow


def test_a_still_scene_is_solved_once_and_nobody_is_warned(clip: SyntheticClip) -> None:
    found, scores = scored(clip.to_frames(), clip)
    once, _ = scored(clip.to_frames(), clip, find_moving=False)
    assert scores.max_rotation_deg < 0.2
    assert found.warnings == []
    assert found.foreign is None
    assert torch.equal(found.c2w, once.c2w)


def test_what_most_of_its_flow_contradicts_is_not_still(clip: SyntheticClip) -> None:
    frames = clip.to_frames()
    seen = see_video(frames, FlowStore(frames.images), UNCACHED, lambda *_: None)
    x, y = np.moveaxis(seen.points, -1, 0)
    thing = (x > 100) & (x < 200) & (y > 50) & (y < 150)
    speck = (x > 320) & (x < 340) & (y > 50) & (y < 66)
    of = np.full(thing.shape, 4.0)
    of[:, :40] = 0  # where nothing is measured
    still = still_pixels(seen, Votes(np.where(thing | speck, 3.0, 1.0) * (of > 0), of))
    assert still.shape == (FRAMES, HEIGHT, WIDTH)
    assert not still[:, 70:130, 120:180].any()
    assert still[:, :, 240:].all()
    assert 0.1 < 1 - still.mean() < 0.25

    masked = seen.masked(still)
    inside = thing & ~np.stack([masked.store.usable(i, seen.points[i]) for i in range(FRAMES)])
    for row, (i, _) in enumerate(masked.measured.pairs):
        assert not masked.measured.confidence[row][inside[i]].any()
    assert (masked.support < seen.support).all()
    assert masked.store.sample([(0, 1)], seen.points)[1][0] == pytest.approx(masked.measured.confidence[0], abs=1e-6)
