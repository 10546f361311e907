"""Frames tied by features alone: how much must agree, how a wrong place is refused, and which flow is not believed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from flowcam_ns.alignment.feature_tie import BEYOND_DOUBT, FIRM_MATCHES, refuted, tied_firmly
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.measure import Measurements
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowState
from flowcam_ns.alignment.resection import KnownFeatures, KnownPart
from flowcam_ns.flow.features import Features
from flowcam_ns.geometry import se3

KNOWN, FRAME = 3, 3
"""Frames 0 to 2 are known; frame 3 is to be tied."""
ELSEWHERE = torch.tensor([0.3, 0.2, -0.1, 0.1, -0.25, 0.3], dtype=torch.float64)


class Scene(KnownPart):
    """Points that all frames see; every frame's feature k is point k, but some matches are accidents."""

    def __init__(self, count: int = 200) -> None:
        random = np.random.default_rng(0)
        c2w = se3.exp(torch.tensor([[0.15 * i, 0.03 * i, 0, 0.02 * i, -0.05 * i, 0] for i in range(4)]).double())
        self.points = random.uniform((-0.8, -0.5, 1.5), (0.8, 0.5, 3.0), (count, 3))
        self.c2w = c2w.numpy()
        self.seen = [self._projected(pose) for pose in self.c2w]
        lens = torch.zeros(LENS_SIZE, dtype=torch.float64)
        self.part = Part(torch.arange(KNOWN), FlowState(c2w[:KNOWN], torch.ones(KNOWN, 1), lens))
        self.features = cast(Features, SimpleNamespace(match=self.match))
        self.good = dict.fromkeys(range(KNOWN), 1.0)
        """Share of the matches with each known frame that are right."""
        self._random = random

    def _projected(self, c2w: np.ndarray) -> np.ndarray:
        cam = (self.points - c2w[:3, 3]) @ c2w[:3, :3]
        return cam[:, :2] / cam[:, 2:]

    def match(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        every = np.arange(len(self.points))
        right = every < self.good[i] * len(every)
        return every, np.where(right, every, np.roll(every, 17))

    def known(self, frame: int) -> KnownFeatures:
        return KnownFeatures(np.arange(len(self.points)), self.points)

    def rays(self, frame: int) -> np.ndarray:
        return self.seen[frame]

    def tied(self) -> list[tuple[int, float]]:
        """By which frames the new one is tied, and how far each puts it from its place."""
        found = tied_firmly(self, FRAME, range(KNOWN))
        return [(seen.known, float(np.abs(np.linalg.inv(seen.T_cam_world) - self.c2w[FRAME]).max())) for seen in found]


def test_two_frames_that_tell_the_same_tie_a_third() -> None:
    scene = Scene()
    scene.good = {0: 0.6, 1: 0.5, 2: 0.1}
    tied = scene.tied()
    assert [known for known, _ in tied] == [0, 1]
    assert max(off for _, off in tied) < 1e-3


@pytest.mark.parametrize(("share", "enough"), [(0.6, False), (0.95, True)])
def test_a_single_frame_must_be_beyond_doubt(share: float, enough: bool) -> None:
    scene = Scene()
    scene.good = {0: share, 1: 0.1, 2: 0.1}
    assert bool(scene.tied()) == enough
    few = Scene(BEYOND_DOUBT[0] - 1)
    few.good = scene.good
    assert not few.tied()


def test_few_matches_are_no_tie_however_well_they_agree() -> None:
    assert Scene(FIRM_MATCHES + 1).tied()
    assert not Scene(FIRM_MATCHES - 1).tied()


def test_a_place_that_another_frame_contradicts_is_refused() -> None:
    """As where textures repeat: most matches with one frame agree on a wrong place, and look as good as right ones."""
    scene = Scene()
    wrong = scene.c2w[FRAME] @ se3.exp(ELSEWHERE).numpy()
    true, scene.seen[FRAME] = scene.seen[FRAME], scene._projected(wrong)
    scene.good = {0: 0.7, 1: 0.0, 2: 0.0}
    assert not scene.tied()
    scene.seen[FRAME] = true
    scene.good = {0: 0.7, 1: 0.7, 2: 0.0}
    assert scene.tied()


def test_flow_that_contradicts_a_sure_frame_is_named_both_ways(exact_problem) -> None:
    problem, truth = exact_problem(frames=6, points=80)
    part = Part(torch.arange(6), truth)
    assert refuted(problem, part, [3]) == set()
    slot = problem.neighbours[3].tolist().index(5)
    targets = problem.targets.clone()
    targets[3, slot] = targets[3, slot].roll(7, dims=-1)
    wrong = replace(problem, targets=targets)
    assert refuted(wrong, part, [3]) == {(3, 5), (5, 3)}
    assert refuted(wrong, part, [1]) == set()
    without = Part(torch.arange(5), truth.window(0, 5))
    assert refuted(wrong, without, [3]) == set()


def test_measurements_without_some_pairs_keep_the_others() -> None:
    pairs = [(0, 1), (1, 0), (1, 2), (2, 1)]
    targets = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    measured = Measurements(pairs, targets, targets[..., 0])
    left = measured.without({(0, 1), (1, 0), (5, 6)})
    assert left.pairs == [(1, 2), (2, 1)]
    assert np.array_equal(left.targets, targets[2:])
    assert np.array_equal(left.confidence, targets[2:, :, 0])
    assert measured.without(set()) is measured
