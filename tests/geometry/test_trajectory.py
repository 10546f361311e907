"""Sim(3) alignment of trajectories, and the world that a solve hands on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.geometry.se3 import exp, from_rotation_translation, identity, rotation_angle_deg
from flowcam_ns.geometry.trajectory import Sim3, align_sim3, normalize_world, up_direction

seeds = st.integers(0, 10**6)
scales = st.floats(1e-3, 1e3)


def random_poses(seed: int, count: int = 12) -> torch.Tensor:
    return exp(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def random_sim3(seed: int, scale: float) -> Sim3:
    T = random_poses(seed, 1)[0]
    return Sim3(torch.tensor(scale, dtype=torch.float64), T[:3, :3], T[:3, 3])


def looking_at(centres: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """OpenCV poses held upright (z up) that look at `target`."""
    forward = torch.nn.functional.normalize(target - centres, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    return from_rotation_translation(torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1), centres)


def arc(start_deg: float, stop_deg: float, height: float = 1.0, count: int = 40) -> torch.Tensor:
    angle = torch.deg2rad(torch.linspace(start_deg, stop_deg, count, dtype=torch.float64))
    centres = torch.stack([2 * angle.cos(), 2 * angle.sin(), torch.full_like(angle, height)], dim=-1)
    return looking_at(centres, torch.zeros(3, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(seeds, scales)
def test_alignment_recovers_a_known_similarity(seed: int, scale: float) -> None:
    poses, S = random_poses(seed), random_sim3(seed + 1, scale)
    found = align_sim3(poses, S.apply_c2w(poses))
    torch.testing.assert_close(found.scale, S.scale)
    torch.testing.assert_close(found.R, S.R)
    torch.testing.assert_close(found.t, S.t)


@settings(max_examples=25, deadline=None)
@given(seeds, scales)
def test_inverse_similarity(seed: int, scale: float) -> None:
    poses, S = random_poses(seed), random_sim3(seed + 1, scale)
    torch.testing.assert_close(S.inverse().apply_c2w(S.apply_c2w(poses)), poses)
    torch.testing.assert_close(S.inverse().apply_points(S.apply_points(poses[:, :3, 3])), poses[:, :3, 3])


def test_similarity_moves_poses_and_their_points_together() -> None:
    poses, S = random_poses(0), random_sim3(1, 3.0)
    point_ahead = poses[:, :3, 3] + 2 * poses[:, :3, 2]
    moved = S.apply_c2w(poses)
    torch.testing.assert_close(S.apply_points(point_ahead), moved[:, :3, 3] + 3 * 2 * moved[:, :3, 2])


def test_a_mirrored_trajectory_is_not_called_equal() -> None:
    poses = random_poses(2)
    mirrored = poses.clone()
    mirrored[:, 0, 3] *= -1
    S = align_sim3(mirrored, poses)
    assert torch.det(S.R) == pytest.approx(1)
    assert (S.apply_points(mirrored[:, :3, 3]) - poses[:, :3, 3]).norm(dim=-1).mean() > 0.1


def test_a_straight_line_is_aligned_by_the_orientations_too() -> None:
    poses = identity(10, torch.zeros((), dtype=torch.float64))
    poses[:, 2, 3] = torch.arange(10)
    S = random_sim3(3, 2.5)
    torch.testing.assert_close(S.inverse().apply_c2w(align_sim3(poses, S.apply_c2w(poses)).apply_c2w(poses)), poses)


@pytest.mark.parametrize("still", ["estimate", "truth", "both"])
def test_standing_still_has_no_scale_but_an_orientation(still: str) -> None:
    estimate, truth = random_poses(4), random_sim3(5, 1.0).apply_c2w(random_poses(4))
    if still != "truth":
        estimate[:, :3, 3] = 7.0
    if still != "estimate":
        truth[:, :3, 3] = 3.0
    S = align_sim3(estimate, truth)
    assert all(torch.isfinite(part).all() for part in S)
    assert S.scale == 1
    angle = rotation_angle_deg(truth[:, :3, :3].transpose(-1, -2) @ S.apply_c2w(estimate)[:, :3, :3])
    assert angle.max() < 1e-4


def test_frames_that_are_missing_on_either_side_do_not_count() -> None:
    poses, S = random_poses(6), random_sim3(7, 0.5)
    truth = S.apply_c2w(poses)
    truth[2] = float("nan")
    estimate = poses.clone()
    estimate[4, 0, 0] = float("nan")
    estimate[5, :3, 3] += 100
    mask = torch.arange(12) != 5
    torch.testing.assert_close(align_sim3(estimate, truth, mask).scale, S.scale)
    nothing = align_sim3(estimate, truth, mask & False)
    torch.testing.assert_close(nothing.apply_c2w(poses), poses)


@settings(max_examples=15, deadline=None)
@given(seeds, scales, st.sampled_from([(0, 360), (0, 60), (-20, 20), (0, 2)]), st.sampled_from([0.0, 1.0, 4.0]))
def test_normalised_world_is_upright_centred_and_of_unit_size(
    seed: int, scale: float, span: tuple[int, int], height: float
) -> None:
    poses = arc(*span, height=height)
    points = 0.5 * torch.randn(500, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    S = random_sim3(seed, scale)
    world = normalize_world(S.apply_c2w(poses), S.apply_points(points))
    c2w, surface = world.apply_c2w(S.apply_c2w(poses)), world.apply_points(S.apply_points(points))
    assert c2w[:, :3, 3].norm(dim=-1).max() <= 1 + 1e-9
    assert surface.norm(dim=-1).quantile(0.75) <= 1 + 1e-9
    assert max(c2w[:, :3, 3].norm(dim=-1).max(), surface.norm(dim=-1).quantile(0.8)) > 0.5
    level = c2w[:, 2, 0].abs().max()  # cameras held upright have level x axes
    assert level < 0.35
    assert (c2w[:, 2, 1] <= 0.35).all()  # and their y axes point down


def test_up_is_found_from_above_and_one_side() -> None:
    tilt = rotation_between_deg(up_direction(arc(-30, 30, height=2.0)), torch.tensor([0.0, 0.0, 1.0]))
    assert tilt < 10  # the mean of the cameras' up axes alone is off by 45 degrees


def test_up_shrugs_off_a_minority_of_tilted_frames() -> None:
    poses = arc(0, 180, height=0.5)
    roll = exp(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.5], dtype=torch.float64))
    poses[:4] = poses[:4] @ roll
    assert rotation_between_deg(up_direction(poses), torch.tensor([0.0, 0.0, 1.0])) < 10


def test_up_of_a_camera_that_looks_straight_down_is_where_it_comes_from() -> None:
    centres = torch.tensor([[0.1 * i, 0.0, 3.0] for i in range(8)], dtype=torch.float64)
    down = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    spins = exp(torch.tensor([[0.0, 0, 0, 0, 0, 6.28 * i / 8] for i in range(8)], dtype=torch.float64))[:, :3, :3]
    up = up_direction(from_rotation_translation(down @ spins, centres))
    assert rotation_between_deg(up, torch.tensor([0.0, 0.0, 1.0])) < 5


def test_a_tail_of_far_points_does_not_shrink_a_drive_to_a_dot() -> None:
    poses = identity(30, torch.zeros((), dtype=torch.float64))
    poses[:, 2, 3] = torch.linspace(0, 20, 30)
    street = torch.rand(800, 3, dtype=torch.float64) * torch.tensor([20.0, 5.0, 30.0]) - torch.tensor([10.0, 2.5, 0.0])
    horizon = torch.rand(200, 3, dtype=torch.float64) * 1e4 + torch.tensor([0.0, 0.0, 1e3])
    world = normalize_world(poses, torch.cat([street, horizon]))
    centres = world.apply_c2w(poses)[:, :3, 3]
    assert 0.4 < (centres[-1] - centres[0]).norm() <= 2


def test_a_world_without_points_or_motion_is_left_at_its_size() -> None:
    poses = identity(3, torch.zeros((), dtype=torch.float64))
    world = normalize_world(poses, torch.full((4, 3), float("nan")))
    assert world.scale == 1
    c2w = world.apply_c2w(poses)
    torch.testing.assert_close(c2w[:, :3, 3], torch.zeros(3, 3, dtype=torch.float64))
    torch.testing.assert_close(-c2w[:, :3, 1], torch.tensor([[0.0, 0.0, 1.0]] * 3, dtype=torch.float64))


def test_world_follows_the_posed_frames_only() -> None:
    poses = arc(0, 90)
    stray = poses.clone()
    stray[5, :3, 3] = 1e6
    points = torch.randn(100, 3, dtype=torch.float64)
    mask = torch.arange(40) != 5
    torch.testing.assert_close(normalize_world(stray, points, mask).scale, normalize_world(poses, points, mask).scale)


def rotation_between_deg(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.rad2deg(torch.acos((a.double() @ b.double()).clamp(-1, 1))))
