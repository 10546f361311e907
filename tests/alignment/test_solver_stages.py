"""Every stage of the solve on exact flow: from nothing, frame by frame, all at once, and with wrong flow among it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowcam_ns.alignment import grow as grow_module
from flowcam_ns.alignment.bootstrap import PIXEL, LensBelief, distinct, in_front, solve_first_window
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.grow import Segment, grow
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.levenberg import Prior, Solution, minimize, robust_cost_at
from flowcam_ns.alignment.linearize import residuals
from flowcam_ns.alignment.measure import build_problem, measure_pairs
from flowcam_ns.alignment.parallax import fit_rotation, only_turns
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.refine import median_error, refine_all, retriangulate
from flowcam_ns.alignment.segments import longest_believable_run, segment_problem, solve_segments, unposed_reasons
from flowcam_ns.alignment.two_view import two_view_start
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.synthetic.clip import plan_clip
from flowcam_ns.synthetic.exact_flow import ExactFlowStore
from flowcam_ns.video.frames import Frames

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]
FRAMES = 16


def belief(focal: float = 0.75, known: bool = False) -> LensBelief:
    spread = torch.tensor([0.3, 0.005, 0.005, 0.1, 0.1, 0.005, 0.005], dtype=torch.float64)
    return LensBelief(lens_of(focal), spread, known)


def lens_of(focal: float, *others: float) -> torch.Tensor:
    """A lens vector: focal length in long sides, then as many of (cx, cy, k1, k2, p1, p2) as are given."""
    values = [math.log(focal), *others]
    return torch.tensor(values + [0.0] * (LENS_SIZE - len(values)), dtype=torch.float64)


def assert_found(
    found: FlowState, truth: FlowState, rotation_deg: float = 0.05, position: float = 1e-3, focal: float = 1e-3
) -> None:
    scores = score_trajectory(found.c2w, truth.c2w)
    assert scores.max_rotation_deg < rotation_deg
    assert scores.max_position_relative < position
    assert abs(float(found.lens[0] - truth.lens[0])) < focal


def disturbed(truth: FlowState, size: float = 0.01) -> FlowState:
    random = torch.Generator().manual_seed(2)
    turn = size * torch.randn(len(truth.c2w), 6, generator=random, dtype=torch.float64)
    turn[0] = 0
    wrong = 1 + 0.2 * torch.randn(truth.inverse_depth.shape, generator=random, dtype=torch.float64)
    lens = truth.lens + 0.1 * (torch.arange(LENS_SIZE) == 0)
    return FlowState(truth.c2w @ se3.exp(turn), truth.inverse_depth * wrong, lens)


def focal_free(frames: int) -> Free:
    lens = torch.arange(LENS_SIZE) == 0
    return Free(torch.arange(frames) > 0, torch.ones(frames, dtype=torch.bool), lens)


def whole_segment(problem: FlowProblem, truth: FlowState, start: int, stop: int) -> Segment:
    """A segment that knows the truth inside and nothing outside."""
    c2w, depth = se3.identity(len(truth.c2w), truth.c2w), torch.ones_like(truth.inverse_depth)
    c2w[start:stop], depth[start:stop] = truth.c2w[start:stop], truth.inverse_depth[start:stop]
    return Segment(start, stop, FlowState(c2w, depth, truth.lens.clone()))


def cut_at(problem: FlowProblem, frame: int, confidence: float = 0.0) -> FlowProblem:
    """The problem with the flow across the cut before `frame` made senseless, at the given confidence."""
    rows = torch.arange(len(problem.sources))[:, None]
    crossing = (rows < frame) != (problem.neighbours < frame)
    noise = (torch.rand(problem.targets.shape, generator=torch.Generator().manual_seed(4)) - 0.5).to(problem.targets)
    targets = torch.where(crossing[..., None, None], noise, problem.targets)
    weights = torch.where(crossing[..., None], problem.confidence * confidence, problem.confidence)
    return replace(problem, targets=targets, confidence=weights)


# Levenberg-Marquardt


def test_a_disturbed_solution_falls_back_onto_the_truth(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem()
    start = disturbed(truth)
    found = minimize(problem, start, focal_free(8), scale=16 * PIXEL, prior=Prior.none(), iterations=40, tolerance=0)
    assert found.cost < 1e-8 * robust_cost_at(problem, start, 16 * PIXEL)
    assert found.iterations <= 40
    assert torch.equal(found.state.c2w[0], start.c2w[0])
    assert torch.equal(found.state.lens[1:], start.lens[1:])
    assert_found(found.state, truth)


def test_no_step_makes_the_cost_worse(exact_problem: MakeProblem, outliers: Callable) -> None:
    problem, truth = exact_problem(noise=2e-3)
    problem, state = outliers(problem), disturbed(truth, 0.03)
    costs = [robust_cost_at(problem, state, 4 * PIXEL)]
    for _ in range(6):
        state = minimize(problem, state, focal_free(8), scale=4 * PIXEL, prior=Prior.none(), iterations=2).state
        costs.append(robust_cost_at(problem, state, 4 * PIXEL))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_a_strong_prior_holds_the_lens_and_a_weak_one_lets_it_go(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem()
    for information, expected in ((1e6, math.log(0.75)), (1e-9, float(truth.lens[0]))):
        prior = Prior(belief().mean, torch.full((LENS_SIZE,), information, dtype=torch.float64))
        start = replace(disturbed(truth), lens=belief().mean)
        found = minimize(problem, start, focal_free(8), scale=8 * PIXEL, prior=prior, iterations=40, tolerance=0)
        assert float(found.state.lens[0]) == pytest.approx(expected, abs=2e-3)


def test_the_order_of_the_rows_changes_nothing(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(noise=1e-3)
    thinner = torch.arange(8) % 3 == 0  # of these rows only the first two slots are used
    unused = thinner[:, None] & (torch.arange(6) >= 2)
    problem = replace(
        problem,
        neighbours=torch.where(unused, problem.sources[:, None], problem.neighbours),
        confidence=problem.confidence * ~unused[..., None],
    )
    start, order = disturbed(truth), torch.randperm(8, generator=torch.Generator().manual_seed(3))
    shuffled = replace(start, inverse_depth=start.inverse_depth[order])
    found, other = (
        minimize(rows, state, focal_free(8), scale=8 * PIXEL, prior=Prior.none(), iterations=30).state
        for rows, state in ((problem, start), (problem.rows(order), shuffled))
    )
    assert torch.allclose(found.c2w, other.c2w, atol=1e-9)
    assert torch.allclose(found.inverse_depth[order], other.inverse_depth, atol=1e-8)


def test_a_focal_length_that_still_moves_is_followed_though_the_cost_hardly_falls(exact_problem: MakeProblem) -> None:
    ahead = torch.zeros(12, 6, dtype=torch.float64)
    ahead[:, 2] = 0.02 * torch.arange(12)
    problem, truth = exact_problem(frames=12, c2w=se3.exp(ahead), noise=3e-4)
    start = replace(disturbed(truth), lens=lens_of(0.75))
    settled, loose = (
        minimize(problem, start, focal_free(12), scale=4 * PIXEL, prior=Prior.none(), iterations=60, tolerance=share)
        for share in (1e-9, 1e-2)
    )
    assert loose.iterations < 60
    assert float(loose.state.lens[0]) == pytest.approx(float(settled.state.lens[0]), abs=0.01)


# Depths by their own


def test_depths_are_triangulated_from_one_common_start(exact_problem: MakeProblem, outliers: Callable) -> None:
    problem, truth = exact_problem()
    found = retriangulate(outliers(problem), truth)
    seen = problem.confidence.sum(1) >= 3
    error = (found.inverse_depth / truth.inverse_depth - 1).abs()[seen]
    assert error.quantile(0.9) < 1e-3


def test_a_point_without_flow_keeps_its_depth(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem()
    problem.confidence[3, :, 5] = 0
    start = replace(truth, inverse_depth=torch.full_like(truth.inverse_depth, 0.9))
    found = triangulate(problem, start, (16 * PIXEL, 4 * PIXEL)).inverse_depth
    assert found[3, 5] == pytest.approx(0.9)
    assert (found[3, :5] - 0.9).abs().min() > 0


# The first window


@pytest.mark.parametrize("focal", [0.65, 0.9, 1.3])
def test_the_first_window_is_solved_from_nothing_focal_length_too(exact_problem: MakeProblem, focal: float) -> None:
    problem, truth = exact_problem(frames=8, points=80, lens=lens_of(focal))
    found = solve_first_window(problem, belief())
    assert found.state.inverse_depth.median() > 0
    assert_found(found.state, truth, focal=0.01, position=5e-3, rotation_deg=0.1)


@pytest.mark.parametrize(("motion", "seed", "start"), [("orbit", 2, 10), ("walk", 2, 10), ("forward", 3, 20)])
def test_windows_that_a_flat_start_gets_wrong_are_found_from_two_views(motion: str, seed: int, start: int) -> None:
    plan = plan_clip(motion, seed, frames=60, width=240, height=136)
    shown = range(start, start + 8)
    images = np.stack([plan.view(i)[0] for i in shown])
    frames = Frames(images, [str(i) for i in shown], np.array([i / plan.fps for i in shown]), "window")
    store = ExactFlowStore(plan, frames)
    points = store.good_points(16)
    neighbours = [(i, i + 1) for i in range(7)]
    problem = build_problem(store, points, measure_pairs(store, points, neighbours))
    found = solve_first_window(problem, belief()).state
    assert score_trajectory(found.c2w, torch.from_numpy(plan.c2w[start : start + 8])).max_rotation_deg < 0.5


def test_two_views_alone_come_near_the_truth(exact_problem: MakeProblem, outliers: Callable) -> None:
    problem, truth = exact_problem(points=120)
    start = two_view_start(outliers(problem), lens_of(0.85))
    assert start is not None
    assert_found(replace(start, lens=truth.lens), truth, rotation_deg=2, position=0.2)
    assert two_view_start(replace(problem, confidence=torch.zeros_like(problem.confidence)), truth.lens) is None


def test_a_known_lens_is_not_touched(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem()
    known = replace(belief(known=True), mean=truth.lens.clone())
    found = solve_first_window(problem, known)
    assert torch.equal(found.state.lens, truth.lens)
    assert_found(found.state, truth)


def test_a_fifth_of_wrong_flow_does_not_matter(exact_problem: MakeProblem, outliers: Callable) -> None:
    problem, truth = exact_problem(points=120)
    found = solve_first_window(outliers(problem), belief()).state
    assert_found(found, truth, focal=0.03, position=0.02, rotation_deg=0.3)


def test_a_solution_is_followed_once_and_not_where_another_is_much_better(exact_problem: MakeProblem) -> None:
    _, truth = exact_problem(frames=4)
    scaled = replace(truth, c2w=truth.c2w.clone(), inverse_depth=truth.inverse_depth / 2)
    scaled.c2w[:, :3, 3] *= 2
    turned = replace(truth, c2w=se3.exp(0.05 * torch.ones(4, 6, dtype=torch.float64)) @ truth.c2w)
    longer = replace(truth, lens=truth.lens + 0.1 * (torch.arange(LENS_SIZE) == 0))
    best = Solution(truth, 1.0, 5, 1e-3)
    same, mirrored, other = (Solution(state, 1.001, 5, 1e-3) for state in (scaled, turned, longer))
    hopeless = replace(other, cost=2.5)
    assert distinct([same, hopeless, best, mirrored, other]) == [best, mirrored, other]
    assert distinct([hopeless]) == [hopeless]


def test_the_solution_behind_the_cameras_is_turned_to_the_front(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem()
    c2w = truth.c2w.clone()
    c2w[:, :3, 3] *= -1
    behind = replace(truth, c2w=c2w, inverse_depth=-truth.inverse_depth)
    assert torch.allclose(residuals(problem, behind)[0], residuals(problem, truth)[0], atol=1e-12)
    turned = in_front(behind)
    assert torch.equal(turned.inverse_depth, truth.inverse_depth)
    assert torch.equal(turned.c2w, truth.c2w)
    assert in_front(truth) is truth


def test_frames_of_a_window_that_explain_little_of_their_flow_are_not_believed(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=8, points=80)
    assert longest_believable_run(problem, truth) == (0, 8)
    wrong = truth.c2w.clone()
    wrong[7] = wrong[7] @ se3.exp(torch.tensor([0.0, 0.0, 0.0, 0.1, 0.0, 0.0], dtype=torch.float64))
    start, stop = longest_believable_run(problem, replace(truth, c2w=wrong))
    assert start == 0
    assert 3 <= stop <= 7
    behind = truth.inverse_depth.clone()
    behind[:3] *= -1
    assert longest_believable_run(problem, replace(truth, inverse_depth=behind))[0] >= 3


# Frame by frame


def test_a_segment_grows_to_both_ends(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=FRAMES)
    seen: list[tuple[int, int]] = []
    segment = grow(
        problem,
        whole_segment(problem, truth, 5, 9),
        (0, FRAMES),
        Prior.none(),
        lambda s: seen.append((s.start, s.stop)),
    )
    assert (segment.start, segment.stop) == (0, FRAMES)
    assert seen[0] == (4, 10)
    assert_found(segment.state, truth)


def test_wrong_flow_does_not_stop_growth(exact_problem: MakeProblem, outliers: Callable) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=120)
    segment = grow(outliers(problem), whole_segment(problem, truth, 0, 6), (0, FRAMES), Prior.none())
    assert segment.stop == FRAMES
    assert_found(segment.state, truth, rotation_deg=0.2, position=0.01)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_growth_stops_at_a_cut_even_where_flow_is_sure_of_itself(exact_problem: MakeProblem, confidence: float) -> None:
    problem, truth = exact_problem(frames=FRAMES)
    segment = grow(cut_at(problem, 11, confidence), whole_segment(problem, truth, 2, 7), (0, FRAMES), Prior.none())
    assert (segment.start, segment.stop) == (0, 11)


@pytest.mark.parametrize(("speed", "least", "most"), [(0.3, 1, 3), (3.0, 9, 13)])
def test_the_newest_frames_are_solved_together_as_often_as_the_picture_moves(
    exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch, speed: float, least: int, most: int
) -> None:
    """At most frames of a fast camera, now and then of a slow one; either way all poses are right."""
    frames, known = 21, 8
    problem, truth = exact_problem(frames=frames, speed=speed)
    solve, solved = grow_module._solve_window, list[int]()

    def counted(problem: FlowProblem, segment: Segment, new: int, prior: Prior) -> None:
        solved.append(new)
        solve(problem, segment, new, prior)

    monkeypatch.setattr(grow_module, "_solve_window", counted)
    segment = grow(problem, whole_segment(problem, truth, 0, known), (0, frames), Prior.none())
    assert segment.stop == frames
    assert least <= len(solved) <= most
    assert_found(segment.state, truth)


def test_growth_keeps_within_its_limits(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=FRAMES)
    segment = grow(problem, whole_segment(problem, truth, 5, 9), (3, 12), Prior.none())
    assert (segment.start, segment.stop) == (3, 12)


# Parts of a video


def test_a_video_with_a_cut_comes_in_two_parts_longest_first(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=20)
    problem = cut_at(problem, 9)
    motion, support = np.full(19, 0.05), np.ones(19)
    support[8] = 0.0
    parts = solve_segments(problem, motion, support, belief())
    assert [(part.start, part.stop) for part in parts] == [(9, 20), (0, 9)]
    for part in parts:
        frames = slice(part.start, part.stop)
        scores = score_trajectory(part.state.c2w[frames], truth.c2w[frames])
        assert scores.max_position_relative < 0.01
    reasons = unposed_reasons(parts, range(9, 20), 20)
    assert set(reasons) == set(range(9))
    assert all("cut" in reason for reason in reasons.values())


def test_a_part_of_a_problem_speaks_of_its_own_frames_only(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=12)
    part, state = segment_problem(problem, whole_segment(problem, truth, 3, 8))
    assert part.neighbours.min() == 0
    assert part.neighbours.max() == 4
    error, valid = residuals(part, state)
    assert (error.norm(dim=2) * part.confidence * valid).max() < 1e-12
    inside = (problem.neighbours[3] >= 3) & (problem.neighbours[3] < 8) & (problem.neighbours[3] != 3)
    kept = int(inside.sum())
    assert torch.equal(part.neighbours[0, :kept], problem.neighbours[3, inside] - 3)
    assert torch.equal(part.confidence[0, :kept], problem.confidence[3, inside])
    assert part.confidence[0, kept:].sum() == 0


def test_a_part_of_a_problem_has_no_more_slots_than_it_needs(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=12, gaps=(1, 2, 4, 8))
    part, _ = segment_problem(problem, whole_segment(problem, truth, 4, 7))
    assert problem.neighbours.shape[1] == 8
    assert part.neighbours.shape[1] == 2
    used = part.neighbours != part.sources[:, None]
    assert torch.equal(used.sum(1), torch.full((3,), 2))


# All at once


def test_all_frames_at_once_settle_on_the_truth_with_the_whole_lens(exact_problem: MakeProblem) -> None:
    lens = lens_of(0.9, 0.004, -0.003, -0.06, 0.02, 0.001, -0.001)
    problem, truth = exact_problem(frames=FRAMES, points=120, lens=lens)
    start = replace(disturbed(truth), lens=belief(0.8).mean)
    found = refine_all(problem, start, belief(), scales=(8.0, 2.0, 0.5), iterations=20, tolerance=1e-6).state
    assert_found(found, truth)
    assert (found.lens - lens).abs().max() < 1e-3
    assert median_error(problem, found) < 0.01 * PIXEL


def test_a_fifth_of_wrong_flow_hardly_moves_the_whole(exact_problem: MakeProblem, outliers: Callable) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=120)
    start = replace(disturbed(truth), lens=belief(0.8).mean)
    found = refine_all(outliers(problem), start, belief(), scales=(8.0, 2.0, 0.5), iterations=15).state
    assert_found(found, truth, rotation_deg=0.05, focal=5e-3)
    assert median_error(problem, found) < 0.02 * PIXEL


def test_single_precision_is_enough(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=FRAMES, dtype=torch.float32)
    found = refine_all(problem, disturbed(truth), belief(), scales=(8.0, 2.0), iterations=15).state
    assert found.c2w.dtype == torch.float64
    assert_found(found, truth)


def test_a_known_lens_stays_when_all_is_solved(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem()
    start = replace(disturbed(truth), lens=truth.lens)
    known = LensBelief(truth.lens, torch.full_like(truth.lens, 1e-6), known=True)
    found = refine_all(problem, start, known, scales=(8.0, 2.0), iterations=15).state
    assert torch.equal(found.lens, truth.lens)
    assert_found(found, truth)


# Rotation alone


def test_a_camera_that_only_turns_is_told_from_one_that_moves(exact_problem: MakeProblem) -> None:
    moving, truth = exact_problem(noise=2e-4)
    turns = truth.c2w.clone()
    turns[:, :3, 3] = 0
    turning, state = exact_problem(c2w=turns, noise=2e-4)
    for problem, solution, expected in ((moving, truth, False), (turning, state, True)):
        rotation = fit_rotation(problem, solution, belief())
        assert only_turns(problem, solution, rotation) == expected
        assert rotation.c2w[:, :3, 3].abs().max() == 0
    assert score_trajectory(rotation.c2w, state.c2w).max_rotation_deg < 0.05
    assert abs(float(rotation.lens[0] - state.lens[0])) < 0.01
