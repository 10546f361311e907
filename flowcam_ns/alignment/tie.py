"""Two parts of a video put into one world: by frames of the one whose features the other knows the place of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.optimize import least_squares
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowState
from flowcam_ns.alignment.resection import INLIER, MIN_INLIERS, KnownPart, Resection, agreement

RANSAC_SLACK = 2.0
"""The motion that one frame tells explains another's matches less exactly than that frame's own: so many tolerances."""
MIN_SHARE = 0.5
"""Share of all frames' matches that one motion of the whole part must explain."""
DEPTH_SPREAD = 0.1
"""Standard deviation of a feature's depth in one part, relative to the other's."""
NEAREST = 6
"""Features whose depths give that of a point of a frame that stands alone."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale R x + t."""

    scale: float
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, "3"]

    def camera_pose(self, T_cam_world: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
        """Camera-from-world in the world that this leads to; depths there are `scale` times as long."""
        pose = np.eye(4)
        pose[:3, :3] = T_cam_world[:3, :3] @ self.rotation.T
        pose[:3, 3] = self.scale * T_cam_world[:3, 3] - pose[:3, :3] @ self.translation
        return pose


def tie_part(known: KnownPart, other: KnownPart, seen: list[Resection]) -> Part | None:
    """The other part in the known one's world, from its frames that `seen` poses there; None where they disagree."""
    if not seen:
        return None
    matches = [_Matches.of(other, resection) for resection in seen]
    tolerance = tolerance_under(known.part.state.lens)
    starts = [match.similarity() for match in matches if match.scale is not None]
    if not starts:
        return None

    def agreeing(motion: Similarity) -> int:
        return sum(int(match.agreement(motion, tolerance).sum()) for match in matches)

    best = _refined(max(starts, key=agreeing), matches, tolerance)
    if agreeing(best) < max(MIN_INLIERS, MIN_SHARE * sum(len(match.ray) for match in matches)):
        return None
    return moved(other.part, best, known.part.state.lens)


def tolerance_under(lens: Float[Tensor, "lens"]) -> float:
    """How far (x/z, y/z) a match may lie from where a motion puts it that was told by other matches."""
    return RANSAC_SLACK * INLIER / float(lens[0].exp())


def scale_seen(other: KnownPart, resection: Resection) -> float | None:
    """The known world's units in one of those that the resected frame's own depths have; None where too few tell."""
    return _Matches.of(other, resection).scale


def moved(part: Part, motion: Similarity, lens: Float[Tensor, "lens"]) -> Part:
    """A part in another world, under the lens that holds there."""
    c2w = part.state.c2w.clone()
    rotation = torch.from_numpy(motion.rotation).to(c2w)
    c2w[:, :3, :3] = rotation @ part.state.c2w[:, :3, :3]
    centre = part.state.c2w[:, :3, 3] @ rotation.T
    c2w[:, :3, 3] = motion.scale * centre + torch.from_numpy(motion.translation).to(c2w)
    return Part(part.frames, FlowState(c2w, part.state.inverse_depth / motion.scale, lens))


def tie_frame(known: KnownPart, seen: list[Resection], points: Float64[np.ndarray, "points 2"]) -> Part:
    """One frame in the known part's world: the pose with the most matches, depths from the features around each point.

    `points` are the frame's points as rays (x/z, y/z); all of `seen` are of this frame.
    """
    best = max(seen, key=lambda resection: len(resection.rays))
    tolerance = tolerance_under(known.part.state.lens)
    rays, inverse = [], []
    for resection in seen:
        kept = agreement(resection.points_world, resection.rays, best.T_cam_world, tolerance)
        rays.append(resection.rays[kept])
        inverse.append(1 / _depth(resection.points_world[kept], best.T_cam_world))
    tree, all_inverse = KDTree(np.concatenate(rays)), np.concatenate(inverse)
    distance, nearest = tree.query(points, k=min(NEAREST, len(all_inverse)))
    weight = 1 / (distance + 1e-3)
    depth = (weight * all_inverse[nearest]).sum(-1) / weight.sum(-1)
    state = known.part.state
    c2w = torch.from_numpy(np.linalg.inv(best.T_cam_world)).to(state.c2w)
    return Part(
        torch.tensor([best.frame]),
        FlowState(c2w[None], torch.from_numpy(depth).to(state.inverse_depth)[None], state.lens),
    )


@dataclass(frozen=True)
class _Matches:
    """What one resected frame says about the motion of its part."""

    points_world: Float64[np.ndarray, "n 3"]
    """In the known world."""
    ray: Float64[np.ndarray, "n 2"]
    T_cam_known: Float64[np.ndarray, "4 4"]
    """The frame's pose in the known world, by itself."""
    T_cam_own: Float64[np.ndarray, "4 4"]
    """Its pose in its part's world."""
    own_depth: Float64[np.ndarray, "n"]
    """Depths of the points as its part has them; NaN where it has none."""
    scale: float | None
    """Known world's units in one of the part's, as this frame sees it."""

    @classmethod
    def of(cls, other: KnownPart, resection: Resection) -> _Matches:
        at = other.part.place()[resection.frame]
        T_cam_own = np.linalg.inv(other.part.state.c2w[at].double().numpy())
        surface = other.known(resection.frame)
        own = np.full(len(other.features.of(resection.frame).points), np.nan)
        own[surface.which] = _depth(surface.points_world, T_cam_own)
        own = own[resection.which]
        ratio = _depth(resection.points_world, resection.T_cam_world) / own
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        scale = float(np.median(ratio)) if len(ratio) >= MIN_INLIERS // 2 else None
        return cls(resection.points_world, resection.rays, resection.T_cam_world, T_cam_own, own, scale)

    def similarity(self) -> Similarity:
        """The motion of the part that puts this frame where it was resected."""
        assert self.scale is not None
        known = np.linalg.inv(self.T_cam_known)
        own = np.linalg.inv(self.T_cam_own)
        rotation = known[:3, :3] @ own[:3, :3].T
        return Similarity(self.scale, rotation, known[:3, 3] - self.scale * rotation @ own[:3, 3])

    def agreement(self, motion: Similarity, tolerance: float) -> np.ndarray:
        return agreement(self.points_world, self.ray, motion.camera_pose(self.T_cam_own), tolerance)

    def residuals(self, motion: Similarity, kept: np.ndarray, tolerance: float) -> np.ndarray:
        """Distances of the rays in tolerances, and of the depths in their standard deviations."""
        cam = self.points_world[kept] @ (pose := motion.camera_pose(self.T_cam_own))[:3, :3].T + pose[:3, 3]
        depth = np.maximum(cam[:, 2], 1e-9)
        rays = (cam[:, :2] / depth[:, None] - self.ray[kept]) / tolerance
        ratio = np.log(np.maximum(motion.scale * self.own_depth[kept], 1e-9) / depth) / DEPTH_SPREAD
        return np.concatenate([rays.ravel(), np.nan_to_num(ratio)])


def _refined(start: Similarity, matches: list[_Matches], tolerance: float) -> Similarity:
    """Robust least squares over all frames' agreeing matches."""
    kept = [match.agreement(start, tolerance) for match in matches]

    def motion(step: np.ndarray) -> Similarity:
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        scale = start.scale * float(np.exp(step[6]))
        return Similarity(scale, turn @ start.rotation, start.translation + step[3:6] * start.scale)

    def residuals(step: np.ndarray) -> np.ndarray:
        now = motion(step)
        return np.concatenate([m.residuals(now, k, tolerance) for m, k in zip(matches, kept, strict=True)])

    return motion(least_squares(residuals, np.zeros(7), loss="soft_l1", f_scale=0.3, max_nfev=50).x)


def _depth(points_world: Float64[np.ndarray, "n 3"], T_cam_world: Float64[np.ndarray, "4 4"]) -> np.ndarray:
    return points_world @ T_cam_world[2, :3] + T_cam_world[2, 3]
