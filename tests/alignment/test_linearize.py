"""Closed-form derivatives of the flow residuals, held against autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from flowcam_ns.alignment.linearize import DEPTH, LENS, RESIDUAL, SOURCE, linearize, residuals, target_adjoint
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.geometry import se3

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]
LENS_VALUES = torch.tensor([-0.1, 0.01, -0.015, -0.08, 0.03, 0.002, -0.003], dtype=torch.float64)


def disturbed(state: FlowState) -> FlowState:
    """A state away from the solution, so that no term of the derivatives vanishes."""
    random = torch.Generator().manual_seed(3)
    turn = 0.02 * torch.randn(len(state.c2w), 6, generator=random, dtype=torch.float64)
    depth = state.inverse_depth + 0.1 * torch.randn(state.inverse_depth.shape, generator=random, dtype=torch.float64)
    return FlowState(state.c2w @ se3.exp(turn), depth, state.lens + 0.01)


def test_every_column_matches_autograd(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=3, points=4, gaps=(1, 2), lens=LENS_VALUES)
    state = disturbed(truth)
    columns, _ = linearize(problem, state)
    adjoint = target_adjoint(problem, state)

    def moved(tangent: torch.Tensor, depth: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        return residuals(problem, FlowState(state.c2w @ se3.exp(tangent), depth, lens))[0]

    still = torch.zeros(3, 6, dtype=torch.float64)
    by_pose, by_depth, by_lens = torch.autograd.functional.jacobian(moved, (still, state.inverse_depth, state.lens))
    assert (columns[:, :, LENS] - by_lens.permute(0, 1, 4, 2, 3)).abs().max() < 1e-10
    for row in range(3):
        for slot in range(problem.neighbours.shape[1]):
            target = int(problem.neighbours[row, slot])
            if target == row:
                continue
            expected = by_pose[row, slot].permute(2, 3, 0, 1)
            assert (columns[row, slot, SOURCE] - expected[row]).abs().max() < 1e-10
            by_target = torch.einsum("bkp,ba->akp", columns[row, slot, SOURCE], adjoint[row, slot])
            assert (by_target - expected[target]).abs().max() < 1e-10
            own_depth = torch.diagonal(by_depth[row, slot][:, :, row], dim1=1, dim2=2)
            assert (columns[row, slot, DEPTH] - own_depth).abs().max() < 1e-10


def test_the_residual_column_is_the_residual(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(lens=LENS_VALUES)
    state = disturbed(truth)
    columns, valid = linearize(problem, state)
    residual, also_valid = residuals(problem, state)
    assert torch.allclose(columns[:, :, RESIDUAL], residual, atol=1e-14)
    assert torch.equal(valid, also_valid)
    assert residuals(problem, truth)[0].abs().max() < 1e-12


def test_the_lens_columns_can_be_left_out(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=4, points=10)
    with_lens, _ = linearize(problem, truth)
    without, _ = linearize(problem, truth, with_lens=False)
    assert torch.equal(without, with_lens[:, :, : LENS.start])


@pytest.mark.parametrize("depth", [0.0, -0.2])
def test_points_at_and_beyond_infinity_are_no_special_case(exact_problem: MakeProblem, depth: float) -> None:
    problem, truth = exact_problem(frames=4, points=10)
    far = replace(truth, inverse_depth=torch.full_like(truth.inverse_depth, depth))
    columns, valid = linearize(problem, far)
    assert torch.isfinite(columns).all()
    assert valid.all()
    assert (columns[:, :, 0:3].abs().max() == 0) == (depth == 0)


def test_a_point_behind_the_other_camera_is_not_valid(exact_problem: MakeProblem) -> None:
    forward = se3.identity(2, torch.zeros((), dtype=torch.float64))
    forward[1, 2, 3] = 1.0
    problem, state = exact_problem(frames=2, points=5, gaps=(1,), c2w=forward)
    passed = replace(state, inverse_depth=torch.full_like(state.inverse_depth, 2.0))
    _, valid = residuals(problem, passed)
    assert not valid[0, 0].any()
    assert valid[1, 1].all()
    assert torch.isfinite(linearize(problem, passed)[0]).all()


def test_single_precision_agrees_with_double(exact_problem: MakeProblem) -> None:
    double, truth = exact_problem(lens=LENS_VALUES)
    single, _ = exact_problem(lens=LENS_VALUES, dtype=torch.float32)
    state = disturbed(truth)
    assert (linearize(double, state)[0] - linearize(single, state)[0]).abs().max() < 2e-5
