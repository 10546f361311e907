"""What the authors' vectors do not exercise: mirrored point sets, points behind a camera, training, memory, grids."""

from __future__ import annotations

from typing import Any

import pytest
import roma
import torch

from flowcam_ns.geometry import se3
from flowcam_ns.model import scene_flow
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.encoder import encode_directions
from flowcam_ns.model.flowcam_network import FlowCamNetwork, context_views
from flowcam_ns.model.losses import published_losses
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.surfaces import RaySurfaces, lookup, pixel_coordinates, project, unit_rays
from flowcam_ns.model.volume_rendering import compositing_weights, geometric_depths

K = torch.tensor([[1.1, 0.02, 0.5], [0, 1.4, 0.45], [0, 0, 1]])


def random_clip(frames: int = 3, size: tuple[int, int] = (24, 32)) -> Clip:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, frames, 3, *size, generator=generator) * 2 - 1
    flow = 0.03 * torch.randn(1, frames - 1, 2, *size, generator=generator)
    return Clip(images, flow, K.expand(1, frames, 3, 3))


def published_but_thin(**changes: Any) -> FlowCamNetwork:
    torch.manual_seed(0)
    return FlowCamNetwork(NetworkConfig(encoder_width=32, num_samples=8, **changes))


def test_a_mirrored_point_set_still_gives_a_rotation() -> None:
    points = torch.randn(1, 1, 50, 3)
    mirrored = points * torch.tensor([1.0, 1, -1])
    motion = scene_flow.relative_poses(points, mirrored, torch.rand(1, 1, 50, 1) + 0.1)
    assert torch.allclose(torch.linalg.det(motion[..., :3, :3]), torch.ones(1, 1), atol=1e-5)


def test_relative_poses_recover_a_motion_in_spite_of_distrusted_outliers() -> None:
    later = torch.randn(1, 2, 40, 3) + torch.tensor([0.0, 0, 4])
    truth = se3.from_rotation_translation(
        roma.rotvec_to_rotmat(torch.tensor([0.02, -0.1, 0.05])), torch.tensor([0.3, 0, -0.1])
    )
    earlier = se3.transform(truth, later)
    earlier[..., :10, :] += 5
    weights = torch.ones(1, 2, 40, 1)
    weights[..., :10, :] = 0
    assert torch.allclose(scene_flow.relative_poses(later, earlier, weights), truth.expand(1, 2, 4, 4), atol=1e-5)


def test_chained_poses_start_at_the_identity_and_multiply_up() -> None:
    motion = se3.exp(0.1 * torch.randn(1, 3, 6))
    c2w = scene_flow.chain(motion)
    assert torch.equal(c2w[0, 0], torch.eye(4))
    assert torch.allclose(c2w[:, 2:], c2w[:, 1:-1] @ motion[:, 1:], atol=1e-6)


def test_memory_of_the_poses_is_linear_in_the_points() -> None:
    largest = []
    count = 20_000

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            largest.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if torch.is_tensor(x))
            return out

    later = torch.randn(1, 1, count, 3, requires_grad=True)
    with Watch():
        scene_flow.relative_poses(later, later + 0.1, torch.ones(1, 1, count, 1)).sum().backward()
    assert max(largest) <= 16 * count


def test_points_behind_and_on_the_camera_project_to_finite_coordinates() -> None:
    points = torch.tensor([[0.1, 0.2, -3.0], [0.0, 0, 0], [0.1, 0.1, -1e-5], [1, 2, 3]], requires_grad=True)
    uv = project(points, K)
    assert torch.isfinite(uv).all()
    uv[torch.tensor([0, 1, 3])].sum().backward()
    assert torch.isfinite(points.grad).all()
    assert torch.allclose(uv[3], ((K @ points[3]) / points[3, 2])[:2], atol=1e-4)


def test_views_that_a_point_lies_behind_are_left_out_by_our_conventions() -> None:
    torch.manual_seed(0)
    network = FlowCamNetwork(small_config())
    features = torch.randn(1, 3, network.config.feature_channels, 6, 8)
    uv = torch.rand(1, 1, 5, 2)
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    c2w = torch.stack([torch.eye(4), torch.eye(4), turned])[None]
    intrinsics = K.expand(1, 3, 3, 3)
    target = torch.tensor([0])

    def colours(contexts: list[int]) -> torch.Tensor:
        views = torch.tensor([contexts])
        return network.renderer.render_from_context(features, c2w, intrinsics, target, views, uv).rgb

    assert torch.allclose(colours([1, 2]), colours([1, 1]), atol=1e-6)
    assert not torch.allclose(colours([1, 2]), colours([2, 2]), atol=1e-3)


def test_geometry_is_not_rounded_where_the_network_is() -> None:
    torch.manual_seed(0)
    motion = se3.exp(torch.randn(1, 3, 6))
    points = torch.rand(1, 3, 50, 3) + torch.tensor([0.0, 0, 1])
    ones = torch.ones(1, 3, 50, 1)
    surfaces = RaySurfaces(points, points, ones, ones)
    intrinsics, uv = K.expand(1, 3, 3, 3), torch.rand(1, 3, 50, 2)

    def results() -> list[torch.Tensor]:
        return [
            project(points, intrinsics),
            project(torch.zeros(1, 3), K),
            scene_flow.chain(motion),
            scene_flow.pose_induced_flow(surfaces, motion, intrinsics, uv),
            se3.inverse(motion),
            se3.between(motion[:, :2], motion[:, 1:]),
            se3.transform(motion[:, :, None], points),
        ]

    exact = results()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = results()
        assert (motion @ motion).dtype == torch.bfloat16
    for number, (one, other) in enumerate(zip(rounded, exact, strict=True)):
        assert torch.equal(one, other), number


def test_re_rendering_looks_features_up_at_exact_places_where_the_network_is_rounded() -> None:
    torch.manual_seed(0)
    network = FlowCamNetwork(small_config())
    seen: list[torch.Tensor] = []

    def field(points: torch.Tensor, features: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend([points, features])
        return torch.zeros_like(points[0]), torch.zeros_like(points[0, ..., 0])

    renderer = network.renderer
    renderer.field = field  # type: ignore[assignment]
    features, c2w = torch.randn(1, 3, network.config.feature_channels, 6, 8), se3.exp(0.1 * torch.randn(1, 3, 6))
    arguments = c2w, K.expand(1, 3, 3, 3), torch.tensor([1, 2]), torch.tensor([[0, 2], [0, 1]]), torch.rand(1, 2, 5, 2)
    renderer.render_from_context(features, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        renderer.render_from_context(features, *arguments)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_a_ray_without_density_has_no_surface_and_its_flow_points_to_the_origin() -> None:
    empty = RaySurfaces(
        torch.zeros(1, 1, 4, 3), torch.zeros(1, 1, 4, 3), torch.zeros(1, 1, 4, 1), torch.zeros(1, 1, 4, 1)
    )
    uv = torch.rand(1, 1, 4, 2)
    flow = scene_flow.pose_induced_flow(empty, se3.exp(torch.randn(1, 1, 6)), K.expand(1, 1, 3, 3), uv)
    assert torch.allclose(flow, -uv, atol=1e-6)


def test_compositing_shares_sum_to_the_light_that_is_absorbed() -> None:
    depths = geometric_depths(1, 8, 16, torch.ones(1))
    assert torch.allclose(depths[1:] / depths[:-1], (depths[1] / depths[0]).expand(15))
    density = torch.rand(5, 16)
    weights = compositing_weights(density, depths)
    thickness = torch.cat([depths.diff(), depths.diff()[-1:]])
    assert torch.allclose(weights.sum(-1), 1 - torch.exp(-(density * thickness).sum(-1)), atol=1e-5)
    assert torch.allclose(compositing_weights(density, depths, opaque_far=True).sum(-1), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_rays_through_pixels_project_back_to_them(centre: float) -> None:
    uv = pixel_coordinates(torch.arange(12), (3, 4), centre)
    assert torch.allclose(uv[5], torch.tensor([(1 + centre) / 4, (1 + centre) / 3]))
    rays = unit_rays(uv, K)
    assert torch.allclose(rays.norm(dim=-1), torch.ones(12))
    assert torch.allclose(project(3 * rays, K), uv, atol=1e-4)


def test_lookup_at_a_pixel_centre_reads_that_pixel() -> None:
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    uv = pixel_coordinates(torch.arange(12), (3, 4), centre=0.5)[None]
    assert torch.allclose(lookup(maps, uv, align_corners=False)[0, :, 0], torch.arange(12.0), atol=1e-5)


def test_ray_encoding_has_the_published_frequencies() -> None:
    v = torch.tensor([0.1, -0.2, 0.9])
    encoded = encode_directions(v, 5)
    assert encoded.shape == (33,)
    assert torch.allclose(encoded[3:6], torch.sin(2 * v))
    assert torch.allclose(encoded[-3:], torch.cos(16 * v), atol=1e-5)


def test_context_views_are_the_published_ones_or_never_the_target() -> None:
    assert context_views(7, 3, own_context=True).tolist() == [[0, 7, 3]] * 7
    for last in (1, 2, 7):
        views = context_views(last, 2, own_context=False)
        assert views.shape == (last, 2)
        assert not (views == torch.arange(1, last + 1)[:, None]).any()


def test_training_mode_updates_batch_statistics_and_reaches_every_used_weight() -> None:
    network = published_but_thin(density_bias=0.5).train()
    clip = random_clip(size=(12, 16))
    before = network.state_dict()["encoder.pyramid.model.bn1.running_mean"].clone()
    context, target = torch.randperm(192)[:64], torch.randperm(192)[:32]
    losses = published_losses(network(clip, context, target), clip, context, target)
    (losses["rgb"] + losses["ctxt_rgb"] + losses["flow_unclipped"]).backward()
    assert not torch.equal(before, network.state_dict()["encoder.pyramid.model.bn1.running_mean"])
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name
        else:
            assert ".layer4." in name


def test_small_network_runs_forward_and_back_on_odd_sizes() -> None:
    torch.manual_seed(0)
    network = FlowCamNetwork(small_config()).train()
    clip = random_clip(frames=4, size=(27, 45))
    rays = torch.arange(0, 27 * 45, 7)
    output = network(clip, rays, rays)
    assert output.rendered.rgb.shape == (1, 3, len(rays), 3)
    assert torch.allclose(output.motion.surfaces.accumulation, torch.ones(1, 4, len(rays), 1), atol=1e-4)
    (output.rendered.rgb.sum() + output.motion.flow_from_pose.sum()).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())
