"""Where a solve begins: which frames, which pairs of them, and the flow between those."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.alignment.bootstrap import LensBelief, solve_first_window
from flowcam_ns.alignment.lens import centred_pixels
from flowcam_ns.alignment.measure import neighbour_motion
from flowcam_ns.alignment.problem import FlowProblem
from flowcam_ns.alignment.window import (
    DISTANCES,
    GOOD_MOTION,
    KEYS,
    LONGEST,
    REACH,
    WINDOW_SUPPORT,
    evenly_moved,
    first_window,
    window_pairs,
    window_problem,
)
from flowcam_ns.geometry.metrics import PoseScores, score_trajectory
from flowcam_ns.synthetic.clip import plan_clip
from flowcam_ns.synthetic.exact_flow import ExactFlowStore
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.options import MIN_FRAMES

CUT = 0.03
"""Share of the flow between unrelated pictures that happens to look trustworthy."""

steps_moved = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 0.5))


def even(frames: int, motion: float) -> tuple[np.ndarray, np.ndarray]:
    """Motion and support of a video without a fault."""
    return np.full(frames - 1, motion), np.ones(frames - 1)


# The frames to begin with


def test_where_the_picture_moves_fast_the_first_frames_are_neighbours() -> None:
    assert first_window(*even(30, 0.05), (0, 30)) == list(range(KEYS))


@pytest.mark.parametrize("motion", [0.007, 0.01, 0.015])
def test_where_it_moves_slowly_they_lie_apart_until_it_has_moved_enough(motion: float) -> None:
    keys = first_window(*even(60, motion), (0, 60))
    assert keys is not None
    assert keys[0] == 0
    assert len(keys) == KEYS
    assert GOOD_MOTION - 1e-9 <= keys[-1] * motion < GOOD_MOTION + motion
    assert np.ptp(np.diff(keys)) <= 1


def test_they_never_lie_further_apart_than_flow_can_follow() -> None:
    keys = first_window(*even(60, 0.001), (0, 60))
    assert keys is not None
    assert keys[0] == 0
    assert keys[-1] - keys[0] + 1 == LONGEST
    assert len(keys) == KEYS


def test_a_window_avoids_weak_flow() -> None:
    motion, support = even(30, 0.05)
    support[3] = 0.2
    assert first_window(motion, support, (0, 30)) == list(range(4, 4 + KEYS))


def test_a_shorter_window_is_better_than_one_with_a_weak_step() -> None:
    motion, support = even(14, 0.05)
    support[[5, 10]] = 0.2
    assert first_window(motion, support, (0, 14)) == list(range(6))
    assert first_window(motion, support, (7, 14)) == list(range(7, 14))  # each side of it alone would be too few


def test_a_window_avoids_standstill() -> None:
    motion, support = even(100, 0.02)
    motion[:60] = 0.0
    keys = first_window(motion, support, (0, 100))
    assert keys is not None
    assert motion[keys[0] : keys[-1]].sum() >= GOOD_MOTION - 1e-9
    # No two frames show the same picture.
    assert sum(key <= 60 for key in keys) <= 1


def test_more_motion_than_enough_is_no_better() -> None:
    motion, support = even(40, 0.05)
    motion[20:] = 0.2
    assert first_window(motion, support, (0, 40)) == list(range(KEYS))


def test_a_window_keeps_within_its_limits() -> None:
    motion, support = even(60, 0.002)
    assert first_window(motion, support, (5, 9)) == [5, 6, 7, 8]
    keys = first_window(motion, support, (11, 31))
    assert keys is not None
    assert (keys[0], keys[-1], len(keys)) == (11, 30, KEYS)
    assert first_window(motion, support, (5, 5 + MIN_FRAMES - 1)) is None


def test_between_cuts_the_window_is_shorter() -> None:
    motion, support = even(12, 0.02)
    support[[2, 7]] = CUT
    assert first_window(motion, support, (0, 12)) == [3, 4, 5, 6, 7]
    assert first_window(motion, support, (0, 3)) == [0, 1, 2]


def test_a_slow_scene_that_ends_in_a_cut_has_frames_that_lie_apart_too() -> None:
    motion, support = even(30, 0.002)
    support[26] = CUT
    keys = first_window(motion, support, (0, 30))
    assert keys is not None
    assert len(keys) == KEYS
    assert keys[-1] - keys[0] > 20


def test_among_unrelated_pictures_there_is_no_window() -> None:
    motion = np.full(11, 0.02)
    assert first_window(motion, np.full(11, CUT), (0, 12)) is None
    every_other = np.tile([0.2, CUT], 6)[:11]
    assert first_window(motion, every_other, (0, 12)) is None


def test_motion_that_is_not_known_breaks_nothing() -> None:
    motion, support = even(40, 0.01)
    motion[10], support[10] = np.inf, 0.0
    keys = first_window(motion, support, (0, 40))
    assert keys is not None
    assert keys[0] == 11
    assert motion[keys[0] : keys[-1]].sum() == pytest.approx(GOOD_MOTION, abs=0.01)
    assert first_window(np.full(39, np.inf), np.zeros(39), (0, 40)) is None


@given(st.data(), st.lists(st.tuples(steps_moved, st.sampled_from([0.0, CUT, 0.3, 1.0])), min_size=2, max_size=60))
@settings(max_examples=100)
def test_a_window_is_found_wherever_a_few_frames_hang_together(
    data: st.DataObject, steps: list[tuple[float, float]]
) -> None:
    motion, support = np.array(steps).T
    motion[support == 0] = np.inf
    low = data.draw(st.integers(0, len(steps)))
    high = data.draw(st.integers(low, len(steps) + 1))
    keys = first_window(motion, support, (low, high))
    runs = (support[k : k + MIN_FRAMES - 1] for k in range(low, high - MIN_FRAMES + 1))
    assert (keys is not None) == any((run >= WINDOW_SUPPORT).all() for run in runs)
    if keys is not None:
        assert MIN_FRAMES <= len(keys) <= KEYS
        assert all(a < b for a, b in pairwise(keys))
        assert low <= keys[0]
        assert keys[-1] < high
        assert keys[-1] - keys[0] < LONGEST
        assert support[keys[0] : keys[-1]].min() >= WINDOW_SUPPORT


# Spread over the way


@given(st.data(), st.lists(steps_moved, min_size=1, max_size=60))
@settings(max_examples=200)
def test_chosen_frames_ascend_from_the_first_to_the_last(data: st.DataObject, steps: list[float]) -> None:
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    first = data.draw(st.integers(0, len(travelled) - 1))
    last = data.draw(st.integers(first, len(travelled) - 1))
    count = data.draw(st.integers(1, last - first + 1))
    chosen = evenly_moved(travelled, first, last, count)
    assert len(chosen) == count
    assert all(a < b for a, b in pairwise(chosen))
    assert all(first <= frame <= last for frame in chosen)
    if count >= 2:
        assert (chosen[0], chosen[-1]) == (first, last)


@given(st.lists(st.floats(0, 0.02), min_size=12, max_size=60), st.integers(2, 8))
@settings(max_examples=100)
def test_as_much_motion_lies_between_any_two_of_them(steps: list[float], count: int) -> None:
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, travelled[-1], count)
    chosen = evenly_moved(travelled, 0, len(steps), count)
    # Where two would meet in one frame, one has to give way.
    if wanted[1] > 2 * max(steps):
        assert np.abs(travelled[chosen] - wanted).max() <= max(steps) / 2 + 1e-6


def test_a_picture_that_stands_still_is_divided_by_time() -> None:
    assert evenly_moved(np.zeros(20), 3, 15, 4) == [3, 7, 11, 15]


# Which pairs of them are compared


@given(st.lists(st.one_of(steps_moved, st.just(math.inf)), min_size=40, max_size=40), st.sets(st.integers(0, 40)))
@settings(max_examples=100)
def test_neighbours_are_always_compared_and_others_within_reach(steps: list[float], frames: set[int]) -> None:
    motion, keys = np.array(steps), sorted(frames)
    pairs = window_pairs(keys, motion)
    assert len(set(pairs)) == len(pairs)
    assert set(pairwise(keys)) <= set(pairs)
    known = np.where(np.isfinite(motion), motion, 0.0)
    for i, j in pairs:
        apart = keys.index(j) - keys.index(i)
        assert apart in DISTANCES
        assert apart == 1 or known[i:j].sum() <= REACH + 1e-9


def test_where_the_picture_hardly_moves_near_and_far_ones_are_compared() -> None:
    keys = [0, 4, 9, 13, 18, 22, 27, 31]
    pairs = window_pairs(keys, np.full(40, 0.001))
    apart = sorted(keys.index(j) - keys.index(i) for i, j in pairs)
    assert apart == [1] * 7 + [2] * 6 + [4] * 4 + [7]


# The flow between them


@pytest.fixture(scope="module")
def slow() -> tuple[ExactFlowStore, np.ndarray]:
    """Forty frames of a walk at a fifth of its normal speed, and their true poses.

    Exact flow needs no pictures of it: in noise, good points lie elsewhere in every frame.
    """
    plan = plan_clip("walk", 2, frames=300, width=240, height=136)
    shown = range(20, 60)
    pictures = np.random.default_rng(0).integers(0, 255, (len(shown), 136, 240, 3), dtype=np.uint8)
    frames = Frames(pictures, [str(i) for i in shown], np.array([i / plan.fps for i in shown]), "slow")
    return ExactFlowStore(plan, frames), plan.c2w[shown.start : shown.stop]


def two_in_three(points: np.ndarray) -> torch.Tensor:
    return torch.arange(points.shape[1])[torch.arange(points.shape[1]) % 3 > 0]


def window_of(store: ExactFlowStore, keys: list[int] | None = None) -> tuple[list[int], FlowProblem]:
    """The first window of a video (or one of the given frames), and the flow between its frames."""
    points = store.good_points(16)
    motion, support = neighbour_motion(store, points)
    keys = keys or first_window(motion, support, (0, len(store)))
    assert keys is not None
    return keys, window_problem(store, points, store.texture(points), two_in_three(points), motion, keys)


def solved(keys: list[int], problem: FlowProblem, truth: np.ndarray) -> PoseScores:
    mean = torch.tensor([math.log(0.75), 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    spread = torch.tensor([0.3, 0.005, 0.005, 0.1, 0.1, 0.005, 0.005], dtype=torch.float64)
    found = solve_first_window(problem, LensBelief(mean, spread)).state
    return score_trajectory(found.c2w, torch.from_numpy(truth[keys]))


def test_a_windows_problem_has_a_row_for_each_of_its_frames(slow: tuple[ExactFlowStore, np.ndarray]) -> None:
    store, _ = slow
    keys, problem = window_of(store)
    points = store.good_points(16)
    few = two_in_three(points)
    assert problem.sources.tolist() == list(range(KEYS))
    assert problem.points.shape == (KEYS, 2, len(few))
    expected = centred_pixels(torch.from_numpy(points[keys][:, few]), store.width, store.height)
    assert torch.equal(problem.points, expected.transpose(1, 2))


def test_its_slots_hold_the_flow_between_its_own_frames(slow: tuple[ExactFlowStore, np.ndarray]) -> None:
    store, _ = slow
    keys, problem = window_of(store)
    points = store.good_points(16)
    few = two_in_three(points)
    told = set()
    for row, others in enumerate(problem.neighbours.tolist()):
        for slot, other in enumerate(others):
            if other == row:
                assert problem.confidence[row, slot].max() == 0
                continue
            told.add((keys[row], keys[other]))
            targets, seen = store.sample([(keys[row], keys[other])], points)
            expected = centred_pixels(torch.from_numpy(targets[0][few]), store.width, store.height)
            torch.testing.assert_close(problem.targets[row, slot], expected.T, rtol=0, atol=1e-6)
            assert torch.equal(problem.confidence[row, slot] > 0, torch.from_numpy(seen[0][few] > 0))
            assert problem.confidence[row, slot].max() > 0
    motion, _ = neighbour_motion(store, points)
    pairs = window_pairs(keys, motion)
    assert told == {*pairs, *((j, i) for i, j in pairs)}


def test_a_slow_video_begins_with_the_right_poses(slow: tuple[ExactFlowStore, np.ndarray]) -> None:
    store, truth = slow
    keys, problem = window_of(store)
    assert keys[-1] - keys[0] > 2 * KEYS
    scores = solved(keys, problem, truth)
    assert scores.max_rotation_deg < 0.05
    assert scores.max_position_relative < 1e-3


def test_frames_that_lie_apart_tell_the_poses_better_than_neighbours(slow: tuple[ExactFlowStore, np.ndarray]) -> None:
    store, truth = slow
    errors = []
    for chosen in (None, list(range(KEYS))):
        keys, problem = window_of(store, chosen)
        noise = torch.randn(problem.targets.shape, generator=torch.Generator().manual_seed(0)).to(problem.targets)
        noisy = replace(problem, targets=problem.targets + 0.1 / 512 * noise)
        errors.append(solved(keys, noisy, truth).max_position_relative)
    assert errors[0] < 0.4 * errors[1]
