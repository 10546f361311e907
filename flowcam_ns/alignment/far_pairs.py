"""Pairs of distant frames: chosen by the overlap that a first solution predicts, measured by guided flow.

Frame-to-frame flow drifts; flow over long baselines, and between the two ends of a loop, does not. It cannot be had
from the images alone, but a rough solution says where every pixel should be, and flow corrects that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from flowcam_ns.alignment.lens import camera_from_lens, project, rays
from flowcam_ns.alignment.linearize import MIN_DEPTH_RATIO
from flowcam_ns.alignment.measure import GOOD, Measurements, Pair
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.flow.guided import Prediction, sample_guided
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3

MIN_OVERLAP = 0.3
"""Share of a frame's points that must be seen by another for the two to be compared."""
FEW = 6
"""One in so many points says whether two frames see anything in common at all."""
MAX_ZOOM = 1.6
"""Largest change of a point's distance between two frames that are compared: flow does not match scales."""
LEVEL_RATIO = 1.5
"""Each frame is paired over distances that grow by this factor."""
EVERY = 3
"""One of so many frames is paired."""
MIN_SUPPORT = 0.08
"""Share of a pair's points that must have trustworthy flow for the pair to count."""
GRID_STEP = 8
"""A predicted flow is computed for every so many px of the flow image and interpolated."""


def choose_far_pairs(
    problem: FlowProblem, state: FlowState, known: set[Pair], progress: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """Pairs (i < j) beyond those `known` whose views overlap, over growing distances: the best of each step."""
    frames = len(problem.sources)
    reach = max((j - i for i, j in known), default=1)
    pairs: list[Pair] = []
    for i in range(0, frames, EVERY):
        overlap = overlaps(problem, state, i)
        low = 1.5 * reach / LEVEL_RATIO
        while i + int(low * LEVEL_RATIO) < frames:
            low *= LEVEL_RATIO
            span = torch.arange(i + int(low), min(i + int(low * LEVEL_RATIO), frames))
            best = int(span[overlap[span].argmax()])
            if float(overlap[best]) >= MIN_OVERLAP:
                pairs.append((i, best))
        if progress is not None:
            progress(i + 1, frames)
    return [pair for pair in pairs if pair not in known]


def overlaps(problem: FlowProblem, state: FlowState, source: int) -> Float[Tensor, "frames"]:
    """For every frame: the share of `source`'s points that it sees from a similar distance; the lesser of both ways."""
    lens = state.lens
    half = problem.points.abs().amax(dim=(0, 2)).to(lens) * 1.02
    relative = se3.inverse(state.c2w) @ state.c2w[source]
    points, depth = problem.points[source], state.inverse_depth[source]
    # Most frames of a long video see nothing of the source: a few of its points tell.
    near = _visible(points[:, ::FEW], depth[::FEW], relative, lens, half).nonzero()[:, 0]
    there = _visible(points, depth, relative[near], lens, half)
    ray_back, depth_back = problem.points[near, :, ::4], state.inverse_depth[near, ::4]
    back = _visible(ray_back, depth_back, se3.inverse(relative[near]), lens, half)
    return there.new_zeros(len(relative)).index_copy_(0, near, torch.minimum(there, back))


def _visible(
    points: Float[Tensor, "*frames 2 points"],
    inverse_depth: Float[Tensor, "*frames points"],
    relative: Float[Tensor, "frames 4 4"],
    lens: Float[Tensor, "lens"],
    half: Float[Tensor, "2"],
) -> Float[Tensor, "frames"]:
    ray = rays(points.to(lens), lens)
    homogeneous = torch.cat([ray, torch.ones_like(ray[..., :1, :]), inverse_depth[..., None, :].to(lens)], dim=-2)
    y = relative[:, :3] @ homogeneous
    z = y[:, 2]
    pixel = project(y[:, :2] / z[:, None].clamp(min=MIN_DEPTH_RATIO), lens)
    seen = (pixel.abs() <= half[:, None]).all(1) & (z < MAX_ZOOM) & (z > 1 / MAX_ZOOM)
    return seen.to(lens.dtype).mean(-1)


class FlowPrediction:
    """Flow that a solution predicts between any two of its frames, from depths interpolated between its points."""

    def __init__(
        self, store: FlowStore, points: Float32[np.ndarray, "posed points 2"], frames: Sequence[int], state: FlowState
    ) -> None:
        """`frames` are the video's frames that the rows of `points` (px) and of `state` speak of."""
        self._size = store.flow_height, store.flow_width
        self._state = state
        self._place = {frame: place for place, frame in enumerate(frames)}
        self._camera = camera_from_lens(state.lens, store.width, store.height)
        rows, columns = (max(2, round(side / GRID_STEP)) for side in self._size)
        depth = state.inverse_depth.float().cpu().numpy()
        scale = np.array([columns / store.width, rows / store.height], np.float32)
        self._depth = [_fill(points[i] * scale, depth[i], rows, columns) for i in range(len(points))]
        y, x = np.mgrid[:rows, :columns].astype(np.float32) + 0.5
        self._pixels = torch.from_numpy(np.stack([x, y], axis=-1) / scale).double()
        self._rays = self._camera.unproject(self._pixels)
        self._to_flow = torch.from_numpy(store.scale).double()

    def __call__(self, i: int, j: int) -> Float32[np.ndarray, "h w 2"]:
        """Predicted flow from frame i to j, px of the flow image."""
        source, target = self._place[i], self._place[j]
        relative = se3.inverse(self._state.c2w[target]) @ self._state.c2w[source]
        depth = torch.from_numpy(self._depth[source]).double()
        y = self._rays @ relative[:3, :3].T + depth[..., None] * relative[:3, 3]
        y[..., 2].clamp_(min=MIN_DEPTH_RATIO)
        flow = ((self._camera.project(y) - self._pixels) * self._to_flow).float().numpy()
        height, width = self._size
        return cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)


def _fill(
    points: Float32[np.ndarray, "points 2"], depth: Float32[np.ndarray, "points"], rows: int, columns: int
) -> Float32[np.ndarray, "rows columns"]:
    """Inverse depths of scattered points (in cells of the grid) on every cell: local means, outliers clipped."""
    low, high = np.quantile(depth, (0.02, 0.98))
    x = np.clip(points[:, 0].astype(int), 0, columns - 1)
    y = np.clip(points[:, 1].astype(int), 0, rows - 1)
    total, weight = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    np.add.at(total, (y, x), np.clip(depth, low, high))
    np.add.at(weight, (y, x), 1)
    filled, reached = np.zeros_like(total), np.zeros_like(weight)
    for sigma, share in ((1.0, 1.0), (3.0, 1e-3), (12.0, 1e-6)):
        filled += share * cv2.GaussianBlur(total, (0, 0), sigma)
        reached += share * cv2.GaussianBlur(weight, (0, 0), sigma)
    return filled / np.maximum(reached, 1e-20)


def measure_far_pairs(
    store: FlowStore,
    points: Float32[np.ndarray, "frames points 2"],
    predict: Prediction,
    pairs: Sequence[Pair],
    progress: Callable[[int, int], None] | None = None,
) -> Measurements:
    """Guided flow of pairs, both ways, leaving out those that turn out not to match.

    Args:
        store: the flow images of all frames.
        points: every frame's points, px.
        predict: leads the search.
        pairs: pairs of the video's frames.
        progress: called with (pairs done, pairs in all).
    """
    directed = [*pairs, *((j, i) for i, j in pairs)]
    targets, confidence = sample_guided(store, directed, points, predict, progress)
    kept = np.nonzero((confidence > GOOD).mean(axis=1) > MIN_SUPPORT)[0]
    return Measurements([directed[row] for row in kept], targets[kept], confidence[kept])
