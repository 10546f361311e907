"""Matched features beside the flow: laid out like it, weighed by their errors, and freeing the solve of flow's bias."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.estimate import LensBelief
from flowcam_ns.alignment.feature_rows import MAX_WEIGHT, WEIGHT, feature_rows, weighted
from flowcam_ns.alignment.groups import quarters_of
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import residuals
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import ALL_OF_LENS, refine_all, retriangulate
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.store import FlowStore

WIDTH, HEIGHT, FRAMES = 1000, 560, 8


class TrueMatches(Features):
    """Features at a problem's own points and slots: every match is one that its targets know of."""

    def __init__(self, problem: FlowProblem) -> None:
        self.problem, self.asked = problem, []
        self._points = self._pixels(problem.points)

    @staticmethod
    def _pixels(centred: torch.Tensor) -> np.ndarray:
        """[..., 2, n] in long sides about the middle -> [..., n, 2] px."""
        pixels = centred.transpose(-1, -2).numpy() * WIDTH + np.array([WIDTH / 2, HEIGHT / 2])
        return pixels.astype(np.float32)

    def of(self, frame: int) -> SimpleNamespace:
        """The frame's own points, and behind them those that other frames' points are found at."""
        found = [self._points[frame]]
        for source in range(FRAMES):
            for slot, target in enumerate(self.problem.neighbours[source].tolist()):
                if target == frame and source != frame:
                    found.append(self._pixels(self.problem.targets[source, slot]))
        return SimpleNamespace(points=np.concatenate(found))

    def match_all(self, pairs, progress=None):
        """A frame's own points are found in the other frame."""
        self.asked = list(pairs)
        return [self._match(i, j) for i, j in pairs]

    def _match(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        points = place = self.problem.points.shape[-1]
        for source in range(FRAMES):
            for slot, target in enumerate(self.problem.neighbours[source].tolist()):
                if target != j or source == j:
                    continue
                if source == i:
                    seen = np.nonzero(self.problem.confidence[i, slot].numpy() > 0)[0]
                    return seen, place + seen
                place += points
        nothing = np.zeros(0, np.int64)
        return nothing, nothing


@pytest.fixture
def store() -> FlowStore:
    """What knows the frames' size."""
    return cast(FlowStore, SimpleNamespace(width=WIDTH, height=HEIGHT))


def test_every_match_of_a_feature_is_a_measurement_both_ways(exact_problem, store: FlowStore) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=60, gaps=(1, 3))
    features = TrueMatches(problem)
    rows = feature_rows(store, features, problem, truth, torch.arange(FRAMES))
    assert rows is not None
    assert {(1, 2), (0, 3)} <= set(features.asked)
    assert (0, 5) not in features.asked
    feature_rows(store, features, problem, truth, torch.arange(FRAMES), ties=[(0, 5), (0, 1)])
    assert (0, 5) in features.asked
    assert len(set(features.asked)) == len(features.asked)
    assert rows.points.shape == problem.points.shape
    exact = retriangulate(rows, truth)
    error, _ = residuals(rows, exact)
    assert float(error.norm(dim=-2)[rows.confidence > 0].max()) < 1e-4
    directed = {(int(s), int(t)) for s, row in enumerate(rows.neighbours) for t in row if s != t}
    assert directed == {(j, i) for i, j in directed}


def test_a_feature_stands_in_the_quarter_of_the_picture_whose_place_it_takes(exact_problem, store: FlowStore) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=60, gaps=(1, 3))
    rows = feature_rows(store, TrueMatches(problem), problem, truth, torch.arange(FRAMES))
    assert rows is not None
    used = (rows.confidence > 0).any(1)
    assert used.float().mean() > 0.5
    for number, quarter in enumerate(quarters_of(problem.points)):
        x, y = rows.points[:, 0][:, quarter], rows.points[:, 1][:, quarter]
        assert ((x > 0) == bool(number // 2))[used[:, quarter]].all()
        assert ((y > 0) == bool(number % 2))[used[:, quarter]].all()


def test_frames_without_any_match_make_no_rows(exact_problem, store: FlowStore) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=60, gaps=(1, 3))
    unseen = replace(problem, confidence=torch.zeros_like(problem.confidence))
    assert feature_rows(store, TrueMatches(unseen), problem, truth, torch.arange(FRAMES)) is None


def test_matches_that_contradict_the_cameras_are_left_out(exact_problem, store: FlowStore) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=60, gaps=(1, 3))
    accidents = problem.targets.roll(1, dims=-1)
    wrong = torch.arange(60) % 3 == 0
    mixed = replace(problem, targets=torch.where(wrong, accidents, problem.targets))
    rows = feature_rows(store, TrueMatches(mixed), problem, truth, torch.arange(FRAMES))
    assert rows is not None
    error, _ = residuals(rows, retriangulate(rows, truth))
    # An accident may lie on the epipolar line, and then says nothing wrong about the cameras; most do not.
    assert float((error.norm(dim=-2)[rows.confidence > 0] > 8 * PIXEL).double().mean()) < 0.05
    only = feature_rows(store, TrueMatches(replace(problem, targets=accidents)), problem, truth, torch.arange(FRAMES))
    kept = 0 if only is None else int((only.confidence > 0).sum())
    assert kept < 0.3 * int((rows.confidence > 0).sum())


def test_features_count_for_less_the_more_exact_flow_is(exact_problem) -> None:
    rough, truth = exact_problem(noise=0.4 * PIXEL)
    exact, _ = exact_problem(noise=0.004 * PIXEL)
    assert float(weighted(rough, truth, exact, truth).confidence.max()) < 1e-3
    assert float(weighted(rough, truth, rough, truth).confidence.max()) == pytest.approx(WEIGHT)
    assert float(weighted(exact, truth, rough, truth).confidence.max()) == pytest.approx(MAX_WEIGHT)


def _biased(problem: FlowProblem) -> FlowProblem:
    """Flow that falls short by 3 %, as smoothed flow does before a farther background."""
    source = problem.points[:, None]
    return replace(problem, targets=source + 0.97 * (problem.targets - source))


def test_exact_features_outweigh_a_bias_of_the_flow(exact_problem, store: FlowStore) -> None:
    problem, truth = exact_problem(frames=FRAMES, points=120, gaps=(1, 3), noise=0.1 * PIXEL)
    flow = _biased(problem)
    belief = LensBelief(truth.lens, torch.full((LENS_SIZE,), 1e-3, dtype=torch.float64))

    def worst_turn(measured: FlowProblem, start: FlowState) -> float:
        found = refine_all(measured, start, belief, scales=(2.0, 0.5), iterations=15, stages=(ALL_OF_LENS,)).state
        turn = found.c2w[:, :3, :3].transpose(1, 2) @ truth.c2w[:, :3, :3]
        return float((turn - torch.eye(3, dtype=torch.float64)).norm(dim=(1, 2)).max())

    matched = feature_rows(store, TrueMatches(problem), flow, truth, torch.arange(FRAMES))
    assert matched is not None
    placed = retriangulate(matched, truth)
    both = flow.with_rows(weighted(matched, placed, flow, truth))
    start = replace(truth, inverse_depth=torch.cat([truth.inverse_depth, placed.inverse_depth]))
    assert worst_turn(both, start) < 0.6 * worst_turn(flow, truth)


def test_rows_of_two_problems_stand_below_each_other_with_room_for_the_wider(exact_problem) -> None:
    wide, truth = exact_problem(gaps=(1, 2, 4))
    narrow, _ = exact_problem(gaps=(1,), seed=1)
    both = wide.with_rows(narrow)
    assert both.neighbours.shape == (2 * len(wide.sources), wide.neighbours.shape[1])
    state = replace(truth, inverse_depth=torch.cat([truth.inverse_depth, truth.inverse_depth]))
    error, _ = residuals(both, state)
    alone, _ = residuals(wide, truth)
    assert torch.equal(error[: len(wide.sources)], alone)
    assert float(both.confidence[len(wide.sources) :].sum()) == float(narrow.confidence.sum())
