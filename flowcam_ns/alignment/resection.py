"""The pose of one frame from matched features whose depths another frame knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from scipy.spatial import KDTree

from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.depths import triangulate
from flowcam_ns.alignment.lens import centred_pixels, rays
from flowcam_ns.alignment.linearize import reproduced
from flowcam_ns.alignment.measure import centred_points, flow_weight
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.pnp import solve_pnp
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.store import FlowStore

INLIER = 4 * PIXEL
"""A match agrees with a pose that projects it within this distance (long sides)."""
MIN_INLIERS, MIN_SHARE = 16, 0.35
"""Least number and share of the matches that must agree with the found pose."""
MIN_SPREAD = 0.035
"""The matches that agree must spread by so much (standard deviation, long sides) along both of their main directions,
in both frames: those on one small thing (a logo) are no proof."""
FAR = 0.02
"""Inverse depths below this share of the frame's median stand for points at infinity."""
AGREES = 3 * PIXEL
"""A feature's depth counts where flow to at least one neighbour agrees with it this well."""


@dataclass(frozen=True)
class KnownFeatures:
    """The features of one posed frame whose depths its flow to its neighbours tells."""

    which: Int[np.ndarray, "known"]
    """Their indices among the frame's features."""
    points_world: Float64[np.ndarray, "known 3"]
    """In the world of the part."""


@dataclass(frozen=True)
class Resection:
    """A frame posed by matches with a known frame."""

    known: int
    frame: int
    T_cam_world: Float64[np.ndarray, "4 4"]
    """The frame's pose in the known part's world."""
    points_world: Float64[np.ndarray, "inliers 3"]
    rays: Float64[np.ndarray, "inliers 2"]
    """Where the frame sees those points (x/z, y/z)."""
    which: Int[np.ndarray, "inliers"]
    """The frame's features that they are."""
    share: float
    """Of the matches that have a depth, so many agree with the pose."""


class KnownPart:
    """A part of the video whose surface can be asked for at features."""

    def __init__(self, store: FlowStore, features: Features, problem: FlowProblem, part: Part) -> None:
        """`problem` is the whole video's; its pairs of frames are those that depths come from."""
        self.store, self.features, self.problem, self.part = store, features, problem, part
        self._place = part.place()
        self._known: dict[int, KnownFeatures] = {}

    def grow_to(self, part: Part) -> None:
        """Go on with a part that holds more frames; those it had have stayed where they were."""
        self.part, self._place = part, part.place()

    def known(self, frame: int) -> KnownFeatures:
        """The features of a frame of the part that have a depth."""
        if frame not in self._known:
            self._known[frame] = self._triangulate(frame)
        return self._known[frame]

    def rays(self, frame: int) -> Float64[np.ndarray, "features 2"]:
        """Directions (x/z, y/z) of a frame's features under this part's lens; any frame of the video."""
        pixels = centred_pixels(torch.from_numpy(self.features.of(frame).points), self.store.width, self.store.height)
        return rays(pixels.double().T, self.part.state.lens).T.numpy()

    def _triangulate(self, frame: int) -> KnownFeatures:
        nothing = KnownFeatures(np.zeros(0, np.int64), np.zeros((0, 3)))
        points = self.features.of(frame).points
        others = [j for j in sorted(set(self.problem.neighbours[frame].tolist())) if j in self._place and j != frame]
        if not others or len(points) == 0:
            return nothing
        pairs = [(frame, j) for j in others]
        targets, confidence = self.store.sample(pairs, np.repeat(points[None], len(pairs), axis=0), per_pair=True)
        state = self.part.state
        at = self._place[frame]
        poses = [at, *(self._place[j] for j in others)]
        local = FlowProblem(
            sources=torch.tensor([0]),
            points=centred_points(points[None], self.store, torch.float64),
            neighbours=torch.arange(1, len(poses))[None],
            targets=centred_points(targets, self.store, torch.float64)[None],
            confidence=torch.from_numpy(flow_weight(confidence)).double()[None],
        )
        depth = state.inverse_depth[at].median().double()
        solved = self.problem.points[frame].double().T.numpy()
        nearest = KDTree(solved).query(local.points[0].T.numpy())[1]
        start = FlowState(state.c2w[poses], state.inverse_depth[at].double()[nearest][None], state.lens)
        found = triangulate(local, start, (16 * PIXEL, 4 * PIXEL, 2 * PIXEL))
        agrees = (reproduced(local, found, AGREES) & (local.confidence > 0)).any(1)[0]
        inverse = found.inverse_depth[0]
        which = torch.nonzero(agrees & (inverse > FAR * depth))[:, 0].numpy()
        ray = self.rays(frame)[which]
        points_cam = np.concatenate([ray, np.ones((len(which), 1))], axis=1) / inverse.numpy()[which, None]
        c2w = state.c2w[at].double().numpy()
        return KnownFeatures(which, points_cam @ c2w[:3, :3].T + c2w[:3, 3])


def resect(known: KnownPart, frame: int, by: int) -> Resection | None:
    """Pose `frame` by its matches with frame `by` of the known part; None where too few of them agree."""
    there, here = known.features.match(by, frame)
    surface = known.known(by)
    has_depth, place = np.isin(there, surface.which), np.searchsorted(surface.which, there)
    there, here, place = there[has_depth], here[has_depth], place[has_depth]
    if len(here) < MIN_INLIERS:
        return None
    points, ray = surface.points_world[place], known.rays(frame)[here]
    focal = float(known.part.state.lens[0].exp())
    pose = solve_pnp(points, ray, INLIER / focal)
    if pose is None:
        return None
    inside = agreement(points, ray, pose, INLIER / focal)
    spread = [_spread(known.rays(which)[rows] * focal) for which, rows in ((by, there[inside]), (frame, here[inside]))]
    if inside.sum() < max(MIN_INLIERS, MIN_SHARE * len(here)) or min(spread) < MIN_SPREAD:
        return None
    return Resection(by, frame, pose, points[inside], ray[inside], here[inside], float(inside.mean()))


def agreement(
    points: Float64[np.ndarray, "n 3"],
    ray: Float64[np.ndarray, "n 2"],
    pose: Float64[np.ndarray, "4 4"],
    tolerance: float,
) -> Bool[np.ndarray, "n"]:
    """Which points a camera-from-world pose projects to within `tolerance` of their rays."""
    cam = points @ pose[:3, :3].T + pose[:3, 3]
    depth = np.maximum(cam[:, 2:], 1e-9)
    return (cam[:, 2] > 0) & (np.linalg.norm(cam[:, :2] / depth - ray, axis=1) < tolerance)


def _spread(points: Float64[np.ndarray, "n 2"]) -> float:
    """Standard deviation along the narrower main direction."""
    if len(points) < 2:
        return 0.0
    return float(np.sqrt(max(np.linalg.eigvalsh(np.cov(points.T))[0], 0.0)))
