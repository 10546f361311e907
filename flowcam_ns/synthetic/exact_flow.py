"""The flow of a synthetic clip without any error: rays are cast into the scene instead of images compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int

from flowcam_ns.flow.store import FlowStore, Pair, Progress
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic.clip import ClipPlan
from flowcam_ns.synthetic.trace import trace_rays, unproject
from flowcam_ns.video.frames import Frames

OCCLUSION_TOLERANCE = 0.01
"""A point counts as seen where its depth agrees with the ray cast back, as a share."""


class ExactFlowStore(FlowStore):
    """A flow store whose samples are exact at any sub-pixel point; occluded and unseen points have confidence 0."""

    def __init__(self, plan: ClipPlan, frames: Frames) -> None:
        super().__init__(frames.images)
        self._plan = plan
        self._rows = rows_of(frames)
        self._c2w = plan.c2w[self._rows]

    def compute(self, pairs: Iterable[Pair], progress: Progress | None = None) -> None:
        """Nothing to do before samples are asked for."""

    def sample(
        self,
        pairs: Sequence[Pair],
        points: Float32[np.ndarray, "frames points 2"] | Float32[np.ndarray, "pairs points 2"],
        per_pair: bool = False,
        progress: Progress | None = None,
    ) -> tuple[Float32[np.ndarray, "pairs points 2"], Float32[np.ndarray, "pairs points"]]:
        """Exact targets, and confidence 1 where the point is seen in both frames."""
        points = np.asarray(points, dtype=np.float32)
        moved = [self._moved(i, j, points[row if per_pair else i]) for row, (i, j) in enumerate(pairs)]
        return np.stack([targets for targets, _ in moved]), np.stack([seen for _, seen in moved])

    def dense(
        self, i: int, j: int
    ) -> tuple[Float32[np.ndarray, "half_h half_w 2"], Float32[np.ndarray, "half_h half_w"]]:
        """Exact flow at every second pixel centre, as a share of the image's size."""
        flow, seen = self._plan.flow(int(self._rows[i]), int(self._rows[j]))
        share = flow[::2, ::2] / np.array([self.width, self.height], np.float32)
        return share, seen[::2, ::2].astype(np.float32)

    def _moved(
        self, i: int, j: int, points: Float32[np.ndarray, "points 2"]
    ) -> tuple[Float32[np.ndarray, "points 2"], Float32[np.ndarray, "points"]]:
        rays = unproject(self._plan.camera, points)
        depth, _ = trace_rays(self._plan.scene, rays, self._c2w[i])
        points_cam = np.stack([*rays * depth, depth], axis=-1)
        T_j_i = np.linalg.inv(self._c2w[j]) @ self._c2w[i]
        points_cam = points_cam @ T_j_i[:3, :3].T + T_j_i[:3, 3]
        front = points_cam[:, 2] > 1e-3
        points_cam[~front] = (0.0, 0.0, 1.0)
        targets = _projected(self._plan.camera, points_cam)
        seen = front & ((targets >= 0) & (targets <= (self.width, self.height))).all(-1)
        back, _ = trace_rays(self._plan.scene, unproject(self._plan.camera, targets), self._c2w[j])
        seen &= np.abs(back / points_cam[:, 2] - 1) < OCCLUSION_TOLERANCE
        return targets.astype(np.float32), seen.astype(np.float32)


def _projected(camera: Camera, points_cam: Float64[np.ndarray, "points 3"]) -> Float64[np.ndarray, "points 2"]:
    return camera.project(torch.from_numpy(points_cam)).numpy()


def rows_of(frames: Frames) -> Int[np.ndarray, "frames"]:
    """Which frame of the clip each decoded frame is."""
    return np.array([int(source) for source in frames.sources])
