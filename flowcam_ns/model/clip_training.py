"""Training the network on one video: clips cut from it, and their losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import FlowCamNetwork, NetworkOutput
from flowcam_ns.model.losses import NetworkLossConfig, clip_losses

ADAM_BETAS = (0.9, 0.99)
MAX_GRADIENT_NORM = 1.0


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

    def with_own_flow(
        self, frames: Int[Tensor, "some"]
    ) -> tuple[Float[Tensor, "some 3 h w"], Float[Tensor, "some 2 h w"]]:
        """Some frames, and the flow of each back to the one before it; the first frame borrows the second's."""
        return self.frames[frames], self.backward_flow[(frames - 1).clamp(min=0)]

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


def normalized_intrinsics(camera: Camera) -> Float[Tensor, "3 3"]:
    """A lens's pinhole matrix divided by its image's size; distortion is left out."""
    return camera.matrix(torch.float32) / torch.tensor([[camera.width], [camera.height], [1.0]])


@dataclass
class ClipTrainingConfig:
    """How the network is trained on one video."""

    steps: int = 400
    """Optimisation steps."""
    clip_length: int = 6
    """Neighbouring frames in a clip."""
    context_rays: int = 192
    """Pixels of each frame where surfaces, poses and flow are computed."""
    target_rays: int = 64
    """Pixels of each frame that are re-rendered from other frames; 0 leaves re-rendering out."""
    learning_rate: float = 2.5e-3
    """Peak learning rate of Adam."""
    final_learning_rate: float = 0.03
    """Share of the learning rate that is left at the end (cosine decay)."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises."""
    losses: NetworkLossConfig = field(default_factory=NetworkLossConfig)
    """Weights and kinds of the losses."""


@dataclass
class ClipBatch:
    """A clip and the pixels (row-major indices) that are looked at in each of its frames."""

    clip: Clip
    context_rays: Int[Tensor, "context_rays"]
    """Where surfaces, poses and flow are computed."""
    target_rays: Int[Tensor, "target_rays"]
    """Where frames are re-rendered."""
    start: int = 0
    """The clip's first frame, counted in the video."""


def sample_clip(video: NetworkVideo, config: ClipTrainingConfig, generator: torch.Generator | None = None) -> ClipBatch:
    """A clip (of all frames, if there are fewer) from a random start, at random pixels; repeatable by seed."""
    count = len(video.frames)
    length = min(config.clip_length, count)
    start = int(torch.randint(count - length + 1, (1,), generator=generator))
    pixels = video.frames.shape[-2] * video.frames.shape[-1]

    def rays(number: int) -> Tensor:
        return torch.randperm(pixels, generator=generator)[:number].to(video.frames.device)

    return ClipBatch(video.clip(start, length), rays(config.context_rays), rays(config.target_rays), start)


def network_losses(
    network: FlowCamNetwork, batch: ClipBatch, config: NetworkLossConfig
) -> tuple[dict[str, Float[Tensor, ""]], NetworkOutput]:
    """The weighted losses of a clip (their sum is what to minimise) and what they were computed from."""
    output = network(batch.clip, batch.context_rays, batch.target_rays)
    return clip_losses(output, batch.clip, batch.context_rays, batch.target_rays, config), output


def learning_rate_share(step: int, config: ClipTrainingConfig) -> float:
    """Share of the peak learning rate at a step: a short rise, then a cosine down."""
    rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    progress = min(1.0, step / max(config.steps, 1))
    low = config.final_learning_rate
    return rise * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def fit_network(
    network: FlowCamNetwork,
    video: NetworkVideo,
    config: ClipTrainingConfig,
    seed: int = 0,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Train the network on one video, in place; `report` gets every step's number and losses."""
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=ADAM_BETAS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, config))
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for step in range(config.steps):
        losses, _ = network_losses(network, sample_clip(video, config, generator), config.losses)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step, {name: float(loss.detach()) for name, loss in losses.items()})
