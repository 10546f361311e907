"""Dense depth from flow: exact where flow is, robust where it is not, blind to held-out frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowcam_ns.alignment.dense_depth import dense_inverse_depth, pixel_grid
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

FRAMES, H, W = 7, 30, 40
CAMERA = Camera(W, H, 36.0, 36.0, 19.0, 15.5, k1=-0.05, k2=0.02, p1=0.001, p2=-0.002)


class PlaneFlow:
    """Exact flow of a slanted plane n . X = 1 (world frame; `normal` zero: infinitely far) seen by cameras `c2w`."""

    def __init__(self, c2w: torch.Tensor, normal: tuple[float, float, float]) -> None:
        self.c2w, self.normal = c2w, torch.tensor(normal, dtype=c2w.dtype)
        self.asked: set[int] = set()
        self.announced: set[tuple[int, int]] = set()
        self.broken: set[tuple[int, int]] = set()

    def inverse_depth(self, i: int) -> torch.Tensor:
        rays = CAMERA.unproject(pixel_grid(H, W, self.c2w)) @ self.c2w[i, :3, :3].T
        return (rays @ self.normal) / (1 - self.c2w[i, :3, 3] @ self.normal)

    def compute(self, pairs) -> None:
        self.announced |= set(pairs)

    def dense(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        assert (i, j) in self.announced
        self.asked |= {i, j}
        pixels = pixel_grid(H, W, self.c2w)
        T_j_i = se3.inverse(self.c2w[j]) @ self.c2w[i]
        points = CAMERA.unproject(pixels) @ T_j_i[:3, :3].T + self.inverse_depth(i)[..., None] * T_j_i[:3, 3]
        flow = (CAMERA.project(points) - pixels) / torch.tensor([W, H])
        if (i, j) in self.broken:
            flow = flow + 0.15
        return flow.float().numpy(), np.ones((H, W), np.float32)


def sideways(step: float = 0.05) -> torch.Tensor:
    tangent = torch.zeros(FRAMES, 6, dtype=torch.float64)
    tangent[:, 0] = torch.arange(FRAMES) * step
    tangent[:, 1] = (torch.arange(FRAMES) * step) ** 2
    tangent[:, 4] = torch.arange(FRAMES) * 0.02
    return se3.exp(tangent)


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return ((found - truth).abs() / truth)[2:-2, 2:-2]


def test_exact_flow_gives_exact_depth_through_a_distorting_lens() -> None:
    flows = PlaneFlow(sideways(), (0.1, 0.05, 0.4))
    inverse, confidence = dense_inverse_depth(flows.c2w, CAMERA, flows)
    for i in range(FRAMES):
        assert relative_error(inverse[i], flows.inverse_depth(i)).median() < 2e-3
    assert confidence[3].median() > 0.8


def test_one_wrong_flow_in_a_frame_is_outvoted() -> None:
    flows = PlaneFlow(sideways(), (0.0, 0.0, 0.4))
    flows.broken = {(3, 4)}
    inverse, _ = dense_inverse_depth(flows.c2w, CAMERA, flows)
    assert relative_error(inverse[3], flows.inverse_depth(3)).quantile(0.9) < 0.02


def test_a_far_background_lies_at_inverse_depth_zero() -> None:
    flows = PlaneFlow(sideways(), (0.0, 0.0, 0.0))
    inverse, _ = dense_inverse_depth(flows.c2w, CAMERA, flows)
    assert inverse.abs().max() < 1e-3


def test_held_out_frames_are_neither_asked_for_nor_filled() -> None:
    flows = PlaneFlow(sideways(), (0.0, 0.0, 0.4))
    usable = torch.ones(FRAMES, dtype=torch.bool)
    usable[3] = False
    inverse, confidence = dense_inverse_depth(flows.c2w, CAMERA, flows, usable)
    assert flows.asked == set(range(FRAMES)) - {3}
    assert inverse[3].abs().max() == confidence[3].max() == 0
    assert relative_error(inverse[2], flows.inverse_depth(2)).median() < 2e-3


def test_a_single_usable_frame_is_refused() -> None:
    flows = PlaneFlow(sideways(), (0.0, 0.0, 0.4))
    with pytest.raises(FlowCamError, match="at least two frames"):
        dense_inverse_depth(flows.c2w, CAMERA, flows, torch.arange(FRAMES) == 0)


class ExactFlow:
    """Flow of a synthetic clip without error; nothing is known where a point is hidden in the other frame."""

    def __init__(self, clip: SyntheticClip) -> None:
        self.clip = clip

    def compute(self, pairs) -> None:
        """Exact flow needs no time to be found."""

    def dense(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        flow, visible = self.clip.flow(i, j)
        size = np.array([self.clip.camera.width, self.clip.camera.height], np.float32)
        return np.nan_to_num(flow / size).astype(np.float32), visible.astype(np.float32)


def test_depth_of_the_synthetic_scene_is_within_the_goal_where_flow_is_exact() -> None:
    """3 % median and 10 % at the 90th percentile; with estimated flow scripts/benchmark_views.py measures it."""
    clip = make_clip("orbit", 1, frames=12, width=160, height=90)
    guide = torch.from_numpy(clip.rgb)
    inverse, _ = dense_inverse_depth(torch.from_numpy(clip.c2w), clip.camera, ExactFlow(clip), guide=guide)
    error = np.abs(inverse.numpy() * clip.depth - 1)
    assert np.median(error) < 0.03
    assert np.quantile(error, 0.9) < 0.10
