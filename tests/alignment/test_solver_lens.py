"""The solver's lens: the same optics as `Camera`, invertible, with exact derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.alignment import lens as solver_lens
from flowcam_ns.alignment.bootstrap import LensBelief
from flowcam_ns.alignment.lens import camera_from_lens, centred_pixels, lens_from_camera, project, rays
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import refine_all
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]

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


# What is believed of the lens

STD = torch.tensor([0.3, 0.005, 0.006, 0.1, 0.1, 0.005, 0.005], dtype=torch.float64)
MEAN = torch.tensor([math.log(0.8), 0.001, -0.002, 0, 0, 0, 0], dtype=torch.float64)


def information(off: list[float], belief: LensBelief, cost: float = 3.0) -> torch.Tensor:
    """The prior's information where a solve starts so many widths off the mean."""
    prior = belief.prior(cost, belief.mean + STD * torch.tensor(off, dtype=torch.float64))
    assert torch.equal(prior.mean, belief.mean)
    return prior.information


@given(st.lists(st.floats(-1.99, 1.99), min_size=7, max_size=7))
@settings(max_examples=25)
def test_near_the_middle_the_belief_in_the_principal_point_is_a_gaussian(off: list[float]) -> None:
    belief = LensBelief(MEAN, STD)
    middle = information([0.0] * 7, belief)
    torch.testing.assert_close(information(off, belief), middle)
    torch.testing.assert_close(middle / middle[0], (STD[0] / STD) ** 2)


@given(st.floats(2.0, 50.0), st.floats(-50.0, -2.0))
@settings(max_examples=25)
def test_beyond_twice_its_width_it_loosens_with_the_distance(right: float, up: float) -> None:
    belief = LensBelief(MEAN, STD)
    share = information([0, right, up, 0, 0, 0, 0], belief) / information([0.0] * 7, belief)
    expected = torch.tensor([1, (2 / right) ** 2, (2 / up) ** 2, 1, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(share, expected)


def test_the_belief_in_everything_else_stays_as_narrow_as_it_is() -> None:
    belief = LensBelief(MEAN, STD)
    far_off = information([9, 0, 0, 9, 9, 9, 9], belief)
    torch.testing.assert_close(far_off, information([0.0] * 7, belief))


def test_a_known_lens_is_believed_in_however_far_off_a_start_is() -> None:
    known = LensBelief(MEAN, STD, known=True)
    torch.testing.assert_close(information([0, 30, -30, 0, 0, 0, 0], known), information([0.0] * 7, known))


def test_the_prior_grows_with_the_cost_it_is_weighed_against() -> None:
    belief = LensBelief(MEAN, STD)
    one, ten = (information([0, 5, 0, 0, 0, 0, 0], belief, cost) for cost in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)


@pytest.mark.parametrize(("cx", "cy"), [(0.1, 0.0), (0.0, -0.1)])
def test_the_principal_point_of_a_cropped_video_is_found_far_from_the_middle(
    exact_problem: MakeProblem, cx: float, cy: float
) -> None:
    lens = torch.tensor([math.log(0.9), cx, cy, 0, 0, 0, 0], dtype=torch.float64)
    # With noise: where flow is perfect no prior has any weight.
    problem, truth = exact_problem(frames=16, points=120, lens=lens, noise=2e-4, noise_seed=1)
    random = torch.Generator().manual_seed(2)
    turn = 0.01 * torch.randn(16, 6, generator=random, dtype=torch.float64)
    turn[0] = 0
    centred = torch.tensor([math.log(0.8), 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    start = replace(truth, c2w=truth.c2w @ se3.exp(turn), lens=centred)
    spread = torch.tensor([0.3, 0.005, 0.005, 0.1, 0.1, 0.005, 0.005], dtype=torch.float64)
    found = refine_all(problem, start, LensBelief(centred, spread), scales=(8.0, 2.0, 0.5), iterations=20).state
    assert (found.lens - lens)[1:3].abs().max() < 0.01
