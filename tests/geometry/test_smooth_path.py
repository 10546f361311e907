"""A smoothed camera path: shaking goes, the way stays, and nothing jumps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowcam_ns.geometry.smooth_path import smooth_path

FPS = 30.0
SECONDS = np.arange(120) / FPS


def cameras(centres: np.ndarray, yaw_deg: np.ndarray) -> np.ndarray:
    c2w = np.tile(np.eye(4), (len(centres), 1, 1))
    c2w[:, :3, :3] = Rotation.from_euler("y", yaw_deg[:, None], degrees=True).as_matrix()
    c2w[:, :3, 3] = centres
    return c2w


def straight_walk() -> np.ndarray:
    return np.stack([SECONDS, np.zeros(120), np.zeros(120)], axis=1)


def yaw_of(path: np.ndarray) -> np.ndarray:
    return np.unwrap(Rotation.from_matrix(path[:, :3, :3]).as_euler("yxz", degrees=True)[:, 0], period=360)


def test_an_even_way_stays_as_it_is_from_end_to_end() -> None:
    given = cameras(straight_walk(), 20 * SECONDS)
    assert smooth_path(given, SECONDS, 120, period=1.0) == pytest.approx(given, abs=1e-3)


@pytest.mark.parametrize(("shaking_period", "left"), [(0.2, 0.02), (1.0, 0.5), (4.0, 0.99)])
def test_shaking_is_damped_by_its_period(shaking_period: float, left: float) -> None:
    """Away from the ends, where the filter sees both sides."""
    shaking = np.sin(2 * np.pi * SECONDS / shaking_period)
    centres = straight_walk()
    centres[:, 2] = shaking
    path = smooth_path(cameras(centres, 3 * shaking), SECONDS, 120, period=1.0)
    middle = slice(30, 90)
    strength = np.linalg.norm(shaking[middle])
    assert np.linalg.norm(path[middle, 2, 3]) / strength == pytest.approx(left, abs=0.06)
    assert np.linalg.norm(yaw_of(path)[middle]) / (3 * strength) == pytest.approx(left, abs=0.06)


def test_every_pose_is_rigid_and_steps_are_even_at_any_number_of_views() -> None:
    rng = np.random.default_rng(0)
    shaken = cameras(straight_walk() + rng.normal(0, 0.01, (120, 3)), 60 * SECONDS + rng.normal(0, 1, 120))
    path = smooth_path(shaken, SECONDS, 500, period=1.0)
    R = path[:, :3, :3]
    assert R @ R.transpose(0, 2, 1) == pytest.approx(np.tile(np.eye(3), (500, 1, 1)), abs=1e-9)
    assert np.linalg.det(R) == pytest.approx(np.ones(500))
    steps = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 1.3 * steps.mean()
    assert np.diff(yaw_of(path)).min() > 0, "a full turn and more, through the quaternions' change of sign"


def test_missing_frames_are_bridged() -> None:
    kept = np.r_[0:40, 70:120]
    path = smooth_path(cameras(straight_walk(), 10 * SECONDS)[kept], SECONDS[kept], 120, period=0.5)
    assert path[:, 0, 3] == pytest.approx(SECONDS, abs=0.02)


def test_what_cannot_be_smoothed_is_refused() -> None:
    given = cameras(straight_walk(), 0 * SECONDS)
    with pytest.raises(ValueError, match="5 cameras"):
        smooth_path(given[:4], SECONDS[:4], 10, period=1.0)
    with pytest.raises(ValueError, match="ascend"):
        smooth_path(given, SECONDS[::-1], 10, period=1.0)
    with pytest.raises(ValueError, match="positive"):
        smooth_path(given, SECONDS, 10, period=0.0)
