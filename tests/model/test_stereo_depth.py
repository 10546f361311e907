"""Depths from pictures: what flow misses is found, what it knows stays, and nothing is read that may not be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.blend_training import camera_rays
from flowcam_ns.model.plane_sweep import FULL_COST, PinholeGrid, matching_costs
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.model.stereo_depth import depths_from_pictures

FRAMES, H, W = 7, 96, 128
HELD_OUT = 3
CAMERA = Camera(W, H, 120.0, 120.0, 63.0, 49.0, k1=-0.03)
WALL, POST = 4.0, 2.5
WIDTH = 0.1
"""Width of the post: 5 px."""
LEDGE = 0.6
"""The post stands on a ledge, so far below the cameras."""
LEDGE_ROW = 49 + 29


def look(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Colour and depth along z of a textured wall, and a thin textured post on a ledge before it."""
    origins, directions, _ = camera_rays(CAMERA, c2w)
    wall, post = ((z - origins[..., 2]) / directions[..., 2] for z in (WALL, POST))
    hit = origins + post[..., None] * directions
    on_post = ((hit[..., 0].abs() < WIDTH / 2) & (hit[..., 1] > -0.7)) | (hit[..., 1] > LEDGE)
    distance = torch.where(on_post, post, wall)
    points = origins + distance[..., None] * directions
    phases = points @ torch.tensor([[17.0, 3.0, 9.0], [-2.0, 16.0, 4.0], [21.0, 12.0, 15.0]])
    colour = 0.5 + 0.4 * torch.sin(phases).mean(-1, keepdim=True) + 0.25 * on_post[..., None]
    return colour.expand(-1, -1, 3), (directions @ c2w[:3, 2]) * distance


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
def without_post(scene: ContextScene) -> ContextScene:
    """What flow tells: the wall where the post is, too, and that it is not sure there."""
    post = near(scene)
    inverse = torch.where(post, 1 / WALL, scene.inverse_depth)
    return replace(scene, inverse_depth=inverse, confidence=torch.where(post, 0.1, 1.0))


@pytest.fixture(scope="module")
def found(without_post: ContextScene) -> tuple[Tensor, Tensor]:
    """Depths and confidences from pictures."""
    return depths_from_pictures(without_post)


def near(scene: ContextScene) -> Tensor:
    """Where frames show the post above its ledge."""
    above = torch.arange(H)[:, None] < LEDGE_ROW - 2
    return (scene.inverse_depth > 1.2 / WALL) & above


def post_of(scene: ContextScene) -> Tensor:
    """Where usable frames show the post."""
    return near(scene) & scene.usable[:, None, None]


def test_a_post_that_flow_has_missed_is_found(scene: ContextScene, found: tuple[Tensor, Tensor]) -> None:
    inverse, confidence = found
    right = (inverse / scene.inverse_depth - 1).abs() < 0.1
    assert right[post_of(scene)].float().mean() > 0.9
    assert right[scene.usable].float().mean() > 0.98
    assert confidence[post_of(scene)].mean() > 0.5


def test_right_depths_stay(scene: ContextScene) -> None:
    inverse, confidence = depths_from_pictures(scene)
    error = (inverse / scene.inverse_depth - 1).abs()[scene.usable]
    assert error.median() < 0.001
    assert (error > 0.1).float().mean() < 0.01
    assert torch.equal(confidence, scene.confidence)


def test_a_held_out_frame_lends_nothing_and_keeps_its_own(
    without_post: ContextScene, found: tuple[Tensor, Tensor]
) -> None:
    images = without_post.images.clone()
    images[HELD_OUT] = 255 - images[HELD_OUT]
    inverse, _ = depths_from_pictures(replace(without_post, images=images))
    assert torch.equal(inverse, found[0])
    assert torch.equal(inverse[HELD_OUT], without_post.inverse_depth[HELD_OUT])


def test_what_a_mask_hides_keeps_its_depth_and_matches_nothing(
    scene: ContextScene, without_post: ContextScene, found: tuple[Tensor, Tensor]
) -> None:
    masks = torch.ones(FRAMES, H, W, dtype=torch.bool)
    masks[2, 40:60] = False
    inverse, _ = depths_from_pictures(replace(without_post, masks=masks))
    assert torch.equal(inverse[2, 40:60], without_post.inverse_depth[2, 40:60])
    assert not torch.equal(found[0][2, 40:60], inverse[2, 40:60])
    # Other frames' pictures of that place are compared with each other.
    right = (inverse / scene.inverse_depth - 1).abs() < 0.1
    assert right[4, 40:60][post_of(scene)[4, 40:60]].float().mean() > 0.9


def test_pictures_that_have_nothing_in_common_change_nothing(without_post: ContextScene) -> None:
    noise = torch.randint(0, 256, without_post.images.shape, generator=torch.Generator().manual_seed(0))
    inverse, _ = depths_from_pictures(replace(without_post, images=noise.to(torch.uint8)))
    moved = (inverse / without_post.inverse_depth - 1).abs()[without_post.usable] > 0.1
    assert moved.float().mean() < 0.03


def test_a_camera_that_hardly_moves_keeps_its_depths(without_post: ContextScene) -> None:
    c2w = without_post.c2w.clone()
    c2w[:, :3, 3] *= 0.01
    inverse, confidence = depths_from_pictures(replace(without_post, c2w=c2w))
    assert torch.equal(inverse, without_post.inverse_depth)
    assert torch.equal(confidence, without_post.confidence)


def test_the_number_of_threads_is_as_before(without_post: ContextScene) -> None:
    threads = torch.get_num_threads()
    heard: list[float] = []
    depths_from_pictures(without_post, progress=heard.append)
    assert torch.get_num_threads() == threads
    assert heard == sorted(heard)
    assert heard[-1] == 1


def test_the_true_depth_fits_best(scene: ContextScene) -> None:
    """Through a lens that distorts: costs are least on the plane on which a pixel lies."""
    grid = PinholeGrid(CAMERA, "cpu")
    pictures = [grid.picture(scene.images[i]) for i in (1, 2, 4, 5)]
    T = (se3.inverse(scene.c2w[[1, 2, 4, 5]]) @ scene.c2w[HELD_OUT]).float()
    planes = torch.tensor([0.0, 1 / WALL, 1 / POST, 0.6])
    costs = matching_costs(grid.picture(scene.images[HELD_OUT]), pictures, T, grid, planes)
    truth = grid.undistorted(scene.inverse_depth[HELD_OUT][None])[0]
    wall, post = (truth - 1 / WALL).abs() < 1e-3, (truth - 1 / POST).abs() < 1e-3
    assert (costs.argmin(0)[wall] == 1).float().mean() > 0.95
    assert (costs.argmin(0)[post] == 2).float().mean() > 0.95
    assert costs[1][wall].float().median() < 0.15 * FULL_COST
    assert costs.max() <= FULL_COST


def test_pixels_come_back_from_the_undistorted_picture() -> None:
    grid = PinholeGrid(CAMERA, "cpu")
    ramp = torch.linspace(0, 1, W).expand(H, W)
    back = grid.distorted(grid.undistorted(ramp[None]))[0]
    assert (back - ramp)[4:-4, 4:-4].abs().max() < 1.01 / W
