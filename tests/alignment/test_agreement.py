"""A solution that is wrong explains little of its flow: everywhere, or across the one joint that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.agreement import agreement
from flowcam_ns.alignment.attempt import Attempt, attempt
from flowcam_ns.alignment.bootstrap import LensBelief
from flowcam_ns.alignment.bridge import Bridged
from flowcam_ns.alignment.estimate import lens_belief, warnings_of
from flowcam_ns.alignment.first_flow import VideoFlow, see_video
from flowcam_ns.alignment.moving import (
    BELIEVED,
    DOUBTED,
    KEPT,
    SURE,
    TORN,
    WORTH,
    Stilled,
    explained_flow,
    still_under_poses,
    without_moving,
)
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Solved
from flowcam_ns.alignment.watch import Stopwatch
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3
from flowcam_ns.synthetic.clip import make_clip

FRAMES = 24
TURN = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.1, 0.0], dtype=torch.float64)


def solved(problem: FlowProblem, state: FlowState) -> Solved:
    return Solved(problem, state, problem, state)


def torn(state: FlowState, after: int) -> FlowState:
    """The cameras after a frame turned about the world's origin together: each part stays right by itself."""
    c2w = state.c2w.clone()
    c2w[after + 1 :] = se3.exp(TURN) @ c2w[after + 1 :]
    return replace(state, c2w=c2w)


def test_all_exact_flow_is_explained(exact_problem: Callable[..., tuple[FlowProblem, FlowState]]) -> None:
    problem, truth = exact_problem(frames=10, points=60)
    found = agreement(solved(problem, truth))
    assert found.whole > 0.999
    assert found.across.shape == (9,)
    assert found.weakest > 0.999


def test_the_place_where_a_solution_is_torn_is_the_weakest(
    exact_problem: Callable[..., tuple[FlowProblem, FlowState]],
) -> None:
    problem, truth = exact_problem(frames=10, points=60)
    found = agreement(solved(problem, torn(truth, after=6)))
    assert int(found.across.argmin()) == 6
    assert found.weakest < 0.05
    # Where no flow crosses the place, nothing can be said against it.
    lonely = problem.renumbered(torch.arange(10))
    ends = torch.stack([lonely.sources[:, None].expand_as(lonely.neighbours), lonely.neighbours])
    crosses = (ends.min(0).values <= 6) & (ends.max(0).values > 6)
    alone = replace(lonely, confidence=lonely.confidence * ~crosses[..., None])
    assert float(agreement(solved(alone, torn(truth, after=6))).across[6]) == 1


@pytest.fixture(scope="module")
def seen() -> VideoFlow:
    frames = make_clip("walk", seed=2, frames=FRAMES, width=320, height=180).to_frames()
    return see_video(frames, FlowStore(frames.images), AlignmentOptions(cache=False), lambda *_: None)


@pytest.fixture(scope="module")
def belief() -> LensBelief:
    frames = make_clip("walk", seed=2, frames=3, width=32, height=18).to_frames()
    return lens_belief(frames, None, AlignmentOptions())


@pytest.fixture(scope="module")
def right(seen: VideoFlow, belief: LensBelief) -> Attempt:
    found = attempt(seen, belief, None, lambda *_: None, Stopwatch())
    assert found is not None
    assert len(found.bridged.part) == FRAMES
    return found


def test_one_wrong_joint_is_doubted_though_nearly_all_flow_is_explained(
    seen: VideoFlow, belief: LensBelief, right: Attempt
) -> None:
    last = FRAMES - 2
    wrong = replace(right, solved=solved(right.solved.problem, torn(right.solved.state, last)))
    shares = agreement(wrong.solved)
    assert shares.whole > DOUBTED
    assert shares.weakest < TORN
    assert without_moving(seen, right, belief, solve=pytest.fail).attempt is right  # nothing to doubt, nothing to solve
    assert without_moving(seen, wrong, belief, solve=lambda _: right).attempt is right
    kept = without_moving(seen, wrong, belief, solve=lambda _: None)
    assert kept.attempt is wrong
    assert kept.doubted
    (warning,) = warnings_of(seen.store, kept, 0)
    assert f"across frame {last} " in warning


def first_frames(right: Attempt, few: int) -> Attempt:
    """The same poses, of the first few frames alone."""
    part = Part(torch.arange(few), right.solved.state.window(0, few))
    return replace(right, bridged=Bridged(part), solved=solved(part.problem(right.solved.problem), part.state))


def test_fewer_frames_are_believed_where_they_explain_nearly_as_much(
    seen: VideoFlow, belief: LensBelief, right: Attempt
) -> None:
    shorter = first_frames(right, FRAMES * 3 // 4)
    assert len(shorter.bridged.part) < KEPT * FRAMES
    assert agreement(shorter.solved).whole > SURE
    state = right.solved.state
    for after in range(0, FRAMES - 1, 2):
        state = torn(state, after)
    hopeless = replace(right, solved=solved(right.solved.problem, state))
    assert explained_flow(seen, shorter) > WORTH * explained_flow(seen, hopeless)
    assert without_moving(seen, hopeless, belief, solve=lambda _: shorter).attempt is shorter


def test_right_poses_of_all_frames_are_not_given_up_for_those_of_a_few(
    seen: VideoFlow, belief: LensBelief, right: Attempt
) -> None:
    shorter = first_frames(right, FRAMES // 2)
    doubted = replace(right, solved=solved(right.solved.problem, torn(right.solved.state, FRAMES - 2)))
    assert agreement(shorter.solved).whole > SURE
    assert explained_flow(seen, shorter) < WORTH * explained_flow(seen, doubted)
    assert without_moving(seen, doubted, belief, solve=lambda _: shorter).attempt is doubted


def test_explained_flow_counts_what_the_poses_put_where_it_was_seen(seen: VideoFlow, right: Attempt) -> None:
    whole = float(measure.build_problem(seen.store, seen.points, seen.measured).weight().sum())
    assert BELIEVED * whole < explained_flow(seen, right) <= whole
    assert not Stilled(right).doubted


def test_what_was_left_out_of_frames_without_a_pose_stays_left_out(seen: VideoFlow, right: Attempt) -> None:
    few = FRAMES // 2
    before = np.ones((FRAMES, seen.store.height, seen.store.width), bool)
    before[:, 40:80, 60:100] = False
    still = still_under_poses(seen.at_spacing(8), first_frames(right, few), before)
    assert np.array_equal(still[few:], before[few:])
    assert still[:few].mean() > 0.98  # the scene stands still, whatever was thought of it before


def test_flow_at_other_points_is_the_same_flow(seen: VideoFlow) -> None:
    fine = seen.at_spacing(8)
    assert fine.points.shape[1] > 3 * seen.points.shape[1]
    assert sorted(fine.measured.pairs) == sorted(seen.measured.pairs)
    here, nearest = fine.points[0], np.linalg.norm(fine.points[0][:, None] - seen.points[0], axis=-1).argmin(1)
    (row,) = [row for row, pair in enumerate(fine.measured.pairs) if pair == (0, 1)]
    (coarse,) = [row for row, pair in enumerate(seen.measured.pairs) if pair == (0, 1)]
    step = fine.measured.targets[row] - here
    around = (seen.measured.targets[coarse] - seen.points[0])[nearest]
    assert np.median(np.linalg.norm(step - around, axis=-1)) < 0.5
