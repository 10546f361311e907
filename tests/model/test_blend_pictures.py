"""What a view shows of contexts that are finer than itself: averages over its pixels, and no more work than needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model import blend_field
from flowcam_ns.model.blend_field import BlendField, BlendFieldConfig
from flowcam_ns.model.blend_pictures import COARSEST, ContextPictures, averaged, halved, pixel_spacing
from flowcam_ns.model.blend_training import camera_rays
from flowcam_ns.model.scene import ContextScene

FRAMES, H, W = 6, 96, 128
HELD_OUT = 3
CAMERA = Camera(W, H, 120.0, 120.0, 62.0, 50.0, k1=-0.05, k2=0.02, p1=0.001)
VIEW = CAMERA.scaled_to(W // 2, H // 2)
WALL = 4.0


def look(c2w: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """What a camera sees of a finely striped wall, averaged over its pixels, and its depth along z."""
    fine = 4
    origins, directions, axis = camera_rays(camera.scaled_to(camera.width * fine, camera.height * fine), c2w)
    distance = (WALL - origins[..., 2]) / directions[..., 2]
    points = origins + distance[..., None] * directions
    phases = points[..., :2] @ torch.tensor([[47.0, 21.0, 9.0], [-13.0, 37.0, 29.0]])
    colours = torch.cat([0.5 + 0.4 * torch.sin(phases), ((directions @ axis) * distance)[..., None]], dim=-1)
    seen = F.avg_pool2d(colours.permute(2, 0, 1)[None], fine)[0].permute(1, 2, 0)
    return seen[..., :3], seen[..., 3]


@pytest.fixture(scope="module")
def scene() -> ContextScene:
    tangent = torch.zeros(FRAMES, 6)
    tangent[:, 0] = torch.linspace(-0.31, 0.29, FRAMES)
    tangent[:, 4] = torch.linspace(0.05, -0.06, FRAMES)
    c2w = se3.exp(tangent)
    colours, depths = zip(*(look(pose, CAMERA) for pose in c2w), strict=True)
    images = (torch.stack(colours) * 255).round().to(torch.uint8)
    return ContextScene(
        images, c2w, CAMERA, 1 / torch.stack(depths), torch.ones(FRAMES, H, W), torch.arange(FRAMES) != HELD_OUT
    )


def shrunk(scene: ContextScene) -> ContextScene:
    images = halved(scene.images.permute(0, 3, 1, 2)).round().to(torch.uint8).permute(0, 2, 3, 1)
    return replace(scene, images=images, camera=VIEW)


def field_of(scene: ContextScene) -> BlendField:
    field = BlendField(BlendFieldConfig(refiner_width=0))
    field.set_scene(scene)
    return field


def render(field: BlendField, camera: Camera, c2w: Tensor) -> Tensor:
    origins, directions, forward = camera_rays(camera, c2w)
    with torch.no_grad():
        return field(origins, directions, forward=forward)["rgb"]


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def test_a_view_of_half_the_frames_size_loses_less_than_from_frames_shrunk_before(scene: ContextScene) -> None:
    pose = scene.c2w[HELD_OUT]
    truth, _ = look(pose, VIEW)
    inner = slice(4, -4), slice(4, -4)
    fine, coarse = (psnr(render(field_of(s), VIEW, pose)[inner], truth[inner]) for s in (scene, shrunk(scene)))
    assert fine > coarse + 2


def test_all_of_a_view_and_any_bundle_of_its_rays_read_the_same_pictures(
    scene: ContextScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many bundles read what was filtered before, a single one filters what it shows."""
    field, pose = field_of(scene), scene.c2w[HELD_OUT]
    origins, directions, forward = camera_rays(VIEW, pose)
    guide = field.guide_for(origins[0, 0], directions.reshape(-1, 3), forward)
    monkeypatch.setitem(blend_field.RAYS_AT_ONCE, "cpu", 500)
    with torch.no_grad():
        whole = field(origins, directions, forward=forward, guide=guide)["rgb"]
    monkeypatch.setitem(blend_field.RAYS_AT_ONCE, "cpu", H * W)
    for rows, columns in ((slice(0, 8), slice(0, 8)), (slice(30, 48), slice(50, 64)), (slice(8, 20), slice(None))):
        with torch.no_grad():
            part = field(origins[rows, columns], directions[rows, columns], forward=forward, guide=guide)["rgb"]
        assert torch.allclose(part, whole[rows, columns], atol=2e-3)


@pytest.mark.parametrize("window", [(0, 0, 8, 8), (48, 0, 16, 4), (0, 40, 64, 8), (56, 40, 8, 8)])
def test_pixels_of_a_frames_own_lens_lie_equally_far_apart_everywhere(window: tuple[int, int, int, int]) -> None:
    _, directions, forward = camera_rays(VIEW, se3.exp(torch.tensor([0.1, 0.0, 0.2, 0.3, -0.5, 0.2])), window)
    assert pixel_spacing(directions, forward, CAMERA) == pytest.approx(2, rel=0.01)


def test_finer_views_see_the_frames_as_they_are(scene: ContextScene) -> None:
    frames = scene.images.permute(0, 3, 1, 2)
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    grid = torch.stack([x / W * 2 - 1, y / H * 2 - 1], dim=-1).reshape(1, -1, 1, 2).expand(2, -1, -1, -1)
    for spacing in (0.0, 0.4, 1.0):
        for in_pieces in (True, False):
            seen = ContextPictures(frames, torch.tensor([4, 1]), spacing, in_pieces).sample(grid)
            assert torch.allclose(seen.reshape(2, H, W, 3), scene.images[[4, 1]].float() / 255, atol=1e-3)


def test_small_views_read_halved_pictures_and_windows_only_what_they_show(
    scene: ContextScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    sample = F.grid_sample

    def watched(image: Tensor, grid: Tensor, *how: object, **more: object) -> Tensor:
        if more.get("mode") == "bicubic":
            sizes.append((image.shape[2], image.shape[3]))
        return sample(image, grid, *how, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "grid_sample", watched)
    field, pose = field_of(scene), scene.c2w[HELD_OUT]
    for factor in (1 / 2, COARSEST * 0.99, COARSEST * 1.01, 5.0):
        render(field, CAMERA.scaled_to(round(W / factor), round(H / factor)), pose)
    assert set(sizes) == {(H, W), (H // 2, W // 2), (H // 4, W // 4)}
    assert sizes[-1] == (H // 4, W // 4)
    sizes.clear()
    origins, directions, forward = camera_rays(VIEW, pose, (20, 10, 8, 8))
    field(origins, directions, forward=forward)
    assert max(sizes[0]) < W // 2


def test_filters_keep_brightness_and_know_their_width() -> None:
    images = torch.rand(2, 3, 15, 21, generator=torch.Generator().manual_seed(0))
    assert averaged(images, 1.0) is images
    box = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert torch.allclose(averaged(images, 3.0), box, atol=1e-6)
    assert torch.allclose(averaged(torch.ones_like(images), 1.7), torch.ones_like(images), atol=1e-6)
    whole = (images[..., :14, :20] * 255).to(torch.uint8)
    assert torch.allclose(halved(whole), F.avg_pool2d(whole.float(), 2), atol=1e-4)
    assert halved(images).shape == (2, 3, 7, 10)
