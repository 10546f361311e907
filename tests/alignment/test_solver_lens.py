"""The solver's lens: the same optics as `Camera`, invertible, with exact derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.alignment import lens as solver_lens
from flowcam_ns.alignment.lens import camera_from_lens, centred_pixels, lens_from_camera, project, rays
from flowcam_ns.geometry.camera import Camera

WIDTH, HEIGHT = 160, 90
DISTORTED = torch.tensor([math.log(0.8), 0.01, -0.02, -0.12, 0.05, 0.003, -0.004], dtype=torch.float64)
UNDISTORTED = torch.tensor([math.log(0.8), 0.01, -0.02, 0, 0, 0, 0], dtype=torch.float64)

lenses = st.tuples(
    st.floats(0.6, 2.0),
    st.floats(-0.05, 0.05),
    st.floats(-0.05, 0.05),
    st.floats(-0.1, 0.2),
    st.floats(-0.01, 0.05),
    st.floats(-0.005, 0.005),
    st.floats(-0.005, 0.005),
).map(lambda v: torch.tensor([math.log(v[0]), *v[1:]], dtype=torch.float64))


def pixel_grid() -> torch.Tensor:
    """Centred pixels all over the image, [2, points]."""
    x, y = torch.linspace(-0.5, 0.5, 9), torch.linspace(-0.28, 0.28, 7)
    return torch.cartesian_prod(x, y).T.double().contiguous()


@given(lenses)
@settings(max_examples=50)
def test_rays_and_project_undo_each_other_through_distortion(lens: torch.Tensor) -> None:
    pixels = pixel_grid()
    assert (project(rays(pixels, lens), lens) - pixels).abs().max() < 1e-9


@given(lenses)
@settings(max_examples=25)
def test_the_lens_agrees_with_the_camera(lens: torch.Tensor) -> None:
    camera = camera_from_lens(lens, WIDTH, HEIGHT)
    assert (lens_from_camera(camera) - lens).abs().max() < 1e-12
    pixels = pixel_grid().T * WIDTH + torch.tensor([WIDTH / 2, HEIGHT / 2])
    centred = centred_pixels(pixels, WIDTH, HEIGHT)
    assert (centred.T - pixel_grid()).abs().max() < 1e-12
    ray = rays(centred.T, lens).T
    assert (ray - camera.unproject(pixels)[:, :2]).abs().max() < 1e-7
    points = torch.cat([ray, torch.ones_like(ray[:, :1])], dim=1) * 3
    assert (centred_pixels(camera.project(points), WIDTH, HEIGHT) - project(ray.T, lens).T).abs().max() < 1e-9


def test_the_middle_of_an_undistorted_image_looks_straight_ahead() -> None:
    lens = lens_from_camera(Camera.from_focal(WIDTH, HEIGHT, 120.0))
    assert lens.tolist() == pytest.approx([math.log(0.75), 0, 0, 0, 0, 0, 0])
    middle = centred_pixels(torch.tensor([[80.0, 45.0]], dtype=torch.float64), WIDTH, HEIGHT)
    assert rays(middle.T, lens).tolist() == [[0.0], [0.0]]


def test_the_middle_of_a_distorted_image_is_finite_and_exact() -> None:
    lens = DISTORTED.clone()
    lens[1:3] = 0
    assert rays(torch.zeros(2, 1, dtype=torch.float64), lens).tolist() == [[0.0], [0.0]]


def test_a_lens_vector_means_the_same_at_any_image_size() -> None:
    big, small = (camera_from_lens(DISTORTED, w, h) for w, h in ((1920, 1080), (480, 270)))
    assert big.scaled_to(480, 270) == small


@pytest.mark.parametrize("lens", [DISTORTED, UNDISTORTED])
def test_derivatives_of_projection_match_autograd(lens: torch.Tensor) -> None:
    ray = rays(pixel_grid(), lens)
    _, by_ray, by_lens = solver_lens.project_jacobians(ray, lens)
    of_ray, of_lens = torch.autograd.functional.jacobian(project, (ray, lens))
    points = torch.arange(ray.shape[1])
    # Autograd indexes [pixel, point, ray, point]; ours [ray, pixel, point].
    assert (of_ray[:, points, :, points].permute(2, 1, 0) - by_ray).abs().max() < 1e-12
    assert by_lens is not None
    assert (of_lens.permute(2, 0, 1) - by_lens).abs().max() < 1e-12
    assert solver_lens.project_jacobians(ray, lens, with_lens=False)[2] is None


@pytest.mark.parametrize("lens", [DISTORTED, UNDISTORTED])
def test_derivatives_of_rays_by_the_lens_match_finite_differences(lens: torch.Tensor) -> None:
    pixels = pixel_grid()
    found = solver_lens.ray_lens_jacobian(pixels, rays(pixels, lens), lens)
    for index in range(solver_lens.LENS_SIZE):
        step = torch.zeros_like(lens)
        step[index] = 1e-6
        expected = (rays(pixels, lens + step) - rays(pixels, lens - step)) / 2e-6
        assert (found[index] - expected).abs().max() < 1e-7
