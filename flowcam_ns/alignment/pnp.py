"""The pose of a camera from points of the world and where it sees them, by samples of four: needs no start."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float64

TRIALS = 500
SMALLEST = 4
"""Points that must agree for a pose to count."""


def solve_pnp(
    points: Float64[np.ndarray, "n 3"],
    ray: Float64[np.ndarray, "n 2"],
    tolerance: float,
    trials: int = TRIALS,
    refine: bool = True,
) -> Float64[np.ndarray, "4 4"] | None:
    """Camera-from-world pose that projects most points within `tolerance` of their rays (x/z, y/z); None if none.

    The best of so many `trials`; unless not to `refine`, then fitted to all the points that agree with it.
    """
    straight, none = np.eye(3), np.zeros(4)
    found, turn, shift, inside = cv2.solvePnPRansac(
        points, ray, straight, none, iterationsCount=trials, reprojectionError=tolerance, flags=cv2.SOLVEPNP_AP3P
    )
    if not found or inside is None or len(inside) < SMALLEST:
        return None
    if refine:
        kept = np.asarray(inside, np.intp)[:, 0]
        turn, shift = cv2.solvePnPRefineLM(points[kept], ray[kept], straight, none, turn, shift)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
    return pose if np.isfinite(pose).all() else None
