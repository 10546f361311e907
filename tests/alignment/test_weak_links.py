"""Links that hang on little flow: cut where features contradict them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.grow import Segment
from flowcam_ns.alignment.lens import lens_from_camera
from flowcam_ns.alignment.linearize import residuals
from flowcam_ns.alignment.measure import build_problem, measure_pairs
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.weak_links import LinkTester, _contradicted, link_strength
from flowcam_ns.flow.features import Features
from flowcam_ns.geometry import se3
from flowcam_ns.synthetic.clip import plan_clip
from flowcam_ns.synthetic.exact_flow import ExactFlowStore
from flowcam_ns.video.frames import Frames

FRAMES, AT = 10, 5
"""The weak link leads to frame AT."""
OFF = torch.tensor([0.3, -0.1, 0.1, 0.03, 0.2, -0.05], dtype=torch.float64)
"""How far what lies beyond a wrong link is from its place."""


@dataclass(frozen=True)
class Clip:
    """Ten frames of an orbit, exact flow between near ones, and the solution behind it."""

    store: ExactFlowStore
    problem: FlowProblem
    truth: FlowState

    def weakened(self, state: FlowState, share: float) -> FlowProblem:
        """Across the link only a share of the points has flow, and it agrees with `state`."""
        problem = self.problem
        across = (problem.sources[:, None] < AT) != (problem.neighbours < AT)
        some = torch.arange(problem.points.shape[-1]) % 100 < 100 * share
        error, valid = residuals(problem, state)
        agreeing = torch.where(across[:, :, None, None], problem.targets + error, problem.targets)
        kept = torch.where(across[..., None], (some & valid).to(problem.confidence), problem.confidence)
        return replace(problem, targets=agreeing, confidence=kept)

    def cut(self, state: FlowState, share: float, features: Features | None = None) -> list[tuple[int, int]]:
        tester = LinkTester(self.store, features or self.store.features, self.weakened(state, share))
        return sorted((piece.start, piece.stop) for piece in tester.cut([Segment(0, FRAMES, state)]))


@pytest.fixture(scope="module")
def clip() -> Clip:
    plan = plan_clip("orbit", 1, 60, 320, 180)
    shown = range(0, 2 * FRAMES, 2)
    images = np.stack([plan.view(index)[0] for index in shown])
    frames = Frames(images, [str(index) for index in shown], np.arange(FRAMES) / 30, "orbit")
    store = ExactFlowStore(plan, frames)
    points = store.good_points(16)
    pairs = [(i, i + gap) for gap in (1, 2) for i in range(FRAMES - gap)]
    problem = build_problem(store, points, measure_pairs(store, points, pairs), torch.float64)
    c2w = torch.from_numpy(plan.c2w[list(shown)])
    start = FlowState(c2w, torch.full(points.shape[:2], 0.3, dtype=torch.float64), lens_from_camera(plan.camera))
    truth = triangulate(problem, start, (64 * PIXEL, 16 * PIXEL, 4 * PIXEL))
    return Clip(store, problem, truth)


@pytest.fixture(scope="module")
def misplaced(clip: Clip) -> FlowState:
    """What lies beyond the link is in itself as it was, but elsewhere."""
    c2w = clip.truth.c2w.clone()
    c2w[AT:] = se3.exp(OFF) @ c2w[AT:]
    return replace(clip.truth, c2w=c2w)


@pytest.fixture
def blind(clip: Clip) -> Features:
    """Features of a video that has none."""
    return Features(np.full_like(clip.store.images, 128))


def test_a_link_is_as_strong_as_the_best_pair_across_it(clip: Clip) -> None:
    whole = link_strength(clip.problem, clip.truth)
    assert float(whole.min()) > 0.6
    strength = link_strength(clip.weakened(clip.truth, 0.2), clip.truth)
    assert float(strength[AT - 1]) == pytest.approx(0.2, abs=0.06)
    assert torch.equal(strength[: AT - 2], whole[: AT - 2])
    assert torch.equal(strength[AT + 1 :], whole[AT + 1 :])


def test_flow_that_is_not_explained_makes_no_link(clip: Clip, misplaced: FlowState) -> None:
    assert float(link_strength(clip.problem, misplaced)[AT - 1]) < 0.1


def test_a_wrong_link_is_cut_though_its_flow_agrees(clip: Clip, misplaced: FlowState) -> None:
    assert float(link_strength(clip.weakened(misplaced, 0.15), misplaced)[AT - 1]) > 0.1
    assert clip.cut(misplaced, 0.15) == [(0, AT), (AT, FRAMES)]


def test_a_right_link_holds_where_features_agree(clip: Clip) -> None:
    assert clip.cut(clip.truth, 0.05) == [(0, FRAMES)]


def test_where_features_do_not_tell_flow_is_believed(clip: Clip, misplaced: FlowState, blind: Features) -> None:
    for state in (clip.truth, misplaced):
        assert clip.cut(state, 0.15, blind) == [(0, FRAMES)]


def test_pairs_that_span_several_links_speak_of_each() -> None:
    # Frame 7 lies elsewhere: seen from 5 that may be either link's fault, but 6 is where 5 and 4 see it.
    votes = {(5, 7): False, (5, 6): True, (4, 6): True}
    assert not _contradicted(votes, 6)
    assert _contradicted(votes, 7)
    assert not _contradicted(votes, 8)


def test_strong_links_cost_no_search_for_features(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("features were sought")

    monkeypatch.setattr(Features, "of", never)
    tester = LinkTester(clip.store, clip.store.features, clip.problem)
    assert [(piece.start, piece.stop) for piece in tester.cut([Segment(0, FRAMES, clip.truth)])] == [(0, FRAMES)]


def test_longer_pieces_come_first(clip: Clip, misplaced: FlowState) -> None:
    state = replace(misplaced, c2w=misplaced.c2w.clone())
    tester = LinkTester(clip.store, clip.store.features, clip.weakened(state, 0.15))
    pieces = tester.cut([Segment(AT - 2, FRAMES, state)])
    assert [(piece.start, piece.stop) for piece in pieces] == [(AT, FRAMES), (AT - 2, AT)]
