"""The blend field: a good picture untrained, never a frame as its own source, better by training."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.blend_context import BACKUP, choose_contexts, frame_colours
from flowcam_ns.model.blend_field import BlendField, BlendFieldConfig
from flowcam_ns.model.blend_guide import pixel_pitch
from flowcam_ns.model.blend_sampling import ContextSamples
from flowcam_ns.model.blend_training import camera_rays, training_step
from flowcam_ns.model.blend_weights import GatedMLP
from flowcam_ns.model.scene import ContextScene

FRAMES, H, W = 8, 48, 64
HELD_OUT = 4
CAMERA = Camera(W, H, 60.0, 60.0, 31.0, 25.0, k1=-0.03, p1=0.001)
WALL, BOX = 4.0, 2.5


def paint(points: Tensor) -> Tensor:
    """A smooth texture in space."""
    phases = points @ torch.tensor([[7.0, 3.0, 1.0], [-2.0, 6.0, 4.0], [1.0, 2.0, 5.0]])
    return 0.5 + 0.35 * torch.sin(phases)


def look(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Colour and depth along z of a wall with a box before it."""
    origins, directions, _ = camera_rays(CAMERA, c2w)
    wall = (WALL - origins[..., 2]) / directions[..., 2]
    box = (BOX - origins[..., 2]) / directions[..., 2]
    hit = origins + box[..., None] * directions
    distance = torch.where((hit[..., :2].abs() < 0.5).all(-1), box, wall)
    points = origins + distance[..., None] * directions
    return paint(points), (directions @ c2w[:3, 2]) * distance


@pytest.fixture(scope="module")
def scene() -> ContextScene:
    tangent = torch.zeros(FRAMES, 6)
    tangent[:, 0] = torch.linspace(-0.5, 0.5, FRAMES)
    tangent[:, 4] = torch.linspace(0.1, -0.1, FRAMES)
    c2w = se3.exp(tangent)
    colours, depths = zip(*(look(pose) for pose in c2w), strict=True)
    images = (torch.stack(colours).clamp(0, 1) * 255).round().to(torch.uint8)
    usable = torch.arange(FRAMES) != HELD_OUT
    return ContextScene(images, c2w, CAMERA, 1 / torch.stack(depths), torch.ones(FRAMES, H, W), usable)


def field_of(scene: ContextScene, **settings: int) -> BlendField:
    torch.manual_seed(0)
    field = BlendField(BlendFieldConfig(**settings))
    field.set_scene(scene)
    return field


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def render(field: BlendField, c2w: Tensor, exclude: int | None = None) -> dict[str, Tensor]:
    origins, directions, forward = camera_rays(CAMERA, c2w)
    with torch.no_grad():
        return field(origins, directions, exclude=exclude, forward=forward)


def test_untrained_a_held_out_view_is_far_better_than_its_neighbours_copy(scene: ContextScene) -> None:
    out = render(field_of(scene), scene.c2w[HELD_OUT])
    truth, depth = look(scene.c2w[HELD_OUT])
    copy = scene.images[HELD_OUT - 1].float() / 255
    assert psnr(out["rgb"], truth) > max(26.0, psnr(copy, truth) + 6)
    _, directions, axis = camera_rays(CAMERA, scene.c2w[HELD_OUT])
    error = ((out["depth"][..., 0] * (directions @ axis)) / depth - 1).abs()
    assert error.median() < 0.02
    assert out["accumulation"][8:-8, 8:-8].min() > 0.9
    assert out["confidence"].median() > 0.5


def test_an_untrained_field_draws_surfaces_neither_nearer_nor_farther(scene: ContextScene) -> None:
    out = render(field_of(scene), scene.c2w[HELD_OUT])
    _, depth = look(scene.c2w[HELD_OUT])
    _, directions, axis = camera_rays(CAMERA, scene.c2w[HELD_OUT])
    error = (out["depth"][..., 0] * (directions @ axis)) / depth - 1
    assert abs(float(error.median())) < 0.1 * BlendFieldConfig().sample_spread


@pytest.mark.parametrize("target", [2, HELD_OUT])
def test_a_frame_is_never_its_own_source(scene: ContextScene, target: int) -> None:
    """Neither a target nor a held-out frame may leave a trace of its colours or depths in its own rendering."""
    before = render(field_of(scene), scene.c2w[target], exclude=target)
    images, depth = scene.images.clone(), scene.inverse_depth.clone()
    images[target], depth[target] = 255 - images[target], 9.0
    changed = ContextScene(images, scene.c2w, CAMERA, depth, scene.confidence, scene.usable)
    after = render(field_of(changed), scene.c2w[target], exclude=target)
    for name in before:
        # The scene's typical depth (one number, which scales the choice of contexts) may shift a little.
        torch.testing.assert_close(before[name], after[name], atol=1e-3, rtol=1e-3)


def test_random_rays_and_pieces_show_what_the_whole_view_shows(scene: ContextScene) -> None:
    field = field_of(scene)
    origins, directions, forward = camera_rays(CAMERA, scene.c2w[HELD_OUT])
    whole = render(field, scene.c2w[HELD_OUT])["rgb"].reshape(-1, 3)
    rows = torch.randperm(H * W, generator=torch.Generator().manual_seed(1))[:500]
    with torch.no_grad():
        some = field(origins.reshape(-1, 3)[rows], directions.reshape(-1, 3)[rows], forward=forward)["rgb"]
    assert (some - whole[rows]).abs().mean() < 0.01


def test_mixed_precision_moves_no_pixel(scene: ContextScene) -> None:
    field = field_of(scene)
    exact = render(field, scene.c2w[2], exclude=2)["rgb"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = render(field, scene.c2w[2], exclude=2)["rgb"]
    assert psnr(exact, mixed) > 60


def test_points_at_infinity_stay_with_their_direction(scene: ContextScene) -> None:
    """Sky: with inverse depth 0 everywhere, a camera that moved without turning sees the same picture."""
    far = torch.zeros_like(scene.inverse_depth)
    c2w = torch.eye(4).repeat(FRAMES, 1, 1)
    c2w[:, 0, 3] = torch.arange(FRAMES) * 0.1
    images = scene.images[:1].expand(FRAMES, -1, -1, -1)
    field = field_of(ContextScene(images, c2w, CAMERA, far, scene.confidence, scene.usable))
    out = render(field, c2w[HELD_OUT])
    assert psnr(out["rgb"][2:-2, 2:-2], images[0, 2:-2, 2:-2].float() / 255) > 40
    assert torch.isfinite(out["depth"]).all()


@pytest.mark.parametrize("backups", [0, 1])
def test_context_weights_change_without_jumps_along_a_path(scene: ContextScene, backups: int) -> None:
    usable, forward = scene.usable, torch.tensor([0.0, 0.0, 1.0])
    last, sets = None, set()
    for x in torch.linspace(-0.6, 0.6, 400):
        origin = torch.tensor([float(x), 0.0, 0.0])
        chosen, weight = choose_contexts(origin, forward, scene.c2w, usable, 0.3, count=3, backups=backups)
        dense = torch.zeros(FRAMES).index_copy(0, chosen, weight)
        assert dense.sum() == pytest.approx(1, abs=1e-5)
        assert dense[HELD_OUT] == 0
        assert weight[3 - backups :].sum() <= BACKUP
        sets.add(tuple(sorted(chosen.tolist())))
        if last is not None:
            assert (dense - last).abs().max() < 0.05
        last = dense
    assert len(sets) > 3


def test_training_lowers_the_loss_and_keeps_every_part_alive(scene: ContextScene) -> None:
    field = field_of(scene)
    optimizer = torch.optim.Adam(field.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)

    def loss(seed: int) -> Tensor:
        parts = [training_step(field, i, torch.Generator().manual_seed(seed), patch=32) for i in (1, 3, 6)]
        return torch.stack([value for part in parts for value in part.values()]).sum()

    before = float(loss(7).detach())
    for step in range(40):
        optimizer.zero_grad()
        sum(training_step(field, (1, 2, 3, 5, 6)[step % 5], generator, patch=32).values(), torch.zeros(())).backward()
        optimizer.step()
    assert float(loss(7).detach()) < 0.985 * before
    untrained = field_of(scene).state_dict()
    assert all(not torch.equal(value, untrained[name]) for name, value in field.state_dict().items())


def test_what_cannot_be_rendered_is_refused(scene: ContextScene) -> None:
    with pytest.raises(FlowCamError, match="held out"):
        training_step(field_of(scene), HELD_OUT)
    alone = ContextScene(
        scene.images, scene.c2w, CAMERA, scene.inverse_depth, scene.confidence, torch.arange(FRAMES) == 2
    )
    with pytest.raises(FlowCamError, match="from itself"):
        render(field_of(alone), scene.c2w[2], exclude=2)
    with pytest.raises(FlowCamError, match="set_scene"):
        render(BlendField(), scene.c2w[0])


def test_a_gated_network_starts_at_zero_and_learns() -> None:
    """The form that tiny-cuda-nn takes, run on torch."""
    torch.manual_seed(0)
    network = GatedMLP(4, 16, "torch")
    features = torch.randn(3, 50, 4)
    target = features.sum(-1, keepdim=True)
    assert network(features).abs().max() == 0
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (network(features) - target).square().mean().backward()
        optimizer.step()
    assert (network(features) - target).square().mean() < 0.1 * target.square().mean()


@pytest.mark.skipif(importlib.util.find_spec("tinycudann") is not None, reason="tiny-cuda-nn is installed")
def test_without_tiny_cuda_nn_its_fields_are_refused() -> None:
    with pytest.raises(FlowCamError, match="tiny-cuda-nn"):
        BlendField(BlendFieldConfig(implementation="tcnn"))


def test_a_small_view_needs_less_to_place_its_samples_and_shows_the_same(scene: ContextScene) -> None:
    field = field_of(scene)
    small = CAMERA.scaled_to(W // 2, H // 2)
    origins, directions, forward = camera_rays(small, scene.c2w[HELD_OUT])
    pitch = pixel_pitch(directions)
    assert pitch == pytest.approx(1 / small.fx, rel=0.1)
    coarse, fine = (
        field.guide_for(origins[0, 0], directions.reshape(-1, 3), forward, pitch=p) for p in (pitch * 1.1, 0.0)
    )
    assert coarse.layers.numel() < 0.4 * fine.layers.numel()
    with torch.no_grad():
        views = [field(origins, directions, forward=forward, guide=guide)["rgb"] for guide in (coarse, fine)]
    assert psnr(*views) > 30


def test_contexts_are_shown_in_the_colours_of_their_frames(scene: ContextScene) -> None:
    shown = render(field_of(scene), scene.c2w[0], exclude=0)["contexts"]
    colours = frame_colours(torch.arange(FRAMES), FRAMES)
    assert len({tuple(colour) for colour in colours.tolist()}) == FRAMES
    distance = (shown.reshape(-1, 1, 3) - colours).norm(dim=-1).argmin(-1)
    assert distance.mode().values == 1, "the nearest frame counts most"


def test_what_a_mask_hides_is_not_painted_into_other_views(scene: ContextScene) -> None:
    """A passer-by in the nearest frame: the other frames show what is behind."""
    images, masks = scene.images.clone(), torch.ones(scene.images.shape[:3], dtype=torch.bool)
    passer_by = (HELD_OUT - 1, slice(12, 36), slice(20, 40))
    images[passer_by], masks[passer_by] = torch.tensor([255, 0, 255], dtype=torch.uint8), False
    truth, _ = look(scene.c2w[HELD_OUT])
    spoilt = render(field_of(replace(scene, images=images)), scene.c2w[HELD_OUT])["rgb"]
    masked = render(field_of(replace(scene, images=images, masks=masks)), scene.c2w[HELD_OUT])["rgb"]
    clean = render(field_of(scene), scene.c2w[HELD_OUT])["rgb"]
    # Behind the passer-by one frame fewer shows the scene, so it is a little worse than without one.
    assert psnr(masked, truth) > max(30.0, psnr(spoilt, truth) + 6)
    assert psnr(masked, truth) > psnr(clean, truth) - 5


@pytest.mark.parametrize(("others_see", "least", "most"), [(0.0, 0.9, 1.0), (1.0, 0.0, 0.05)])
def test_a_backup_shows_what_the_others_do_not_see_and_hardly_anything_else(
    scene: ContextScene, others_see: float, least: float, most: float
) -> None:
    field = field_of(scene)
    origin = scene.c2w[HELD_OUT, :3, 3] + torch.tensor([0.03, 0.0, 0.0])  # no two frames are equally far
    _, prior = field.colours_from(origin, scene.c2w[HELD_OUT, :3, 2])
    nothing = torch.zeros(3, 1, 5)
    inside = torch.tensor([others_see, others_see, 1.0]).view(3, 1, 1).expand(3, 1, 5)
    seen = ContextSamples(torch.full((3, 1, 5, 3), 0.5), nothing, nothing, torch.ones(3, 1, 5), inside)
    weights = field.weights(seen, prior, torch.full((1, 5), 0.3)).weights[:, 0]
    assert least <= float(weights[2]) <= most
