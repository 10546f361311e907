"""Trained from nothing on one synthetic clip, the network's own chained poses follow the camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowcam_ns.geometry import se3
from flowcam_ns.model.alignment_loss import (
    AlignmentLossConfig,
    procrustes_alignment_loss,
    relative_step_error,
    rotation_error_deg,
    scaled_poses,
    world_to_network_scale,
)
from flowcam_ns.model.clip import chained_flow
from flowcam_ns.model.clip_training import (
    ClipTrainingConfig,
    NetworkVideo,
    fit_network,
    learning_rate_share,
    network_losses,
    sample_clip,
)
from flowcam_ns.model.flow_losses import soft_length, wide_flow_loss
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.losses import NetworkLossConfig
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.online import STRIDE, Grid, chain_poses, network_poses, pose_windows, relative_poses_of_video
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

WIDTH, HEIGHT, FRAMES = 96, 54, 60


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small wait for one another: on a busy machine a second thread makes training ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def as_video(clip: SyntheticClip) -> NetworkVideo:
    size = (clip.camera.width, clip.camera.height)
    flows = [clip.flow(t + 1, t) for t in range(len(clip) - 1)]
    K = clip.camera.matrix(torch.float32) / torch.tensor([[size[0]], [size[1]], [1]])
    return NetworkVideo(
        frames=torch.from_numpy(clip.rgb).permute(0, 3, 1, 2).float() / 127.5 - 1,
        backward_flow=torch.from_numpy(np.stack([flow for flow, _ in flows]) / size).permute(0, 3, 1, 2).float(),
        intrinsics=K,
        confidence=torch.from_numpy(np.stack([visible for _, visible in flows])).float(),
    )


def neighbour_errors(c2w: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Median rotation error and median angle between translation directions of neighbours, degrees."""
    motion, true_motion = (se3.inverse(poses[:-1]) @ poses[1:] for poses in (c2w, truth))
    rotation = se3.rotation_angle_deg(motion[:, :3, :3].transpose(1, 2) @ true_motion[:, :3, :3])
    cosine = torch.cosine_similarity(motion[:, :3, 3], true_motion[:, :3, 3], dim=-1)
    return float(rotation.median()), float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).median())


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=FRAMES, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def video(clip: SyntheticClip) -> NetworkVideo:
    return as_video(clip)


def small_network(seed: int = 0, joint_steps: int = 4) -> FlowCamNetwork:
    torch.manual_seed(seed)
    return FlowCamNetwork(replace(small_config(), joint_steps=joint_steps))


def tiny_video(frames: int = 7) -> NetworkVideo:
    generator = torch.Generator().manual_seed(0)
    return NetworkVideo(
        frames=torch.rand(frames, 3, 24, 32, generator=generator) * 2 - 1,
        backward_flow=0.02 * torch.randn(frames - 1, 2, 24, 32, generator=generator),
        intrinsics=torch.tensor([[1.0, 0, 0.5], [0, 1.4, 0.5], [0, 0, 1]]),
    )


@pytest.mark.timeout(600)
def test_chained_poses_follow_the_camera_after_training(clip: SyntheticClip, video: NetworkVideo) -> None:
    network = small_network(joint_steps=0)
    truth = torch.from_numpy(clip.c2w)
    before = neighbour_errors(network_poses(network, video, stride=4), truth)
    fit_network(network, video, ClipTrainingConfig(steps=150, target_rays=32))
    rotation, direction = neighbour_errors(network_poses(network, video, stride=4), truth)
    assert rotation < min(1, before[0] / 2)
    assert direction < min(10, 0.7 * before[1])


def test_motions_moved_together_follow_the_camera_closer_than_pair_by_pair(
    clip: SyntheticClip, video: NetworkVideo
) -> None:
    truth = torch.from_numpy(clip.c2w)
    pairs = neighbour_errors(network_poses(small_network(joint_steps=0), video, stride=4), truth)
    together = neighbour_errors(network_poses(small_network(), video, stride=4), truth)
    assert together[0] < 0.6 * pairs[0]
    assert together[1] < 0.6 * pairs[1]


def test_windows_share_their_scale(video: NetworkVideo) -> None:
    network = FlowCamNetwork(replace(small_config(), joint_steps=0, pose_search=0))
    whole = relative_poses_of_video(network, video, stride=9, window=len(video.frames))
    windows = relative_poses_of_video(network, video, stride=9, window=7)
    assert whole.shape == (len(video.frames) - 1, 4, 4)
    assert torch.allclose(whole, windows, atol=1e-4)


@pytest.mark.parametrize("window", [9, 16])
def test_windows_that_settle_their_own_scale_carry_it_over(
    clip: SyntheticClip, video: NetworkVideo, window: int
) -> None:
    relative = relative_poses_of_video(small_network(), video, stride=4, window=window)
    c2w = torch.from_numpy(clip.c2w)
    truth = se3.between(c2w[:-1], c2w[1:])
    assert len(relative) == len(truth)
    shares = (relative[:, :3, 3].norm(dim=-1) / truth[:, :3, 3].norm(dim=-1)).log()
    assert float(shares.std()) < 0.08


def test_depths_that_are_handed_on_are_those_that_flow_tells(clip: SyntheticClip, video: NetworkVideo) -> None:
    def depth_errors(joint_steps: int) -> torch.Tensor:
        """Of every frame but the first, up to one scale for all; logarithms."""
        parts = list(pose_windows(small_network(joint_steps=joint_steps), video))
        inverse = torch.cat([part.inverse_depth[1:] for part in parts])
        truth = torch.from_numpy(clip.depth[1:]).flatten(1)[:, Grid.of(video, STRIDE).rays]
        share = (inverse * truth).log()
        return (share - share.median()).abs()

    assert depth_errors(4).median() < 0.3 * depth_errors(0).median()


def test_a_grid_is_read_between_its_pixels() -> None:
    grid = Grid.of(tiny_video(), 3)
    uv = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0)) * 0.7 + 0.15
    plane = torch.tensor([2.0, -3.0])
    torch.testing.assert_close(grid.read((grid.uv @ plane)[None], uv), uv @ plane, atol=1e-5, rtol=0)


def test_chained_poses_are_rigid_and_start_at_the_identity() -> None:
    relative = se3.exp(0.1 * torch.randn(40, 6))
    c2w = chain_poses(relative)
    assert c2w.dtype == torch.float64
    assert torch.equal(c2w[0], torch.eye(4, dtype=torch.float64))
    gram = c2w[:, :3, :3].transpose(1, 2) @ c2w[:, :3, :3]
    assert torch.allclose(gram, torch.eye(3, dtype=torch.float64).expand_as(gram), atol=1e-9)
    assert torch.allclose((se3.inverse(c2w[:-1]) @ c2w[1:]).float(), relative, atol=1e-5)


def test_clips_are_cut_from_the_video_and_repeat_by_seed() -> None:
    video = tiny_video()
    config = ClipTrainingConfig(clip_length=4, context_rays=10, target_rays=5)
    batch = sample_clip(video, config, torch.Generator().manual_seed(3))
    again = sample_clip(video, config, torch.Generator().manual_seed(3))
    assert torch.equal(batch.clip.images, again.clip.images)
    assert torch.equal(batch.context_rays, again.context_rays)
    assert batch.clip.images.shape[:2] == (1, 4)
    assert (len(batch.context_rays), len(batch.target_rays)) == (10, 5)
    inner = video.clip(start=2, length=4)
    assert inner.first_flow is not None
    assert torch.equal(inner.first_flow[0], video.backward_flow[1])
    assert torch.equal(inner.backward_flow[0], video.backward_flow[2:5])
    assert sample_clip(video, ClipTrainingConfig(clip_length=50)).clip.images.shape[1] == 7


def test_published_losses_can_be_chosen_and_rerendering_left_out() -> None:
    config = ClipTrainingConfig(clip_length=3, context_rays=20, target_rays=0)
    batch = sample_clip(tiny_video(), config)
    losses, output = network_losses(small_network(), batch, NetworkLossConfig(flow_loss="published"))
    assert losses.keys() == {"ctxt_rgb", "flow"}
    assert output.rendered is None


def test_two_frames_can_be_trained_on() -> None:
    config = ClipTrainingConfig(steps=2, context_rays=20, target_rays=8)
    reports = []
    fit_network(small_network(), tiny_video(frames=2), config, report=lambda step, losses: reports.append(losses))
    assert len(reports) == 2
    assert all(np.isfinite(list(losses.values())).all() for losses in reports)


def test_learning_rate_rises_and_falls() -> None:
    config = ClipTrainingConfig(steps=100, warmup_steps=10)
    shares = [learning_rate_share(step, config) for step in range(100)]
    assert shares[0] < shares[5] < shares[9] > shares[50] > shares[99] > 0


def test_chained_flow_ends_at_the_same_scene_point(clip: SyntheticClip, video: NetworkVideo) -> None:
    network = small_network()
    cut = video.clip(start=10, length=5)
    motion = network.estimate_motion(cut, torch.arange(0, WIDTH * HEIGHT, 7))
    ends, confidence = chained_flow(cut, motion.uv[:, 3:], gap=4)
    direct, visible = clip.flow(14, 10)
    rays = torch.arange(0, WIDTH * HEIGHT, 7)
    truth = torch.from_numpy(direct / [WIDTH, HEIGHT]).float().flatten(0, 1)[rays]
    seen = (confidence[0, 0] > 0.99) & torch.from_numpy(visible).flatten()[rays]
    error_px = ((ends - motion.uv[:, 3:])[0, 0] - truth) * torch.tensor([WIDTH, HEIGHT])
    assert seen.float().mean() > 0.5
    assert error_px[seen].norm(dim=-1).median() < 0.1


def test_soft_length_keeps_a_gradient_for_large_errors_and_stays_bounded() -> None:
    residual = torch.tensor([[0.0, 0.0], [0.1, 0.0], [50.0, 0.0]], requires_grad=True)
    lengths = soft_length(residual, 0.001)
    lengths.sum().backward()
    assert residual.grad is not None
    assert residual.grad[0].norm() == 0
    assert residual.grad[1, 0] > 0.5
    assert lengths[2] <= 0.5


def test_wide_flow_of_exact_surfaces_and_poses_vanishes(clip: SyntheticClip, video: NetworkVideo) -> None:
    network = small_network()
    cut = video.clip(start=0, length=5)
    rays = torch.arange(0, WIDTH * HEIGHT, 7)
    motion = network.estimate_motion(cut, rays)
    untrained = wide_flow_loss(motion, cut, (2, 4), 0.0005).detach()
    z = torch.from_numpy(clip.depth[:5]).flatten(1)[:, rays][None, ..., None]
    motion.surfaces.points = motion.surfaces.points / motion.surfaces.points[..., 2:] * z
    motion.c2w = torch.from_numpy(clip.c2w[:5]).float()[None]
    assert wide_flow_loss(motion, cut, (2, 4), 0.0005).detach() < 0.15 * untrained


def random_motions(count: int = 5) -> torch.Tensor:
    return se3.exp(0.2 * torch.randn(1, count, 6, generator=torch.Generator().manual_seed(1)))


def test_alignment_errors_vanish_up_to_scale_and_grow_with_the_error() -> None:
    motions = random_motions()
    assert torch.allclose(relative_step_error(scaled_poses(motions, 3.0), motions), torch.zeros(1, 5), atol=1e-4)
    assert (relative_step_error(scaled_poses(motions, -1.0), motions).mean() > 1.5).all()
    turned = motions @ se3.exp(torch.tensor([0, 0, 0, 0, np.deg2rad(2.0), 0]).float())
    assert torch.allclose(rotation_error_deg(turned, motions), torch.full((1, 5), 2.0), atol=0.05)
    assert torch.allclose(rotation_error_deg(motions, motions), torch.zeros(1, 5))


def test_world_scale_brings_the_median_depth_to_the_middle() -> None:
    config = NetworkConfig(near=0.5, far=8)
    scale = world_to_network_scale(torch.tensor([0.0, 0.1, 0.2, 0.4, 1.0]), config)
    assert scale * 5 == pytest.approx(2.0)


@pytest.mark.timeout(300)
def test_solved_poses_teach_the_network_its_surfaces(clip: SyntheticClip, video: NetworkVideo) -> None:
    network = small_network()
    scale = world_to_network_scale(1 / torch.from_numpy(clip.depth), network.config)
    solved = scaled_poses(torch.from_numpy(clip.c2w).float(), scale)
    rays = torch.arange(0, WIDTH * HEIGHT, 11)

    def depth_error() -> float:
        """Median relative error of the surfaces' depth, at the solve's own scale."""
        with torch.no_grad():
            z = network.estimate_motion(video.clip(20, 6), rays).surfaces.points[0, ..., 2]
        truth = scale * torch.from_numpy(clip.depth[20:26]).flatten(1)[:, rays]
        return float((z / truth).log().abs().median())

    before = depth_error()
    config = ClipTrainingConfig(steps=60, target_rays=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(config.steps):
        start = int(torch.randint(FRAMES - 6 + 1, (1,), generator=generator))
        picked = torch.randperm(WIDTH * HEIGHT, generator=generator)[: config.context_rays]
        cut = video.clip(start, 6)
        motion = network.estimate_motion(cut, picked)
        losses = procrustes_alignment_loss(motion, cut, solved[None, start : start + 6], AlignmentLossConfig())
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert depth_error() < 0.5 * before
