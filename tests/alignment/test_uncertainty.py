"""The reported standard deviations: they follow the noise, single out weak frames and do not depend on the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from flowcam_ns.alignment import groups, normal_equations, reduced_system
from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.covariance import REPRODUCIBLE, Uncertainty, depth_deviation, marginal_uncertainty
from flowcam_ns.alignment.groups import quarters_of
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import frame_errors

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]
FEW_PX = 0.05 * PIXEL


def from_flow(found: Uncertainty) -> float:
    """The focal length's deviation without what no video can tell."""
    return (found.log_focal**2 - REPRODUCIBLE**2) ** 0.5


def test_deviations_grow_with_the_noise_of_flow(exact_problem: MakeProblem) -> None:
    quiet, noisy = (marginal_uncertainty(*exact_problem(noise=noise)) for noise in (FEW_PX, 3 * FEW_PX))
    for name in ("rotation", "position"):
        ratio = (getattr(noisy, name) / getattr(quiet, name)).median()
        assert float(ratio) == pytest.approx(3, rel=0.3)
    assert from_flow(noisy) / from_flow(quiet) == pytest.approx(3, rel=0.3)
    depths = [depth_deviation(*exact_problem(noise=noise)) for noise in (FEW_PX, 3 * FEW_PX)]
    seen = torch.isfinite(depths[0])
    assert (depths[1][seen] > depths[0][seen]).float().mean() > 0.9


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


def solved_errors(problem: FlowProblem, truth: FlowState) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotation (radians) and position errors of a solve with the lens held, to first order."""
    frames = len(truth.c2w)
    free = Free(
        torch.arange(frames) > 0, torch.ones(frames, dtype=torch.bool), torch.zeros(LENS_SIZE, dtype=torch.bool)
    )
    equations, _ = normal_equations.build(problem, truth, 8 * PIXEL)
    nothing = torch.zeros(equations.size, dtype=torch.float64)
    step, _ = normal_equations.solve(equations, free, 1e-10, nothing, nothing)
    errors = frame_errors(truth.c2w @ se3.exp(step[:-LENS_SIZE].reshape(-1, 6)), truth.c2w)
    return torch.deg2rad(errors.rotation_deg), errors.position


def ratios(problems: list[tuple[FlowProblem, FlowState]]) -> list[torch.Tensor]:
    """Scatter of the errors over several draws of noise, as a share of what is reported on average."""
    errors = [solved_errors(problem, truth) for problem, truth in problems]
    known_lens = torch.full((LENS_SIZE,), 1e-6)
    found = [marginal_uncertainty(problem, truth, known_lens) for problem, truth in problems]
    reported = [torch.stack([getattr(one, name) for one in found]) for name in ("rotation", "position")]
    return [
        torch.stack(kind).square().mean(0).sqrt() / deviation.square().mean(0).sqrt()
        for kind, deviation in zip(zip(*errors, strict=True), reported, strict=True)
    ]


def test_under_independent_noise_poses_scatter_no_more_than_reported(exact_problem: MakeProblem) -> None:
    """Groups that share nothing are few: what is reported is up to a few times too wide, for certainty."""
    for ratio in ratios([exact_problem(points=100, noise=FEW_PX, noise_seed=seed) for seed in range(20)]):
        assert ratio.min() > 0.15
        assert ratio.max() < 0.8


def test_errors_that_a_part_of_the_picture_has_in_common_are_reported(exact_problem: MakeProblem) -> None:
    """Each quarter's flow is off by something else, the same in all frames: hardly any residual shows it."""
    problems = []
    for seed in range(20):
        problem, truth = exact_problem(points=100, noise=FEW_PX, noise_seed=seed)
        targets = problem.targets.clone()
        onwards = torch.sign(problem.neighbours - problem.sources[:, None]).to(targets)[..., None, None]
        for points in quarters_of(problem.points):
            off = FEW_PX * torch.randn(2, 1, generator=torch.Generator().manual_seed(1000 * seed + int(points[0])))
            targets[..., points] += onwards * off
        problems.append((replace(problem, targets=targets), truth))
    for ratio in ratios(problems):
        assert ratio.min() > 0.15
        assert ratio.max() < 1.2


@pytest.mark.parametrize("spread", [1e-6, 1e-9])
def test_a_known_lens_is_certain_and_makes_poses_more_certain(exact_problem: MakeProblem, spread: float) -> None:
    problem, state = exact_problem(noise=FEW_PX)
    free = marginal_uncertainty(problem, state)
    known = marginal_uncertainty(problem, state, torch.full((LENS_SIZE,), spread))
    assert known.log_focal < 1e-2 * free.log_focal
    assert (known.lens < 1e-2 * free.lens).all()
    assert (known.rotation < free.rotation).all()
    assert (known.rotation > 0).all()


def test_a_point_without_flow_has_no_depth(exact_problem: MakeProblem) -> None:
    problem, state = exact_problem(noise=FEW_PX)
    problem.confidence[2, :, 7] = 0
    deviation = depth_deviation(problem, state)
    assert torch.isinf(deviation[2, 7])
    assert torch.isfinite(deviation[2]).sum() > 40


def test_long_videos_are_judged_the_same_without_a_square_matrix(
    exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, state = exact_problem(frames=12, noise=FEW_PX)
    spread = torch.full((LENS_SIZE,), 0.1)
    dense = marginal_uncertainty(problem, state, spread)
    monkeypatch.setattr(reduced_system, "DENSE_FRAMES", 2)
    monkeypatch.setattr(groups, "assemble_dense", lambda *_: pytest.fail("a dense matrix"))
    sparse = marginal_uncertainty(problem, state, spread)
    for name in ("rotation", "position"):
        assert torch.allclose(getattr(sparse, name), getattr(dense, name), rtol=1e-3)
    assert sparse.log_focal == pytest.approx(dense.log_focal, rel=1e-3)


def test_quarters_hold_every_point_once() -> None:
    grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(5.0)).T.expand(3, 2, 30) - 2.5
    quarters = quarters_of(grid)
    assert torch.cat(quarters).sort().values.tolist() == list(range(30))
    assert {len(quarter) for quarter in quarters} <= {7, 8}
    for quarter in quarters:
        x, y = grid[0][:, quarter]
        assert x.max() - x.min() <= 3
        assert y.max() - y.min() <= 3


def test_a_frame_that_shows_something_in_one_quarter_alone_is_uncertain_and_spoils_no_other(
    exact_problem: MakeProblem,
) -> None:
    problem, truth = exact_problem(frames=10, points=100, noise=FEW_PX)
    before = marginal_uncertainty(problem, truth).rotation
    blank = torch.ones(100, dtype=torch.bool)
    blank[quarters_of(problem.points)[0]] = False
    touches = (problem.sources[:, None] == 5) | (problem.neighbours == 5)
    confidence = torch.where(touches[..., None] & blank, 0.0, problem.confidence)
    after = marginal_uncertainty(replace(problem, confidence=confidence), truth).rotation
    others = torch.arange(10) != 5
    assert after[5] > 10 * before[5]
    # What the fit of the world makes of it is all that the others get.
    assert (after[others] < 0.2 * after[5]).all()
    assert after[5] < 0.2


def test_more_rows_of_a_frame_count_as_more_measurements(exact_problem: MakeProblem) -> None:
    problem, state = exact_problem(points=100, noise=FEW_PX)
    both = problem.with_rows(problem)
    twice = replace(state, inverse_depth=torch.cat([state.inverse_depth, state.inverse_depth]))
    one, two = marginal_uncertainty(problem, state), marginal_uncertainty(both, twice)
    # The same errors again are no news, and they lie in the same quarters and runs.
    assert torch.allclose(two.rotation, one.rotation, rtol=1e-3)
    assert torch.allclose(two.position, one.position, rtol=1e-3)
