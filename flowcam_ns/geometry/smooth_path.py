"""A steady flight along shaky cameras: what shakes faster than a given period is filtered out of a trajectory."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.interpolate import make_smoothing_spline
from scipy.spatial.transform import Rotation

LEAST_CAMERAS = 5
"""Fewer carry no smoothing spline."""


def smooth_path(
    c2w: Float[np.ndarray, "frames 4 4"],
    seconds: Float[np.ndarray, "frames"],
    views: int,
    period: float,
) -> Float[np.ndarray, "views 4 4"]:
    """`views` poses, even in time from the first camera to the last, of a path without the cameras' shaking.

    Positions and quaternions are cubic smoothing splines over time. Such a spline is a low-pass filter: it passes
    1 / (1 + penalty w^4) of an oscillation of angular frequency w where samples are one time unit apart (Silverman
    1984), so that the penalty for a given period of half the strength is known. Quaternions are filtered with one sign
    and normalised again, which is a rotation's mean wherever neighbours are closer than 180 degrees.

    Args:
        c2w: Camera-to-world poses in temporal order; the camera's axes may be any.
        seconds: When each was taken, ascending; gaps are bridged.
        views: How many poses are wanted.
        period: Oscillations of this period (seconds) are halved, faster ones vanish, slower ones stay.

    Raises:
        ValueError: fewer than five cameras, times that do not ascend, or a period that is not positive.
    """
    if len(c2w) < LEAST_CAMERAS:
        raise ValueError(f"a smoothed path needs {LEAST_CAMERAS} cameras or more, there are {len(c2w)}")
    step = np.diff(seconds)
    if not (step > 0).all() or period <= 0:
        raise ValueError("times must ascend, and the period must be positive")
    # In units of the usual step between cameras, so that the filter means the same for every frame rate.
    unit = float(np.median(step))
    times = (seconds - seconds[0]) / unit
    penalty = (period / unit / (2 * math.pi)) ** 4
    wanted = np.linspace(times[0], times[-1], views)
    columns = np.concatenate([c2w[:, :3, 3], _continuous_quaternions(c2w[:, :3, :3])], axis=1)
    smooth = np.stack([make_smoothing_spline(times, column, lam=penalty)(wanted) for column in columns.T], axis=1)
    path = np.tile(np.eye(4), (views, 1, 1))
    path[:, :3, :3] = Rotation.from_quat(smooth[:, 3:]).as_matrix()
    path[:, :3, 3] = smooth[:, :3]
    return path


def _continuous_quaternions(rotations: Float[np.ndarray, "frames 3 3"]) -> Float[np.ndarray, "frames 4"]:
    """Of the two quaternions of each rotation the one nearer to its predecessor's."""
    quaternions = Rotation.from_matrix(rotations).as_quat()
    flips = (quaternions[1:] * quaternions[:-1]).sum(1) < 0
    signs = np.where(np.cumsum(flips) % 2 == 1, -1.0, 1.0)
    quaternions[1:] *= signs[:, None]
    return quaternions
