"""Rigid motions: inverse, composition, exponential map and change of camera axes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.geometry import se3

seeds = st.integers(0, 10**6)


def random_motion(seed: int, size: float = 1.0, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return se3.exp(size * torch.randn(count, 6, generator=generator, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_inverse_undoes_a_motion(seed: int) -> None:
    T = random_motion(seed)
    torch.testing.assert_close(se3.inverse(T) @ T, se3.identity(4, T))
    torch.testing.assert_close(se3.inverse(se3.inverse(T)), T)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_transforming_twice_is_transforming_by_the_product(seed: int) -> None:
    A, B = random_motion(seed), random_motion(seed + 1)
    points = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(se3.transform(A, se3.transform(B, points)), se3.transform(A @ B, points))


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0, 1e-4))
def test_exp_near_zero_is_identity_plus_the_tangent(seed: int, size: float) -> None:
    tangent = size * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.eye(4, dtype=torch.float64).repeat(1, 1, 1)
    expected[:, :3, 3] = tangent[:, :3]
    expected[:, :3, :3] += se3.skew(tangent[:, 3:])
    torch.testing.assert_close(se3.exp(tangent), expected, atol=float(tangent.square().sum()) + 1e-15, rtol=0)


def test_exp_at_zero_has_the_generators_as_derivative() -> None:
    J = torch.autograd.functional.jacobian(se3.exp, torch.zeros(6, dtype=torch.float64))
    assert torch.isfinite(J).all()
    torch.testing.assert_close(J[:3, 3, :3], torch.eye(3, dtype=torch.float64))
    for axis in range(3):
        torch.testing.assert_close(J[:3, :3, 3 + axis], se3.skew(torch.eye(3, dtype=torch.float64)[axis]))


def test_skew_is_the_cross_product() -> None:
    a, b = torch.randn(2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close((se3.skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-9, 3.1))
def test_rotation_angle_is_the_length_of_the_rotation_vector(seed: int, angle: float) -> None:
    axis = torch.nn.functional.normalize(
        torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )
    R = se3.exp(torch.cat([torch.zeros(3, dtype=torch.float64), angle * axis]))[:3, :3]
    expected = torch.rad2deg(torch.tensor(angle, dtype=torch.float64))
    torch.testing.assert_close(se3.rotation_angle_deg(R), expected, rtol=1e-6, atol=1e-12)


def test_orthonormalized_repairs_a_worn_rotation_and_keeps_a_good_one() -> None:
    T = random_motion(3)
    torch.testing.assert_close(se3.orthonormalized(T), T)
    R = se3.orthonormalized(T + 1e-3 * torch.randn_like(T))[:, :3, :3]
    torch.testing.assert_close(R @ R.transpose(-1, -2), torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    torch.testing.assert_close(torch.det(R), torch.ones(4, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.integers(0, 100), min_size=2, max_size=6, unique=True).map(sorted))
def test_interpolated_motions_are_the_known_ones_at_their_own_times(seed: int, times: list[int]) -> None:
    T = random_motion(seed, count=len(times))
    torch.testing.assert_close(se3.interpolated(T, times, times), T)


@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_midway_between_two_known_motions_half_the_turn_and_half_the_step_are_done(
    seed: int, halves: list[int]
) -> None:
    times = torch.cumsum(torch.tensor([0, *(2 * half for half in halves)]), dim=0).tolist()
    middles = [(a + b) // 2 for a, b in pairwise(times)]
    T = random_motion(seed, size=0.5, count=len(times))
    found = se3.interpolated(T, times, middles)
    torch.testing.assert_close(found[:, :3, 3], (T[:-1, :3, 3] + T[1:, :3, 3]) / 2)
    before, after = (
        T[:-1, :3, :3].transpose(1, 2) @ found[:, :3, :3],
        found[:, :3, :3].transpose(1, 2) @ T[1:, :3, :3],
    )
    torch.testing.assert_close(before, after)
    whole = se3.rotation_angle_deg(T[:-1, :3, :3].transpose(1, 2) @ T[1:, :3, :3])
    torch.testing.assert_close(se3.rotation_angle_deg(before), whole / 2)
    torch.testing.assert_close(se3.orthonormalized(found), found)


def test_turns_and_steps_are_even_between_known_motions_whatever_lies_between_their_times() -> None:
    axis = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    angle, place = torch.tensor([[0.0, 0.3, 1.5], [1.0, 3.0, -1.0]], dtype=torch.float64)
    tangent = torch.cat([place[:, None] * torch.ones(3).double(), angle[:, None] * axis], dim=1)
    found = se3.interpolated(se3.exp(tangent), [2, 5, 11], [2, 3, 4, 5, 7, 8, 10, 11])
    assert se3.rotation_angle_deg(found[:, :3, :3]).deg2rad().tolist() == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.7, 0.9, 1.3, 1.5]
    )
    steps = [1, 1 + 2 / 3, 1 + 4 / 3, 3, 3 - 4 / 3, 1, 1 - 4 / 3, -1]
    assert found[:, 0, 3].tolist() == pytest.approx(steps)


def test_before_the_first_and_after_the_last_known_motion_nothing_moves() -> None:
    T = random_motion(5, count=2)
    torch.testing.assert_close(se3.interpolated(T, [3, 6], [0, 9]), T)
    torch.testing.assert_close(se3.interpolated(T[:1], [3], [1, 3, 5]), T[:1].expand(3, 4, 4))


def test_opengl_axes_look_along_minus_z_with_y_up() -> None:
    c2w = random_motion(4)
    gl = se3.opencv_to_opengl(c2w)
    torch.testing.assert_close(gl[:, :3, 3], c2w[:, :3, 3])
    torch.testing.assert_close(-gl[:, :3, 2], c2w[:, :3, 2])
    torch.testing.assert_close(-gl[:, :3, 1], c2w[:, :3, 1])
    torch.testing.assert_close(se3.opencv_to_opengl(gl), c2w)
    torch.testing.assert_close(se3.opencv_to_opengl(c2w[:, :3]), gl[:, :3])
