"""Feed-forward poses of a whole video: overlapping windows, one after the other, chained in one scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

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
from flowcam_ns.model.surfaces import lookup, pixel_coordinates

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
    """1 / z of every frame's surfaces at the rays, in the first window's units."""
    disagreement: Float[Tensor, "pairs rays"]
    """How far, as a share, the later frame's depths differ from the earlier one's for the same points."""
    flow_error: Float[Tensor, "pairs rays"]
    """Length of the flow that the motion leaves unexplained, fractions of the image."""


@dataclass(frozen=True)
class Grid:
    """Every so many rows and columns of a picture."""

    height: int
    width: int
    stride: int
    rays: Int[Tensor, "rays"]
    """Row-major indices of the pixels."""

    @classmethod
    def of(cls, video: NetworkVideo, stride: int) -> Grid:
        """The grid of a video's frames."""
        height, width = video.frames.shape[-2:]
        pixels = torch.arange(height * width, device=video.frames.device).reshape(height, width)
        return cls(height, width, stride, pixels[stride // 2 :: stride, stride // 2 :: stride].flatten())

    @property
    def uv(self) -> Float[Tensor, "rays 2"]:
        """Where the pixels lie, fractions of the image."""
        return pixel_coordinates(self.rays, (self.height, self.width), 0.5)

    def read(
        self, values: Float[Tensor, "frames rays"], uv: Float[Tensor, "frames points 2"]
    ) -> Float[Tensor, "frames points"]:
        """Values at the grid's pixels read between them, bilinear; beyond the outermost theirs."""
        rows, columns = (len(range(self.stride // 2, size, self.stride)) for size in (self.height, self.width))
        place = uv * uv.new_tensor([self.width, self.height]) - (self.stride // 2 + 0.5)
        place = (place / self.stride + 0.5) / uv.new_tensor([columns, rows])
        return lookup(values.unflatten(1, (1, rows, columns)), place, align_corners=False)[..., 0]


def pose_windows(
    network: FlowCamNetwork, video: NetworkVideo, stride: int = STRIDE, window: int = WINDOW
) -> Iterator[PosedWindow]:
    """Window after window, in temporal order, each with frames of its own; computed when it is asked for.

    Neighbouring windows share a frame. Its features are the same in both, because every frame but the first sees its
    own flow: so surfaces, and with them the scale, carry over from each window to the next without any fit. A network
    that moves all motions of a window together settles their scale by window: its windows share more frames, the
    lengths of whose steps carry it over, and each gives up half of them.
    """
    grid = Grid.of(video, stride)
    pairs = len(video.frames) - 1
    half = 0 if network.config.joint_steps == 0 else min(network.config.joint_reach, (window - 1) // 3) // 2
    before: Tensor | None = None
    for start in range(0, max(pairs - 2 * half, 1), window - 1 - 2 * half):
        count = min(window - 1, pairs - start)
        clip = video.clip(start, count + 1)
        motion = _motion(network, clip, grid.rays)
        scale = 1.0
        if before is not None and half > 0:
            again = motion.relative[0, : 2 * half, :3, 3].norm(dim=-1)
            scale = float((before.sum() / again.sum().clamp(min=NEAREST)).clamp(1 / LARGEST_JUMP, LARGEST_JUMP))
        relative = scaled_poses(motion.relative[0], scale)
        before = relative[count - 2 * half :, :3, 3].norm(dim=-1)
        own = slice(half if start > 0 else 0, count if start + count == pairs else count - half)
        yield _posed_window(start, clip, motion, grid, relative, scale, own)


def _motion(network: FlowCamNetwork, clip: Clip, rays: Int[Tensor, "rays"]) -> MotionOutput:
    was_training = network.training
    network.eval()
    with torch.no_grad():
        motion = network.estimate_motion(clip, rays)
    network.train(was_training)
    return motion


def _posed_window(
    start: int,
    clip: Clip,
    motion: MotionOutput,
    grid: Grid,
    relative: Float[Tensor, "all 4 4"],
    scale: float,
    own: slice,
) -> PosedWindow:
    """The pairs `own` of a clip from frame `start` on, whose `relative` motions are `scale` times the network's."""
    ratio = motion.inverse_depth_ratio[..., None]
    later = replace(motion.later, points=motion.later.points / ratio)
    # Nothing moved the first frame's depths: they follow the second's.
    first = motion.surfaces.points[:, :1] / ratio[:, :1].median()
    depth = torch.cat([first, later.points], dim=1)[0, ..., 2].clamp(min=NEAREST)
    expected = se3.transform(motion.relative[:, :, None], later.points)[0, ..., 2].clamp(min=NEAREST)
    found = 1 / grid.read(1 / depth[:-1], motion.uv[0] + motion.flow[0]).clamp(min=NEAREST)
    induced = scene_flow.pose_induced_flow(later, motion.relative, clip.intrinsics[:, 1:], motion.uv)
    return PosedWindow(
        start + own.start,
        relative[own],
        1 / (scale * depth[own.start : own.stop + 1]),
        disagreement=(found / expected).log().abs()[own],
        flow_error=(induced - motion.flow)[0].norm(dim=-1)[own],
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
