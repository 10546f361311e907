"""Feed-forward poses of a whole video: overlapping windows, one after the other, chained in one scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model import scene_flow
from flowcam_ns.model.alignment_loss import scaled_poses
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.clip_training import NetworkVideo
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.motion import MotionOutput

WINDOW = 16
"""Frames the network sees at once; neighbouring windows share some."""
STRIDE = 3
"""Surfaces are computed at every so many rows and columns."""
LARGEST_JUMP = 2.0
"""Of the scale between windows: where the camera stands still, lengths of steps say nothing."""
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
    """Window after window, in temporal order, each with frames of its own; computed when it is asked for.

    Neighbouring windows share a frame. Its features are the same in both, because every frame but the first sees its
    own flow: so surfaces, and with them the scale, carry over from each window to the next without any fit. A network
    that moves all motions of a window together settles their scale by window: its windows share more frames, the
    lengths of whose steps carry it over, and each gives up half of them.
    """
    height, width = video.frames.shape[-2:]
    rays = pixel_grid(height, width, stride, video.frames.device)
    pairs = len(video.frames) - 1
    half = 0 if network.config.joint_steps == 0 else min(network.config.joint_reach, (window - 1) // 3) // 2
    before: Tensor | None = None
    for start in range(0, max(pairs - 2 * half, 1), window - 1 - 2 * half):
        count = min(window - 1, pairs - start)
        motion = _motion(network, video.clip(start, count + 1), rays)
        scale = 1.0
        if before is not None and half > 0:
            again = motion.relative[0, : 2 * half, :3, 3].norm(dim=-1)
            scale = float((before.sum() / again.sum().clamp(min=NEAREST)).clamp(1 / LARGEST_JUMP, LARGEST_JUMP))
        relative = scaled_poses(motion.relative[0], scale)
        before = relative[count - 2 * half :, :3, 3].norm(dim=-1)
        own = slice(half if start > 0 else 0, count if start + count == pairs else count - half)
        yield _posed_window(start, motion, relative, scale, own)


def _motion(network: FlowCamNetwork, clip: Clip, rays: Int[Tensor, "rays"]) -> MotionOutput:
    was_training = network.training
    network.eval()
    with torch.no_grad():
        motion = network.estimate_motion(clip, rays)
    network.train(was_training)
    return motion


def _posed_window(
    start: int, motion: MotionOutput, relative: Float[Tensor, "all 4 4"], scale: float, own: slice
) -> PosedWindow:
    """The pairs `own` of a clip from frame `start` on, whose `relative` motions are `scale` times the network's."""
    depth = motion.surfaces.points[0, ..., 2].clamp(min=NEAREST)
    expected = se3.transform(motion.relative[:, :, None], motion.later.points)[0, ..., 2].clamp(min=NEAREST)
    found = motion.partner_surfaces.points[0, ..., 2].clamp(min=NEAREST)
    return PosedWindow(
        start + own.start,
        relative[own],
        1 / (scale * depth[own.start : own.stop + 1]),
        disagreement=(found / expected).log().abs()[own],
        flow_error=(motion.flow_from_pose - motion.flow)[0].norm(dim=-1)[own],
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
