"""Eliminating the depths changes nothing about the step; nor do chunks, sparsity or the frames held."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import scipy.sparse
import torch

from flowcam_ns.alignment import chunks, normal_equations, reduced_system
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import DEPTH, LENS, RESIDUAL, SOURCE, linearize, target_adjoint
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.robust import robust_cost
from flowcam_ns.geometry import se3

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]
SCALE, DAMPING = 4 / 512, 1e-2


def disturbed(
    problem: MakeProblem, frames: int = 5, points: int = 12, **kwargs: object
) -> tuple[FlowProblem, FlowState]:
    measured, truth = problem(frames=frames, points=points, noise=1e-3, **kwargs)
    random = torch.Generator().manual_seed(5)
    turn = 0.003 * torch.randn(frames, 6, generator=random, dtype=torch.float64)
    return measured, FlowState(truth.c2w @ se3.exp(turn), truth.inverse_depth * 1.02, truth.lens + 0.01)


def everything(frames: int) -> Free:
    return Free(torch.arange(frames) > 0, torch.ones(frames, dtype=torch.bool), torch.ones(LENS_SIZE, dtype=torch.bool))


def prior_of(state: FlowState) -> tuple[torch.Tensor, torch.Tensor]:
    """A prior on the lens alone: information and gradient over all camera unknowns."""
    information = torch.zeros(6 * len(state.c2w) + LENS_SIZE, dtype=torch.float64)
    information[-LENS_SIZE:] = torch.linspace(0.1, 1.0, LENS_SIZE)
    return information, 0.01 * information


def dense_step(problem: FlowProblem, state: FlowState, free: Free) -> tuple[torch.Tensor, torch.Tensor]:
    """The same damped step from the whole Jacobian, depths and all, by a dense solve."""
    columns, valid = linearize(problem, state)
    adjoint = target_adjoint(problem, state)
    _, weights = robust_cost(problem.confidence, columns[:, :, RESIDUAL], valid, SCALE)
    rows, slots, _, _, points = columns.shape
    frames = len(state.c2w)
    cameras = 6 * frames + LENS_SIZE
    jacobian = torch.zeros(rows, slots, 2, points, cameras + rows * points, dtype=torch.float64)
    for row in range(rows):
        for slot in range(slots):
            target, here = int(problem.neighbours[row, slot]), jacobian[row, slot]
            here[..., 6 * row : 6 * row + 6] += columns[row, slot, SOURCE].permute(1, 2, 0)
            by_target = torch.einsum("bkp,ba->kpa", columns[row, slot, SOURCE], adjoint[row, slot])
            here[..., 6 * target : 6 * target + 6] += by_target
            here[..., 6 * frames : cameras] = columns[row, slot, LENS].permute(1, 2, 0)
            for point in range(points):
                here[:, point, cameras + row * points + point] = columns[row, slot, DEPTH, :, point]
    scaled = (jacobian * weights[:, :, None, :, None].sqrt()).flatten(0, 3)
    residual = (columns[:, :, RESIDUAL] * weights[:, :, None].sqrt()).flatten()
    information, gradient = prior_of(state)
    matrix, right = scaled.T @ scaled, -(scaled.T @ residual)
    matrix += torch.diag(torch.diagonal(matrix) * DAMPING + reduced_system.TINY)
    matrix[:cameras, :cameras] += torch.diag(information)
    right[:cameras] -= gradient
    mask = torch.cat([free.poses.repeat_interleave(6), free.lens, free.depths.repeat_interleave(points)])
    step = torch.zeros_like(right)
    step[mask] = torch.linalg.solve(matrix[mask][:, mask], right[mask])
    return step[:cameras], step[cameras:].reshape(rows, points)


def step_of(problem: FlowProblem, state: FlowState, free: Free) -> tuple[torch.Tensor, torch.Tensor]:
    equations, _ = normal_equations.build(problem, state, SCALE)
    return normal_equations.solve(equations, free, DAMPING, *prior_of(state))


def step_in(equations: normal_equations.NormalEquations, state: FlowState) -> tuple[torch.Tensor, torch.Tensor]:
    """The step of all unknowns but the first pose."""
    return normal_equations.solve(equations, everything(len(state.c2w)), DAMPING, *prior_of(state))


def test_the_step_equals_that_of_the_full_system(exact_problem: MakeProblem) -> None:
    problem, state = disturbed(exact_problem)
    free = everything(5)
    step, depth_step = step_of(problem, state, free)
    expected, expected_depth = dense_step(problem, state, free)
    assert (step - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (depth_step - expected_depth).abs().max() < 1e-6 * expected_depth.abs().max()


def test_what_is_held_does_not_move_at_all(exact_problem: MakeProblem) -> None:
    problem, state = disturbed(exact_problem)
    free = Free(
        torch.tensor([False, True, False, True, True]),
        torch.tensor([True, False, True, True, False]),
        torch.arange(LENS_SIZE) % 3 == 0,
    )
    step, depth_step = step_of(problem, state, free)
    held = ~torch.cat([free.poses.repeat_interleave(6), free.lens])
    assert step[held].abs().max() == 0
    assert depth_step[~free.depths].abs().max() == 0
    expected, expected_depth = dense_step(problem, state, free)
    assert (step - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (depth_step - expected_depth).abs().max() < 1e-6 * expected_depth.abs().max()


def test_with_all_cameras_held_only_depths_move(exact_problem: MakeProblem) -> None:
    problem, state = disturbed(exact_problem)
    free = Free(
        torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool), torch.zeros(LENS_SIZE, dtype=torch.bool)
    )
    step, depth_step = step_of(problem, state, free)
    assert step.abs().max() == 0
    assert (depth_step - dense_step(problem, state, free)[1]).abs().max() < 1e-8


def test_a_point_that_nothing_observes_keeps_its_depth(exact_problem: MakeProblem) -> None:
    problem, state = disturbed(exact_problem)
    problem.confidence[2, :, 7] = 0
    step, depth_step = step_of(problem, state, everything(5))
    assert torch.isfinite(step).all()
    assert depth_step[2, 7] == 0
    assert (depth_step[2] != 0).sum() == depth_step.shape[1] - 1


def test_the_sparse_solver_gives_the_same_step(exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, state = disturbed(exact_problem)
    free = everything(5)
    dense, dense_depth = step_of(problem, state, free)
    monkeypatch.setattr(reduced_system, "DENSE_FRAMES", 2)
    sparse, sparse_depth = step_of(problem, state, free)
    assert (dense - sparse).abs().max() < 1e-8 * dense.abs().max()
    assert (dense_depth - sparse_depth).abs().max() < 1e-8 * dense_depth.abs().max()
    assert sparse[:6].abs().max() == 0


def test_rows_may_be_taken_a_few_at_a_time(exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, state = disturbed(exact_problem)
    at_once, cost = normal_equations.build(problem, state, SCALE)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1)
    in_pieces, same_cost = normal_equations.build(problem, state, SCALE)
    assert float(cost) == pytest.approx(float(same_cost))
    assert (len(at_once.blocks), len(in_pieces.blocks)) == (1, len(problem.sources))
    size = at_once.size
    for whole, parts in (
        (at_once.diagonal(), in_pieces.diagonal()),
        *((reduced_system.assemble_dense(normal_equations.without_depths(x), size) for x in (at_once, in_pieces)),),
        *zip(step_in(at_once, state), step_in(in_pieces, state), strict=True),
    ):
        assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-12)


def test_a_row_with_many_slots_does_not_make_the_others_wide(
    exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, state = disturbed(exact_problem, frames=6, gaps=(1, 2, 3, 4, 5))
    used = (busy.neighbours == busy.sources[:, None] + 1) | (busy.sources[:, None] == 0)
    busy = replace(
        busy,
        neighbours=torch.where(used, busy.neighbours, busy.sources[:, None]),
        confidence=busy.confidence * used[..., None],
    )
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1)
    equations, _ = normal_equations.build(busy, state, SCALE)
    widths = [rows.camera.shape[-1] for rows in equations.blocks]
    assert widths[0] == 6 * (1 + 9) + LENS_SIZE
    assert max(widths[1:]) == 6 * 2 + LENS_SIZE
    step, depth_step = step_in(equations, state)
    expected, expected_depth = dense_step(busy, state, everything(6))
    assert (step - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (depth_step - expected_depth).abs().max() < 1e-6 * expected_depth.abs().max()


def test_the_gradient_is_that_of_the_robust_cost(exact_problem: MakeProblem) -> None:
    problem, state = disturbed(exact_problem)
    equations, _ = normal_equations.build(problem, state, SCALE)
    gradient = torch.zeros(equations.size, dtype=torch.float64)
    for rows in equations.blocks:
        gradient.index_add_(0, rows.columns.flatten(), rows.camera_gradient.flatten())
    for unknown in (7, 10, 28, equations.size - LENS_SIZE, equations.size - 1):
        costs = []
        for side in (1, -1):
            change = torch.zeros(equations.size, dtype=torch.float64)
            change[unknown] = side * 1e-6
            moved = FlowState(
                state.c2w @ se3.exp(change[:-LENS_SIZE].reshape(-1, 6)), state.inverse_depth,
                state.lens + change[-LENS_SIZE:],
            )  # fmt: skip
            costs.append(normal_equations.build(problem, moved, SCALE)[1])
        assert float(costs[0] - costs[1]) / 2e-6 == pytest.approx(float(gradient[unknown]), rel=1e-4)


def test_a_thousand_frames_need_neither_minutes_nor_a_square_matrix(
    exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    assemble = reduced_system.assemble_sparse

    def counted(*arguments: Any) -> scipy.sparse.csc_matrix:
        matrix = assemble(*arguments)
        stored.append(matrix.nnz)
        return matrix

    def refused(*_: object) -> None:
        pytest.fail("a dense matrix of all cameras against all")

    monkeypatch.setattr(reduced_system, "assemble_sparse", counted)
    monkeypatch.setattr(reduced_system, "assemble_dense", refused)
    frames = 1000
    problem, state = disturbed(exact_problem, frames=frames, points=16, gaps=(1, 3))
    start = time.process_time()
    step, _ = step_of(problem, state, everything(frames))
    assert time.process_time() - start < 20
    assert torch.isfinite(step).all()
    assert step[6:].abs().max() > 0
    # Each frame meets at most 6 neighbours' neighbours on either side and the lens: its numbers grow no further.
    assert stored[0] < 6 * frames * (6 * 13 + 2 * LENS_SIZE)
