"""Drift: taken out by revisits in the pose graph; revisits found in the pictures where the way is long, only there."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.bridge import Video
from flowcam_ns.alignment.lens import lens_from_camera
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.pose_graph import Edge, close_loops
from flowcam_ns.alignment.problem import FlowState
from flowcam_ns.alignment.refine import retriangulate
from flowcam_ns.alignment.revisits import key_frames, without_drift
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.synthetic.clip import plan_clip

LOOP = 60


def circle(frames: int = LOOP, over: float = 1.1) -> torch.Tensor:
    """Poses around a circle of radius 2, a little more than once."""
    angle = torch.linspace(0, 2 * np.pi * over, frames, dtype=torch.float64)
    turn = torch.zeros(frames, 6, dtype=torch.float64)
    turn[:, 4] = -angle
    c2w = se3.exp(turn)
    c2w[:, 0, 3], c2w[:, 2, 3] = 2 * torch.cos(angle), 2 * torch.sin(angle)
    return c2w


def drifted(c2w: torch.Tensor, turn: float, growth: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Poses chained with a constant error of rotation and scale at each step, and each frame's scale."""
    steps = se3.inverse(c2w[:-1]) @ c2w[1:]
    error = torch.zeros(1, 6, dtype=torch.float64)
    error[0, 3:] = turn * torch.tensor([0.5, 1.0, -0.3])
    poses, scale = [c2w[0]], torch.exp(growth * torch.arange(len(c2w), dtype=torch.float64))
    for step, size in zip(steps, scale[:-1], strict=True):
        longer = step.clone()
        longer[:3, 3] *= size
        poses.append(poses[-1] @ longer @ se3.exp(error)[0])
    return torch.stack(poses), scale


def true_edge(c2w: torch.Tensor, i: int, j: int, scale: torch.Tensor) -> Edge:
    """What features tell of a revisit: in units of frame i's own depths, which have drifted by `scale`."""
    relative = (se3.inverse(c2w[i]) @ c2w[j]).numpy()
    return Edge(i, j, relative[:3, :3], relative[:3, 3] * float(scale[i]), float(torch.log(scale[i] / scale[j])))


def part_of(c2w: torch.Tensor, scale: torch.Tensor) -> Part:
    depth = (1 / (2 * scale))[:, None].expand(-1, 5).contiguous()
    return Part(torch.arange(len(c2w)), FlowState(c2w, depth, torch.zeros(7, dtype=torch.float64)))


# The pose graph


@pytest.mark.parametrize(("turn", "growth"), [(0.004, 0.0), (0.0, 0.006), (0.003, -0.005)])
def test_even_drift_is_taken_out_by_one_place_seen_twice(turn: float, growth: float) -> None:
    truth = circle()
    c2w, scale = drifted(truth, turn, growth)
    before = score_trajectory(c2w, truth)
    part = part_of(c2w, scale)
    loops = [true_edge(truth, i, i + 54, scale) for i in (0, 2, 4)]
    closed = close_loops(part, loops)
    after = score_trajectory(closed.state.c2w, truth)
    assert before.ate_relative > 0.03
    assert after.ate_relative < 0.2 * before.ate_relative
    depths = closed.state.inverse_depth[:, 0]
    assert depths.std() / depths.mean() < 0.2 * (part.state.inverse_depth[:, 0].std() / 0.5) + 0.01


def test_loops_that_agree_with_the_solution_change_nothing() -> None:
    truth = circle()
    scale = torch.ones(LOOP, dtype=torch.float64)
    closed = close_loops(part_of(truth, scale), [true_edge(truth, 1, 55, scale)])
    assert (closed.state.c2w - truth).abs().max() < 1e-9
    assert (closed.state.inverse_depth - 0.5).abs().max() < 1e-9


# Revisits in pictures


@pytest.fixture(scope="module")
def returning() -> tuple[Video, Part, np.ndarray]:
    """An orbit of 15 frames filmed to its end and back again: the video, its true solution, and its motion."""
    plan = plan_clip("orbit", seed=2, frames=30, width=320, height=180)
    way = [*range(0, 30, 2), *range(29, 0, -2)]
    images = np.stack([plan.view(index)[0] for index in way])
    store = FlowStore(images)
    points = store.good_points(10)
    motion, _ = measure.neighbour_motion(store, points)
    problem = measure.build_problem(
        store, points, measure.measure_pairs(store, points, measure.choose_pairs(motion)), torch.float64
    )
    c2w = torch.from_numpy(plan.c2w[way])
    start = FlowState(c2w, c2w.new_full((len(way), points.shape[1]), 0.3), lens_from_camera(plan.camera))
    state = retriangulate(problem, start)
    return Video(store, store.features, problem, points, points), Part(torch.arange(len(way)), state), motion


def test_the_way_back_is_recognised_and_its_drift_taken_out(
    returning: tuple[Video, Part, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    video, part, motion = returning
    for name, value in (("LONG", 0.5), ("APART", 0.4), ("KEY_STEP", 0.05)):
        monkeypatch.setattr(f"flowcam_ns.alignment.revisits.{name}", value)
    truth = part.state.c2w
    c2w, scale = drifted(truth, 0.004, 0.01)
    wrong = replace(part.state, c2w=c2w, inverse_depth=part.state.inverse_depth / scale[:, None])
    closed, revisits = without_drift(video, replace(part, state=wrong), motion)
    assert revisits >= 2
    before, after = score_trajectory(c2w, truth), score_trajectory(closed.state.c2w, truth)
    assert after.ate_relative < 0.5 * before.ate_relative


def test_short_videos_are_left_alone(returning: tuple[Video, Part, np.ndarray]) -> None:
    video, part, motion = returning
    untouched = replace(video, features=cast(Features, None))
    assert without_drift(untouched, part, motion) == (part, 0)


def test_key_frames_are_evenly_spread_over_the_way_not_over_time() -> None:
    travelled = np.concatenate([np.linspace(0, 1, 101), np.full(50, 1.0), np.linspace(1, 3, 21)[1:]])
    keys = key_frames(travelled, list(range(len(travelled))))
    assert keys[:5] == [0, 25, 50, 75, 100]
    assert len([key for key in keys if 100 < key < 151]) == 0
    assert np.diff(travelled[keys]).max() < 0.4
