"""Writing estimated cameras into nerfstudio's `Cameras`, in place: the border between OpenCV and OpenGL axes."""

from __future__ import annotations

import torch
from jaxtyping import Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from flowcam_ns.geometry.se3 import opencv_to_opengl
from flowcam_ns.model.camera_optimizer import EstimatedCameras


@torch.no_grad()
def write_cameras(cameras: Cameras, frames: Int[Tensor, "cameras"], estimated: EstimatedCameras) -> None:
    """Give camera i of `cameras` the pose of frame `frames[i]` and the common lens at that camera's size."""
    poses = opencv_to_opengl(estimated.c2w[frames.cpu(), :3])
    cameras.camera_to_worlds.copy_(poses.to(cameras.camera_to_worlds))
    assert cameras.width is not None
    assert cameras.height is not None
    lens = estimated.camera.scaled_to(int(cameras.width[0]), int(cameras.height[0]))
    for target, value in ((cameras.fx, lens.fx), (cameras.fy, lens.fy), (cameras.cx, lens.cx), (cameras.cy, lens.cy)):
        target.fill_(value)
    assert cameras.distortion_params is not None
    # nerfstudio's order is k1, k2, k3, k4, p1, p2.
    distortion = [lens.k1, lens.k2, 0.0, 0.0, lens.p1, lens.p2]
    cameras.distortion_params.copy_(torch.tensor(distortion).to(cameras.distortion_params).expand(len(frames), 6))
