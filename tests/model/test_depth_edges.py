"""Depths that follow the picture: smeared edges are put right, right depths stay, held-out frames lend nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.blend_training import camera_rays
from flowcam_ns.model.depth_edges import follow_edges
from flowcam_ns.model.picture_match import comparable_frames
from flowcam_ns.model.scene import ContextScene

FRAMES, H, W = 7, 96, 128
HELD_OUT = 3
CAMERA = Camera(W, H, 120.0, 120.0, 63.0, 49.0, k1=-0.03)
WALL, BOX = 4.0, 2.5
SMEAR = 4


def look(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Colour and depth along z of a textured wall with a textured square before it."""
    origins, directions, _ = camera_rays(CAMERA, c2w)
    wall, box = ((z - origins[..., 2]) / directions[..., 2] for z in (WALL, BOX))
    hit = origins + box[..., None] * directions
    distance = torch.where((hit[..., :2].abs() < 0.5).all(-1), box, wall)
    points = origins + distance[..., None] * directions
    phases = points @ torch.tensor([[17.0, 3.0, 9.0], [-2.0, 16.0, 4.0], [21.0, 12.0, 15.0]])
    return 0.5 + 0.4 * torch.sin(phases).mean(-1, keepdim=True).expand(-1, -1, 3), (directions @ c2w[:3, 2]) * distance


@pytest.fixture(scope="module")
def scene() -> ContextScene:
    tangent = torch.zeros(FRAMES, 6)
    tangent[:, 0] = torch.linspace(-0.45, 0.45, FRAMES)
    c2w = se3.exp(tangent)
    colours, depths = zip(*(look(pose) for pose in c2w), strict=True)
    images = (torch.stack(colours).clamp(0, 1) * 255).round().to(torch.uint8)
    usable = torch.arange(FRAMES) != HELD_OUT
    return ContextScene(images, c2w, CAMERA, 1 / torch.stack(depths), torch.ones(FRAMES, H, W), usable)


@pytest.fixture(scope="module")
def refined(scene: ContextScene) -> tuple[Tensor, Tensor]:
    """Smeared depths, put right."""
    return follow_edges(smeared(scene))


def smeared(scene: ContextScene) -> ContextScene:
    """Near depths carried some pixels out over what lies behind, as flow does."""
    grown = F.max_pool2d(scene.inverse_depth[:, None], 2 * SMEAR + 1, 1, SMEAR)[:, 0]
    return replace(scene, inverse_depth=grown)


def wrong(found: Tensor, scene: ContextScene) -> Tensor:
    """Share of the usable frames' pixels that are more than 10 % off."""
    return ((found / scene.inverse_depth - 1).abs() > 0.1)[scene.usable].float().mean()


def test_smeared_edges_are_put_right(scene: ContextScene, refined: tuple[Tensor, Tensor]) -> None:
    flow_like = smeared(scene)
    found, confidence = refined
    assert found.shape == confidence.shape == scene.inverse_depth.shape
    assert wrong(found, scene) < 0.4 * wrong(flow_like.inverse_depth, scene)


def test_right_depths_stay(scene: ContextScene) -> None:
    found, _ = follow_edges(scene)
    assert wrong(found, scene) < 0.01
    assert (found / scene.inverse_depth - 1).abs()[scene.usable].median() < 0.005


def test_a_held_out_frame_lends_nothing_and_keeps_its_own(scene: ContextScene, refined: tuple[Tensor, Tensor]) -> None:
    flow_like = smeared(scene)
    images = scene.images.clone()
    images[HELD_OUT] = 255 - images[HELD_OUT]
    first, second = refined[0], follow_edges(replace(flow_like, images=images))[0]
    assert torch.equal(first, second)
    assert torch.equal(first[HELD_OUT], flow_like.inverse_depth[HELD_OUT])


def test_what_a_mask_hides_keeps_its_depth(scene: ContextScene, refined: tuple[Tensor, Tensor]) -> None:
    flow_like = smeared(scene)
    masks = torch.ones(FRAMES, H, W, dtype=torch.bool)
    masks[2, :, :70] = False
    free, masked = refined[0], follow_edges(replace(flow_like, masks=masks))[0]
    assert torch.equal(masked[2, :, :70], flow_like.inverse_depth[2, :, :70])
    assert not torch.equal(free[2, :, :70], masked[2, :, :70])
    assert torch.equal(free[2, :, 70:], masked[2, :, 70:])


def test_where_nothing_fits_nothing_changes(scene: ContextScene) -> None:
    """Pictures that have nothing to do with each other must not move depths about."""
    noise = torch.randint(0, 256, scene.images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    flow_like = replace(smeared(scene), images=noise)
    found, _ = follow_edges(flow_like)
    moved = (found / flow_like.inverse_depth - 1).abs()[scene.usable] > 0.1
    assert moved.float().mean() < 0.03


def test_frames_are_compared_over_enough_parallax(scene: ContextScene) -> None:
    # Neighbours lie 0.15 apart: 4.5 px at a depth of 4. The held-out frame is passed over; two frames away is too near
    # for the second one of a side, which must show 10 px.
    assert comparable_frames(scene, 2, CAMERA.fx / WALL) == [1, 4, 5]
    assert comparable_frames(scene, 0, CAMERA.fx / WALL) == [1, 4]
    assert comparable_frames(scene, 6, 1e-9) == [0]
