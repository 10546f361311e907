"""A start for the first window from its most distant pair of frames: the essential matrix that their flow obeys."""

from __future__ import annotations

import cv2
import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.lens import rays
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.geometry import se3

TRUSTED = 0.05
"""Weight from which flow takes part."""
MIN_POINTS = 20
NOISE = 1 / 512
"""Inlier distance, long sides."""
FARTHEST = 1e9
"""Points at any depth count, in baselines: of a slow camera all of them are far away."""
KERNELS = tuple(scale / 512 for scale in (64, 16, 4))


def two_view_start(problem: FlowProblem, lens: Float[Tensor, "lens"]) -> FlowState | None:
    """Poses and depths of a window's frames, from the essential matrix of one pair and even motion between the two.

    Needs a guess of the lens, and no guess of the motion. None where no pair has enough trustworthy flow.
    """
    row, slot = _widest_pair(problem)
    source, target = int(problem.sources[row]), int(problem.neighbours[row, slot])
    good = problem.confidence[row, slot] > TRUSTED
    if source == target or int(good.sum()) < MIN_POINTS:
        return None
    pixels = torch.stack([problem.points[row][:, good], problem.targets[row, slot][:, good]])
    here, there = rays(pixels.double(), lens).transpose(-1, -2).cpu().numpy()
    found = essential_motion(here, there, NOISE / float(lens[0].exp()))
    if found is None:
        return None
    motion, _ = found
    c2w = _even_motion(torch.from_numpy(motion).to(lens), source, target, len(problem.sources))
    distance = float(c2w[:, :3, 3].norm(dim=-1).max())
    depth = torch.full_like(problem.points[:, 0], 0.1 / distance, dtype=torch.float64)
    return triangulate(problem, FlowState(c2w, depth, lens), KERNELS)


def _widest_pair(problem: FlowProblem) -> tuple[int, int]:
    """Row and slot of the flow with the largest sum of trusted motion: far enough to have parallax, and well seen."""
    length = (problem.targets - problem.points[:, None]).norm(dim=-2)
    score = (length * problem.confidence).sum(-1)
    best = int(score.argmax())
    return best // score.shape[1], best % score.shape[1]


def essential_motion(
    here: Float[np.ndarray, "points 2"], there: Float[np.ndarray, "points 2"], noise: float
) -> tuple[Float[np.ndarray, "4 4"], Bool[np.ndarray, "points"]] | None:
    """T_there_here with a unit baseline, by RANSAC over rays (x/z, y/z), and which points agree and lie in front."""
    cv2.setRNGSeed(0)
    essential, inliers = cv2.findEssentialMat(here, there, np.eye(3), cv2.RANSAC, 0.999, noise, 300)
    if essential is None or essential.shape != (3, 3):
        return None
    # Left to itself it would discard what is deeper than 50 baselines.
    ahead, rotation, translation, inside, _ = cv2.recoverPose(
        essential, here, there, np.eye(3), distanceThresh=FARTHEST, mask=inliers
    )
    if ahead == 0:
        return None
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, translation[:, 0]
    return motion, np.asarray(inside)[:, 0] > 0


def _even_motion(
    target_source: Float[Tensor, "4 4"], source: int, target: int, frames: int
) -> Float[Tensor, "frames 4 4"]:
    """Poses that turn and move as much from one frame to the next as the two given ones say, frame 0 at the origin."""
    step = se3.inverse(target_source)
    share = (torch.arange(frames).to(step) - source) / (target - source)
    turn = roma.rotmat_to_rotvec(step[:3, :3])
    c2w = se3.exp(share[:, None] * torch.cat([step[:3, 3], turn]))
    return se3.inverse(c2w[0]) @ c2w
