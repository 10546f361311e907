"""The reported standard deviations: they follow the noise, single out weak frames and do not depend on the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from flowcam_ns.alignment import normal_equations
from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.covariance import EFFECTIVE_SHARE, marginal_uncertainty
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import frame_errors

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]
FEW_PX = 0.05 * PIXEL


def test_deviations_grow_with_the_noise_of_flow(exact_problem: MakeProblem) -> None:
    quiet, noisy = (marginal_uncertainty(*exact_problem(noise=noise)) for noise in (FEW_PX, 3 * FEW_PX))
    for name in ("rotation", "position"):
        ratio = (getattr(noisy, name) / getattr(quiet, name)).median()
        assert float(ratio) == pytest.approx(3, rel=0.3)
    assert noisy.log_focal / quiet.log_focal == pytest.approx(3, rel=0.3)
    seen = torch.isfinite(quiet.inverse_depth)
    assert (noisy.inverse_depth[seen] > quiet.inverse_depth[seen]).float().mean() > 0.9


def test_a_frame_with_little_flow_is_less_certain_for_it(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=10, points=100, noise=FEW_PX)
    weak = 5
    touches = (problem.sources[:, None] == weak) | (problem.neighbours == weak)
    few = torch.arange(100) < 5
    confidence = torch.where(touches[..., None] & ~few, 0.0, problem.confidence)
    known_lens = torch.full((LENS_SIZE,), 1e-6)
    with_flow = marginal_uncertainty(problem, truth, known_lens)
    without = marginal_uncertainty(replace(problem, confidence=confidence), truth, known_lens)
    for name in ("rotation", "position"):
        ratio = getattr(without, name) / getattr(with_flow, name)
        assert int(ratio.argmax()) == weak
        assert ratio[weak] > 1.5


def test_the_choice_of_world_changes_nothing_but_the_scale(exact_problem: MakeProblem) -> None:
    problem, state = exact_problem(noise=FEW_PX)
    here = marginal_uncertainty(problem, state)
    moved = state.c2w.clone()
    moved[:, :3, 3] *= 2
    elsewhere = se3.exp(torch.tensor([1.0, -2.0, 0.5, 0.3, -0.8, 0.4], dtype=torch.float64)) @ moved
    there = marginal_uncertainty(problem, replace(state, c2w=elsewhere, inverse_depth=state.inverse_depth / 2))
    assert torch.allclose(there.rotation, here.rotation, rtol=0.05)
    assert torch.allclose(there.position, 2 * here.position, rtol=0.05)
    assert there.log_focal == pytest.approx(here.log_focal, rel=0.05)


def test_a_camera_in_one_place_has_certain_rotations(exact_problem: MakeProblem) -> None:
    _, state = exact_problem()
    turns = state.c2w.clone()
    turns[:, :3, 3] = 0
    problem, state = exact_problem(c2w=turns, noise=FEW_PX)
    found = marginal_uncertainty(problem, replace(state, inverse_depth=torch.zeros_like(state.inverse_depth)))
    assert found.rotation.max() < 0.01
    assert torch.isfinite(found.position).all()


def test_deviations_are_those_of_repeated_measurements(exact_problem: MakeProblem) -> None:
    """Under fresh noise again and again, poses scatter as predicted (`EFFECTIVE_SHARE` aside: this noise is white)."""
    rotations, positions = [], []
    for seed in range(20):
        problem, truth = exact_problem(points=100, noise=FEW_PX, noise_seed=seed)
        free = Free(torch.arange(8) > 0, torch.ones(8, dtype=torch.bool), torch.zeros(LENS_SIZE, dtype=torch.bool))
        equations, _ = normal_equations.build(problem, truth, 8 * PIXEL)
        nothing = torch.zeros(equations.size, dtype=torch.float64)
        step, _ = normal_equations.solve(equations, free, 1e-10, nothing, nothing)
        errors = frame_errors(truth.c2w @ se3.exp(step[:-LENS_SIZE].reshape(-1, 6)), truth.c2w)
        rotations.append(torch.deg2rad(errors.rotation_deg))
        positions.append(errors.position)
    predicted = marginal_uncertainty(problem, truth, torch.full((LENS_SIZE,), 1e-6))
    for measured, deviation in ((rotations, predicted.rotation), (positions, predicted.position)):
        scatter = torch.stack(measured).square().mean(0).sqrt()
        ratio = scatter / (deviation * EFFECTIVE_SHARE**0.5)
        assert ratio.min() > 0.5
        assert ratio.max() < 1.6


@pytest.mark.parametrize("spread", [1e-6, 1e-9])
def test_a_known_lens_is_certain_and_makes_poses_more_certain(exact_problem: MakeProblem, spread: float) -> None:
    problem, state = exact_problem(noise=FEW_PX)
    free = marginal_uncertainty(problem, state)
    known = marginal_uncertainty(problem, state, torch.full((LENS_SIZE,), spread))
    assert known.log_focal < 1e-2 * free.log_focal
    assert (known.rotation < free.rotation).all()
    assert (known.rotation > 0).all()


def test_a_point_without_flow_has_no_depth(exact_problem: MakeProblem) -> None:
    problem, state = exact_problem(noise=FEW_PX)
    problem.confidence[2, :, 7] = 0
    deviation = marginal_uncertainty(problem, state).inverse_depth
    assert torch.isinf(deviation[2, 7])
    assert torch.isfinite(deviation[2]).sum() > 40


def test_long_videos_are_judged_in_the_same_order_of_magnitude(
    exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, state = exact_problem(frames=12, noise=FEW_PX)
    spread = torch.full((LENS_SIZE,), 0.1)
    exact = marginal_uncertainty(problem, state, spread)
    monkeypatch.setattr(normal_equations, "DENSE_FRAMES", 2)
    rough = marginal_uncertainty(problem, state, spread)
    for name in ("rotation", "position"):
        ratio = getattr(rough, name) / getattr(exact, name)
        assert ratio.min() > 0.1
        assert ratio.max() < 10
    assert 0.05 < rough.log_focal / exact.log_focal < 20
