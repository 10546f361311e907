"""What a scene tells of itself: the box that holds what is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.scene import TRUSTED, ContextScene

H, W = 30, 40
CAMERA = Camera.from_focal(W, H, 40.0)


@pytest.fixture
def wall() -> ContextScene:
    """Two cameras one unit apart before a wall at z = 2: the first sees x and y within 1 and 0.75 of its axis."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    c2w[1, 0, 3] = 1
    inverse_depth = torch.full((2, H, W), 0.5)
    images = torch.zeros(2, H, W, 3, dtype=torch.uint8)
    return ContextScene(images, c2w, CAMERA, inverse_depth, torch.ones(2, H, W), torch.tensor([True, True]))


def test_the_box_holds_what_is_seen_of_all_frames(wall: ContextScene) -> None:
    truth = torch.tensor([[-1.0, -0.75, 2.0], [2.0, 0.75, 2.0]])
    torch.testing.assert_close(wall.box(), truth, atol=0.1, rtol=0)


def test_frames_and_depths_that_do_not_count_do_not_widen_it(wall: ContextScene) -> None:
    inverse_depth, confidence = wall.inverse_depth.clone(), wall.confidence.clone()
    inverse_depth[0, :10], confidence[0, :10] = 0.01, 0.5 * TRUSTED
    inverse_depth[0, 10:15] = 0
    box = replace(wall, inverse_depth=inverse_depth, confidence=confidence, usable=torch.tensor([True, False])).box()
    torch.testing.assert_close(box, torch.tensor([[-1.0, 0.0, 2.0], [1.0, 0.75, 2.0]]), atol=0.1, rtol=0)


def test_a_few_stray_depths_do_not_widen_it(wall: ContextScene) -> None:
    inverse_depth = wall.inverse_depth.clone()
    inverse_depth[:, 0, :20] = 1e-3
    torch.testing.assert_close(replace(wall, inverse_depth=inverse_depth).box(), wall.box(), atol=0.1, rtol=0)


def test_where_nothing_is_trusted_it_is_that_of_the_cameras(wall: ContextScene) -> None:
    box = replace(wall, confidence=torch.zeros(2, H, W)).box()
    torch.testing.assert_close(box, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
