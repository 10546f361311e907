"""Feed-forward poses of a whole video: overlapping windows, one after the other, chained in one scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model import scene_flow
from flowcam_ns.model.clip_training import NetworkVideo
from flowcam_ns.model.flowcam_network import FlowCamNetwork

WINDOW = 16
"""Frames the network sees at once; neighbouring windows share one."""
STRIDE = 3
"""Surfaces are computed at every so many rows and columns."""
NEAREST = 1e-6
"""Network units: no surface lies nearer than this."""


@dataclass
class PosedWindow:
    """What the network says about the frames from `start` on."""

    start: int
    relative: Float[Tensor, "pairs 4 4"]
    """T(t <- t + 1) of neighbours."""
    inverse_depth: Float[Tensor, "frames rays"]
    """1 / z of every frame's surfaces at the rays, in the network's units."""
    disagreement: Float[Tensor, "pairs rays"]
    """How far, as a share, the later frame's depths differ from the earlier one's for the same points."""
    flow_error: Float[Tensor, "pairs rays"]
    """Length of the flow that the motion leaves unexplained, fractions of the image."""


def pixel_grid(height: int, width: int, stride: int, device: torch.device | str) -> Int[Tensor, "rays"]:
    """Row-major indices of every `stride`-th row and column."""
    grid = torch.arange(height * width, device=device).reshape(height, width)
    return grid[stride // 2 :: stride, stride // 2 :: stride].flatten()


def pose_windows(
    network: FlowCamNetwork, video: NetworkVideo, stride: int = STRIDE, window: int = WINDOW
) -> Iterator[PosedWindow]:
    """Window after window, in temporal order; a window is computed when it is asked for.

    Windows share a frame. Its features are the same in both, because every frame but the first sees its own flow: so
    surfaces, and with them the scale, carry over from each window to the next without any fit.
    """
    height, width = video.frames.shape[-2:]
    rays = pixel_grid(height, width, stride, video.frames.device)
    count = len(video.frames)
    for start in range(0, count - 1, window - 1):
        clip = video.clip(start, min(window, count - start))
        was_training = network.training
        network.eval()
        with torch.no_grad():
            motion = network.estimate_motion(clip, rays)
        network.train(was_training)
        depth = motion.surfaces.points[0, ..., 2].clamp(min=NEAREST)
        expected = se3.transform(motion.relative[:, :, None], motion.later.points)[0, ..., 2].clamp(min=NEAREST)
        found = motion.partner_surfaces.points[0, ..., 2].clamp(min=NEAREST)
        yield PosedWindow(
            start,
            motion.relative[0],
            1 / depth,
            disagreement=(found / expected).log().abs(),
            flow_error=(motion.flow_from_pose - motion.flow)[0].norm(dim=-1),
        )


def relative_poses_of_video(
    network: FlowCamNetwork, video: NetworkVideo, stride: int = STRIDE, window: int = WINDOW
) -> Float[Tensor, "pairs 4 4"]:
    """T(t <- t + 1) of all neighbours."""
    return torch.cat([part.relative for part in pose_windows(network, video, stride, window)])


def chain_poses(relative: Float[Tensor, "pairs 4 4"]) -> Float[Tensor, "frames 4 4"]:
    """Camera-to-world of all frames in the first one's camera, float64, rotations kept orthonormal."""
    return scene_flow.chain(se3.orthonormalized(relative.double())[None])[0]


def network_poses(network: FlowCamNetwork, video: NetworkVideo, stride: int = STRIDE) -> Float[Tensor, "frames 4 4"]:
    """The network's own trajectory of a video: chained camera-to-world poses (OpenCV axes), frame 0 at the identity."""
    return chain_poses(relative_poses_of_video(network, video, stride))
