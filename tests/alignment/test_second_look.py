"""Frames in a wrong place are found by the flow that contradicts them and posed anew; the others stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from flowcam_ns.alignment.bootstrap import PIXEL, LensBelief
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import refine_all
from flowcam_ns.alignment.second_look import DOUBTED, explained_around, look_again
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import score_trajectory

FRAMES, LOST = 10, 6
OFF = torch.tensor([0.25, -0.1, 0.15, 0.02, 0.22, -0.05], dtype=torch.float64)
"""How far the lost frame is from its place: 13 degrees, and several steps."""

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]


def misplaced(problem: FlowProblem, truth: FlowState) -> FlowState:
    """The truth with one frame somewhere else, and depths as well as they then fit."""
    c2w = truth.c2w.clone()
    c2w[LOST] = c2w[LOST] @ se3.exp(OFF)
    return triangulate(problem, replace(truth, c2w=c2w), (16 * PIXEL, 4 * PIXEL))


def test_the_frame_in_a_wrong_place_is_the_one_that_flow_contradicts(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=120)
    assert float(explained_around(problem, truth).min()) > 0.999
    shares = explained_around(problem, misplaced(problem, truth))
    assert int(shares.argmin()) == LOST
    assert float(shares[LOST]) < DOUBTED


def test_a_lost_frame_finds_its_place(exact_problem: MakeProblem, outliers: Callable[..., FlowProblem]) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=120, noise=0.2 * PIXEL)
    problem = outliers(problem)
    lost = misplaced(problem, truth)
    found = look_again(problem, lost)
    before, after = (score_trajectory(state.c2w, truth.c2w).max_rotation_deg for state in (lost, found))
    assert before > 5
    assert after < 0.5


def test_a_frame_that_more_than_flow_tells_is_left_alone(exact_problem: MakeProblem) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=120)
    lost = misplaced(problem, truth)
    assert torch.equal(look_again(problem, lost, sure=[LOST]).c2w, lost.c2w)


def test_a_solve_alone_leaves_it_where_it_is_or_no_better(exact_problem: MakeProblem) -> None:
    """The reason for a second look: under the last solve's kernel nothing draws the frame back."""
    problem, truth = exact_problem(frames=FRAMES, points=120, noise=0.2 * PIXEL)
    belief = LensBelief.of_known(truth.lens)

    def worst(start: FlowState) -> float:
        solved = refine_all(problem, start, belief, scales=(2.0,), iterations=20).state
        return score_trajectory(solved.c2w, truth.c2w).max_rotation_deg

    lost = misplaced(problem, truth)
    assert worst(lost) > 5
    assert worst(look_again(problem, lost)) < 0.1


@pytest.mark.parametrize("noise", [0.0, 0.5 * PIXEL])
def test_frames_that_flow_agrees_with_are_left_alone(
    exact_problem: MakeProblem, outliers: Callable[..., FlowProblem], noise: float
) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=120, noise=noise)
    for measured in (problem, outliers(problem)):
        found = look_again(measured, truth)
        assert torch.equal(found.c2w, truth.c2w)
        assert torch.equal(found.inverse_depth, truth.inverse_depth)


def test_features_may_stand_in_rows_of_their_own(exact_problem: MakeProblem) -> None:
    flow, truth = exact_problem(frames=FRAMES, points=60)
    features, others = exact_problem(frames=FRAMES, points=60, seed=1)
    both = flow.with_rows(features)
    whole = replace(truth, inverse_depth=torch.cat([truth.inverse_depth, others.inverse_depth]))
    found = look_again(both, misplaced(both, whole))
    assert score_trajectory(found.c2w, truth.c2w).max_rotation_deg < 0.1
