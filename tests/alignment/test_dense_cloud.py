"""The cloud that splats start from: on the surfaces, coloured as they are, from no frame that is kept for scoring."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowcam_ns.alignment.dense_cloud import FARTHEST, dense_point_cloud
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera

H, W, FRAMES = 40, 60, 5
CAMERA = Camera(2 * W, 2 * H, 110.0, 112.0, 58.0, 41.0, k1=-0.05)
WALL = 3.0


def wall() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames that slide along a wall at z = 3 whose colour tells its x and y; poses and inverse depths of it."""
    tangent = torch.zeros(FRAMES, 6, dtype=torch.float64)
    tangent[:, 0] = torch.linspace(-0.4, 0.4, FRAMES)
    c2w = se3.exp(tangent)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    rays = CAMERA.scaled_to(W, H).unproject(torch.stack([x, y], dim=-1) + 0.5)
    colours = []
    for pose in c2w:
        points = se3.transform(pose.float(), rays * WALL)
        colours.append(torch.stack([points[..., 0] * 30 + 128, points[..., 1] * 30 + 128, 0 * points[..., 0]], dim=-1))
    images = torch.stack(colours).round().to(torch.uint8).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return images, c2w, torch.full((FRAMES, H, W), 1 / WALL)


def test_points_lie_on_the_surface_in_its_colours_and_seen_twice_they_are_one() -> None:
    images, c2w, inverse_depth = wall()
    xyz, rgb, weight = dense_point_cloud(images, c2w, CAMERA, inverse_depth, torch.ones_like(inverse_depth), 10**6)
    assert xyz[:, 2].numpy() == pytest.approx(np.full(len(xyz), WALL), abs=1e-4)
    assert (rgb[:, 0].float() - (xyz[:, 0] * 30 + 128)).abs().max() < 2
    assert H * W / 4 < len(xyz) < 2 * H * W
    assert float(weight.sum()) == pytest.approx(FRAMES * H * W, rel=1e-3)


def test_frames_and_pixels_without_confidence_give_nothing() -> None:
    images, c2w, inverse_depth = wall()
    confidence = torch.ones_like(inverse_depth)
    confidence[0] = 0
    confidence[:, : H // 2] = 0.1
    xyz, _, _ = dense_point_cloud(images, c2w, CAMERA, inverse_depth, confidence, 10**6)
    first = CAMERA.unproject(torch.tensor([0.0, float(H)])) * WALL
    assert xyz[:, 0].min() > first[0] + c2w[0, 0, 3] + 0.1, "what only frame 0 sees is missing"
    assert xyz[:, 1].min() > first[1] - 0.1
    with pytest.raises(FlowCamError, match="motion"):
        dense_point_cloud(images, c2w, CAMERA, inverse_depth, 0 * confidence, 10)


def test_masked_pixels_give_nothing() -> None:
    images, c2w, inverse_depth = wall()
    masks = torch.ones(FRAMES, 2 * H, 2 * W, dtype=torch.bool)
    masks[:, :H] = False
    xyz, _, _ = dense_point_cloud(images, c2w, CAMERA, inverse_depth, torch.ones_like(inverse_depth), 10**6, masks)
    assert xyz[:, 1].min() > -0.1


def test_a_budget_keeps_the_surest_points_most_often() -> None:
    images, c2w, inverse_depth = wall()
    confidence = torch.full_like(inverse_depth, 0.3)
    confidence[..., W // 2 :] = 1.0
    xyz, rgb, weight = dense_point_cloud(images[:1], c2w[:1], CAMERA, inverse_depth[:1], confidence[:1], 300)
    assert len(xyz) == len(rgb) == len(weight) == 300
    assert (xyz[:, 0] > c2w[0, 0, 3]).float().mean() > 0.6


def test_sky_stands_at_the_far_end() -> None:
    images, c2w, inverse_depth = wall()
    far, _, _ = dense_point_cloud(images, c2w, CAMERA, 0 * inverse_depth, torch.ones_like(inverse_depth), 10**6)
    assert far[:, 2].numpy() == pytest.approx(np.full(len(far), FARTHEST), rel=1e-4)
