"""Training the network on one video: clips cut from it, their losses, and the trajectory that comes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.model import scene_flow
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import FlowCamNetwork, NetworkOutput
from flowcam_ns.model.losses import NetworkLossConfig, clip_losses


@dataclass
class NetworkVideo:
    """A whole video at the network's size."""

    frames: Float[Tensor, "frames 3 h w"]
    """RGB in [-1, 1]."""
    backward_flow: Float[Tensor, "pairs 2 h w"]
    """Entry t takes pixels of frame t + 1 back to frame t; fractions of the image."""
    intrinsics: Float[Tensor, "3 3"]
    """Pinhole matrix divided by the image's size."""
    confidence: Float[Tensor, "pairs h w"] | None = None
    """How far each flow can be trusted, in [0, 1]."""

    def clip(self, start: int, length: int) -> Clip:
        """`length` neighbouring frames from `start` on, as a batch of one."""
        pairs = slice(start, start + length - 1)
        return Clip(
            images=self.frames[None, start : start + length],
            backward_flow=self.backward_flow[None, pairs],
            intrinsics=self.intrinsics.expand(1, length, 3, 3),
            confidence=None if self.confidence is None else self.confidence[None, pairs],
            first_flow=self.backward_flow[None, start - 1] if start > 0 else None,
        )


@dataclass
class ClipBatch:
    """A clip and the pixels (row-major indices) that are looked at in each of its frames."""

    clip: Clip
    context_rays: Int[Tensor, "context_rays"]
    """Where surfaces, poses and flow are computed."""
    target_rays: Int[Tensor, "target_rays"]
    """Where frames are re-rendered."""


def sample_clip(
    video: NetworkVideo,
    length: int,
    num_context_rays: int,
    num_target_rays: int,
    generator: torch.Generator | None = None,
) -> ClipBatch:
    """A clip of `length` frames (all, if there are fewer) from a random start, at random pixels; repeatable by seed."""
    count = len(video.frames)
    length = min(length, count)
    start = int(torch.randint(count - length + 1, (1,), generator=generator))
    pixels = video.frames.shape[-2] * video.frames.shape[-1]

    def rays(number: int) -> Tensor:
        return torch.randperm(pixels, generator=generator)[:number].to(video.frames.device)

    return ClipBatch(video.clip(start, length), rays(num_context_rays), rays(num_target_rays))


def network_losses(
    network: FlowCamNetwork, batch: ClipBatch, config: NetworkLossConfig
) -> tuple[dict[str, Float[Tensor, ""]], NetworkOutput]:
    """The weighted losses of a clip (their sum is what to minimise) and what they were computed from."""
    output = network(batch.clip, batch.context_rays, batch.target_rays)
    return clip_losses(output, batch.clip, batch.context_rays, batch.target_rays, config), output


@torch.no_grad()
def relative_poses_of_video(
    network: FlowCamNetwork, video: NetworkVideo, stride: int = 2, window: int = 16
) -> Float[Tensor, "pairs 4 4"]:
    """T(t <- t + 1) of all neighbours, from every `stride`-th row and column, `window` frames at a time.

    Windows share one frame. Its features are the same in both, because every frame but the first sees its own flow: so
    surfaces, and with them the scale, carry over.
    """
    height, width = video.frames.shape[-2:]
    grid = torch.arange(height * width, device=video.frames.device).reshape(height, width)
    rays = grid[stride // 2 :: stride, stride // 2 :: stride].flatten()
    was_training = network.training
    network.eval()
    motions = []
    for start in range(0, len(video.frames) - 1, window - 1):
        clip = video.clip(start, min(window, len(video.frames) - start))
        motions.append(network.estimate_motion(clip, rays).relative[0])
    network.train(was_training)
    return torch.cat(motions)


def chain_poses(relative: Float[Tensor, "pairs 4 4"]) -> Float[Tensor, "frames 4 4"]:
    """Camera-to-world of all frames in the first one's camera, float64, rotations kept orthonormal."""
    from flowcam_ns.geometry import se3

    return scene_flow.chain(se3.orthonormalized(relative.double())[None])[0]


def network_poses(network: FlowCamNetwork, video: NetworkVideo, stride: int = 2) -> Float[Tensor, "frames 4 4"]:
    """The network's own trajectory of a video: chained camera-to-world poses (OpenCV axes), frame 0 at the identity."""
    return chain_poses(relative_poses_of_video(network, video, stride))
