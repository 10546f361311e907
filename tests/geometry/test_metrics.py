"""Pose scores: equal to evo's where evo has them, invariant where they must be, and honest about what is missing."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.metrics import (
    auc,
    constant_velocity_baseline,
    frame_errors,
    pair_errors_deg,
    score_trajectory,
)
from flowcam_ns.geometry.se3 import exp, inverse
from flowcam_ns.geometry.trajectory import Sim3

seeds = st.integers(0, 10**6)


def walk(seed: int, frames: int = 25, noise: float = 0.0) -> torch.Tensor:
    """A smooth random trajectory, with noise on top from another random stream."""
    steps = 0.2 * torch.randn(frames, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    c2w = exp(steps.cumsum(0))
    shake = noise * torch.randn(frames, 6, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return c2w @ exp(shake)


def moved_world(c2w: torch.Tensor, seed: int, scale: float) -> torch.Tensor:
    T = exp(torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return Sim3(torch.tensor(scale, dtype=torch.float64), T[:3, :3], T[:3, 3]).apply_c2w(c2w)


def figures(estimate: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """The scores that are defined without a lens."""
    return {key: value for key, value in score_trajectory(estimate, truth).as_dict().items() if value is not None}


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_scores_do_not_depend_on_the_estimates_world(seed: int, scale: float) -> None:
    estimate, truth = walk(seed, noise=0.05), walk(seed)
    moved = moved_world(estimate, seed, scale)
    assert figures(moved, truth) == pytest.approx(figures(estimate, truth), rel=1e-6)


def test_a_perfect_estimate_scores_perfectly() -> None:
    camera = Camera.from_focal(640, 480, 500)
    truth = walk(0)
    scores = score_trajectory(moved_world(truth, 1, 4.0), truth, camera=camera, truth_camera=camera.scaled_to(320, 240))
    assert scores.ate_relative < 1e-9
    assert scores.max_rotation_deg < 1e-5
    assert scores.auc_5 == pytest.approx(1, abs=1e-5)
    assert scores.focal_error_percent == pytest.approx(0)
    assert (scores.frames, scores.posed) == (25, 25)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ate_and_pair_errors_are_evos(seed: int) -> None:
    pytest.importorskip("evo.core")
    from evo.core import metrics
    from evo.core.trajectory import PosePath3D

    truth = walk(seed)
    estimate = moved_world(walk(seed, noise=0.1), seed + 7, 0.3)
    paths = [PosePath3D(poses_se3=[np.array(pose) for pose in c2w.numpy()]) for c2w in (truth, estimate)]
    paths[1].align(paths[0], correct_scale=True)
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((paths[0], paths[1]))
    scores = score_trajectory(estimate, truth)
    assert scores.ate == pytest.approx(ape.get_statistic(metrics.StatisticsType.rmse), rel=1e-6)
    assert scores.max_position_relative == pytest.approx(ape.get_statistic(metrics.StatisticsType.max) / frame_errors(
        estimate, truth).radius, rel=1e-6)  # fmt: skip

    rpe = metrics.RPE(metrics.PoseRelation.rotation_angle_deg, delta=1, all_pairs=True)
    rpe.process_data((paths[0], paths[1]))
    rotation, _ = pair_errors_deg(estimate, truth)
    i, j = torch.triu_indices(25, 25, offset=1)
    np.testing.assert_allclose(rotation[j - i == 1].numpy(), rpe.error, rtol=1e-6)


def test_direction_error_is_the_angle_between_baselines_seen_from_the_first_camera() -> None:
    truth, estimate = walk(3, 6), walk(3, 6, noise=0.2)
    _, direction = pair_errors_deg(estimate, truth)
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    for (i, j), error in zip(pairs, direction.tolist(), strict=True):
        a, b = ((inverse(c2w[i]) @ c2w[j])[:3, 3] for c2w in (estimate, truth))
        assert error == pytest.approx(float(torch.rad2deg(torch.acos(a @ b / a.norm() / b.norm()))), abs=1e-4)


def test_no_true_baseline_counts_rotation_alone_and_a_missing_one_counts_fully() -> None:
    truth = walk(4, 3)
    truth[1, :3, 3] = truth[0, :3, 3]
    estimate = truth.clone()
    estimate[1, :3, 3] += 0.1
    assert pair_errors_deg(estimate, truth)[1][0] == 0
    estimate = truth.clone()
    estimate[2, :3, 3] = estimate[0, :3, 3]
    estimate[1, :3, 3] += 1.0
    assert pair_errors_deg(estimate, truth)[1][1] == 180


def test_auc_is_the_area_under_the_recall_curve() -> None:
    errors = torch.tensor([0.0, 1.0, 2.0, 7.0])
    grid = torch.linspace(0, 5, 100_001)
    recall = (errors[None] <= grid[:, None]).float().mean(-1)
    assert auc(errors, 5.0) == pytest.approx(float(recall.mean()), abs=1e-4)
    assert auc(errors, 5.0, count=8) == pytest.approx(auc(errors, 5.0) / 2)


def test_unposed_frames_cost_recall_but_do_not_spoil_the_rest() -> None:
    truth = walk(5, 20)
    estimate = truth.clone()
    estimate[0] = torch.eye(4)
    posed = torch.arange(20) > 0
    scores = score_trajectory(estimate, truth, posed)
    assert (scores.frames, scores.posed) == (20, 19)
    assert scores.ate_relative < 1e-9
    assert scores.auc_5 == pytest.approx(18 / 20, abs=1e-5)  # 19 * 18 of 20 * 19 pairs


def test_frames_without_truth_are_left_out() -> None:
    truth, estimate = walk(6, 20), walk(6, 20, noise=0.02)
    holes = truth.clone()
    holes[5:10] = float("nan")
    keep = torch.cat([torch.arange(5), torch.arange(10, 20)])
    assert figures(estimate, holes) == pytest.approx(figures(estimate[keep], truth[keep]), rel=1e-9)


@pytest.mark.parametrize("posed_count", [0, 1, 2])
def test_too_few_posed_frames_give_no_false_figures(posed_count: int) -> None:
    truth = walk(7, 10)
    scores = score_trajectory(truth, truth, torch.arange(10) < posed_count)
    assert scores.auc_30 == pytest.approx(posed_count * (posed_count - 1) / 90, abs=1e-5)
    assert json.loads(json.dumps(scores.as_dict(), allow_nan=False))["posed"] == posed_count
    if posed_count == 0:
        assert scores.as_dict()["ate"] is None


def test_standing_truth_has_no_relative_ate() -> None:
    truth = walk(8, 10)
    truth[:, :3, 3] = 1.0
    scores = score_trajectory(truth, truth).as_dict()
    assert scores["ate_relative"] is None
    assert scores["mean_pair_rotation_deg"] == pytest.approx(0, abs=1e-5)


def test_constant_velocity_is_right_about_a_straight_drive_and_wrong_about_a_turn() -> None:
    assert score_trajectory(constant_velocity_baseline(20), constant_velocity_baseline(20) * 1.0).auc_5 > 0.999
    assert score_trajectory(constant_velocity_baseline(25), walk(9)).auc_5 < 0.5


def test_a_thousand_frames_are_scored_in_seconds() -> None:
    truth = walk(10, 1000)
    start = time.perf_counter()
    scores = score_trajectory(truth, truth)
    assert scores.auc_5 > 0.99
    assert time.perf_counter() - start < 20


def test_focal_error_compares_at_one_size() -> None:
    truth = Camera.from_focal(640, 480, 500)
    scores = score_trajectory(walk(0), walk(0), camera=Camera.from_focal(320, 240, 255), truth_camera=truth)
    assert scores.focal_error_percent == pytest.approx(2)
