"""The pinhole camera: what projects comes back, at every size and with every lens that can be inverted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.geometry.camera import (
    Camera,
    distort,
    distort_jacobian,
    from_opencv_pixels,
    to_opencv_pixels,
    undistort,
)

LENS = Camera(640, 480, 500.0, 510.0, 322.0, 236.0, k1=-0.12, k2=0.03, p1=0.002, p2=-0.001)


def points_in_view(seed: int, count: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5
    return points * torch.tensor([1.2, 0.9, 0.0]) + torch.tensor([0.0, 0.0, 1.0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), depth=st.floats(0.1, 100))
def test_unproject_inverts_project(seed: int, depth: float) -> None:
    rays = points_in_view(seed)
    torch.testing.assert_close(LENS.unproject(LENS.project(rays * depth)), rays, atol=1e-9, rtol=0)


def test_project_agrees_with_opencv_but_for_the_half_pixel() -> None:
    points = points_in_view(1)
    K = LENS.matrix().numpy().copy()
    K[:2, 2] -= 0.5
    zero = np.zeros(3)
    expected, _ = cv2.projectPoints(points.numpy(), zero, zero, K, np.array(LENS.distortion))
    torch.testing.assert_close(to_opencv_pixels(LENS.project(points)), torch.from_numpy(expected[:, 0]))


def test_the_middle_of_the_image_is_its_principal_point() -> None:
    camera = Camera.from_focal(4, 2, 3.0)
    assert camera.project(torch.tensor([0.0, 0.0, 1.0])).tolist() == [2.0, 1.0]
    assert to_opencv_pixels(torch.tensor([2.0, 1.0])).tolist() == [1.5, 0.5]
    assert from_opencv_pixels(torch.tensor([1.5, 0.5])).tolist() == [2.0, 1.0]


def test_scaled_camera_sees_the_same_points_at_scaled_pixels() -> None:
    points = points_in_view(2)
    small = LENS.scaled_to(320, 120)
    torch.testing.assert_close(small.project(points), LENS.project(points) * torch.tensor([0.5, 0.25]))


def test_jacobian_matches_autograd() -> None:
    xy = points_in_view(3, 5)[:, :2]
    coefficients = torch.tensor(LENS.distortion, dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.jacobian(lambda p: distort(p, coefficients), p) for p in xy])
    torch.testing.assert_close(distort_jacobian(xy, coefficients), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_undistort_keeps_dtype_and_passes_gradients(dtype: torch.dtype) -> None:
    xy = points_in_view(4, 5)[:, :2].to(dtype).requires_grad_()
    out = undistort(xy, torch.tensor(LENS.distortion, dtype=dtype))
    (gradient,) = torch.autograd.grad(out.sum(), xy)
    assert out.dtype == dtype
    assert torch.isfinite(gradient).all()
