"""Weighted Procrustes: recovers motions, never mirrors, and keeps its gradients finite whatever the points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.geometry.procrustes import PAPER_EPS, nearest_rotation, weighted_procrustes
from flowcam_ns.geometry.se3 import exp, identity, transform

seeds = st.integers(0, 10**6)

DEGENERATE = {
    "plane": torch.tensor([1.0, 1.0, 0.0]),
    "line": torch.tensor([1.0, 0.0, 0.0]),
    "point": torch.tensor([0.0, 0.0, 0.0]),
}


def scene(
    seed: int, count: int = 30, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(a motion, points, weights), for a batch of 2 x 3."""
    g = torch.Generator().manual_seed(seed)
    T = exp(torch.randn(2, 3, 6, generator=g, dtype=torch.float64)).to(dtype)
    points = torch.randn(2, 3, count, 3, generator=g, dtype=torch.float64).to(dtype)
    return T, points, torch.rand(2, 3, count, generator=g, dtype=torch.float64).to(dtype)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1e3), st.sampled_from([torch.float32, torch.float64]))
def test_recovers_a_known_motion(seed: int, size: float, dtype: torch.dtype) -> None:
    T, points, weights = scene(seed, dtype=dtype)
    target = transform(T[..., None, :, :], points * size)
    found = weighted_procrustes(points * size, target, weights)
    # Points much smaller than the translation lose digits in the target.
    tolerance = (1e-13 if dtype == torch.float64 else 3e-6) * (1 + 1 / size)
    torch.testing.assert_close(found[..., :3, :3], T[..., :3, :3], atol=tolerance, rtol=0)
    torch.testing.assert_close(found[..., :3, 3], T[..., :3, 3], atol=tolerance * (1 + size**2), rtol=0)
    assert found.dtype == dtype


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_a_mirrored_scene_still_gives_a_rotation(seed: int) -> None:
    _, points, weights = scene(seed)
    R = weighted_procrustes(points, points * torch.tensor([1.0, 1.0, -1.0]), weights)[..., :3, :3]
    torch.testing.assert_close(torch.det(R), torch.ones(2, 3, dtype=torch.float64))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_no_other_motion_nearby_fits_better(seed: int) -> None:
    T, points, weights = scene(seed)
    target = transform(T[..., None, :, :], points) + 0.3 * torch.randn_like(points)
    found = weighted_procrustes(points, target, weights)

    def cost(motion: torch.Tensor) -> torch.Tensor:
        return (weights * (transform(motion[..., None, :, :], points) - target).square().sum(-1)).sum(-1)

    for _ in range(5):
        assert (cost(exp(1e-2 * torch.randn(2, 3, 6, dtype=torch.float64)) @ found) >= cost(found) - 1e-9).all()


def test_points_of_no_weight_do_not_count() -> None:
    T, points, weights = scene(0)
    target = transform(T[..., None, :, :], points)
    target[..., :10, :] += 100.0
    weights[..., :10] = 0.0
    torch.testing.assert_close(weighted_procrustes(points, target, weights), T)


def test_the_size_of_the_weights_does_not_matter_but_for_the_papers_eps() -> None:
    T, points, weights = scene(1)
    target = transform(T[..., None, :, :], points) + 0.1 * torch.randn_like(points)
    plain = weighted_procrustes(points, target, weights)
    torch.testing.assert_close(weighted_procrustes(points, target, weights * 1e-5), plain)
    # sum(w) of about 1.5e-4 against eps 1e-6: the published means shrink by almost a percent.
    paper = weighted_procrustes(points + 5, target + 5, weights * 1e-5, eps=PAPER_EPS)
    assert (paper - weighted_procrustes(points + 5, target + 5, weights)).abs().max() > 1e-3


def test_paper_eps_is_the_published_formula() -> None:
    T, points, weights = scene(2)
    target = transform(T[..., None, :, :], points) + 0.1 * torch.randn_like(points)
    shares = weights / (weights.sum(-1, keepdim=True) + PAPER_EPS)
    mean_x, mean_y = ((shares[..., None] * p).sum(-2) for p in (points, target))
    x, y = points - mean_x[..., None, :], target - mean_y[..., None, :]
    U, _, Vh = torch.linalg.svd(torch.einsum("abn,abni,abnj->abij", weights, y, x))
    flip = torch.ones(2, 3, 3, dtype=torch.float64)
    flip[..., 2] = torch.det(U @ Vh)
    R = U @ torch.diag_embed(flip) @ Vh
    found = weighted_procrustes(points, target, weights, eps=PAPER_EPS)
    torch.testing.assert_close(found[..., :3, :3], R)
    torch.testing.assert_close(found[..., :3, 3], mean_y - (R @ mean_x[..., None])[..., 0])


@pytest.mark.parametrize("eps", [0.0, PAPER_EPS])
@pytest.mark.parametrize("shape", DEGENERATE)
@pytest.mark.parametrize("confidence", [1.0, 0.0])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_stay_finite_when_the_points_leave_the_rotation_open(
    eps: float, shape: str, confidence: float, mirror: float, dtype: torch.dtype
) -> None:
    T, points, weights = scene(3, dtype=dtype)
    points = points * DEGENERATE[shape].to(dtype)
    inputs = [points, transform(T[..., None, :, :], points) * mirror, weights * confidence]
    inputs = [x.detach().requires_grad_() for x in inputs]
    found = weighted_procrustes(*inputs, eps=eps)
    torch.testing.assert_close(torch.det(found[..., :3, :3]), torch.ones(2, 3, dtype=dtype))
    for gradient in torch.autograd.grad((found * torch.randn_like(found)).sum(), inputs):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1e6


def test_no_confidence_at_all_means_no_motion() -> None:
    _, points, weights = scene(4)
    torch.testing.assert_close(
        weighted_procrustes(points, points + 1, weights * 0), identity(1, points).expand(2, 3, 4, 4)
    )


def test_gradients_match_finite_differences() -> None:
    T, points, weights = scene(5, count=5)
    target = transform(T[..., None, :, :], points) + 0.1 * torch.randn_like(points)
    inputs = [x[0, 0].detach().requires_grad_() for x in (points, target, weights)]
    assert torch.autograd.gradcheck(weighted_procrustes, inputs, atol=1e-4)


def test_runs_in_full_precision_under_autocast() -> None:
    T, points, weights = scene(6, dtype=torch.float32)
    target = transform(T[..., None, :, :], points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = weighted_procrustes(points, target, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, T, atol=1e-5, rtol=0)


def test_half_precision_input_is_lifted() -> None:
    T, points, _ = scene(7, dtype=torch.float32)
    found = weighted_procrustes(points.half(), transform(T[..., None, :, :], points).half())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, T, atol=1e-2, rtol=0)


def test_nearest_rotation_of_a_tiny_matrix_is_as_good_as_of_a_large_one() -> None:
    M = torch.randn(5, 3, 3)
    torch.testing.assert_close(nearest_rotation(M * 1e-20), nearest_rotation(M))
