"""A batch of short clips, as the network reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass
class Clip:
    """Neighbouring frames of a video with the flow between them. Frames are counted 0..n (n + 1 = `frames`)."""

    images: Float[Tensor, "batch frames 3 h w"]
    """RGB in [-1, 1]."""
    backward_flow: Float[Tensor, "batch pairs 2 h w"]
    """Entry t takes pixels of frame t + 1 back to frame t; fractions of the image (x by width, y by height)."""
    intrinsics: Float[Tensor, "batch frames 3 3"]
    """Pinhole matrices divided by the image's width (first row) and height (second row)."""
    confidence: Float[Tensor, "batch pairs h w"] | None = None
    """How far each flow can be trusted, in [0, 1]; multiplies the learned confidence and weighs the flow loss."""
    first_flow: Float[Tensor, "batch 2 h w"] | None = None
    """Backward flow of frame 0 to the one before it, where the clip is cut from a video; else frame 1's is borrowed."""

    @property
    def num_pairs(self) -> int:
        """Neighbouring pairs in a clip, n."""
        return self.backward_flow.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[-2], self.images.shape[-1]


def chained_flow(
    clip: Clip, uv: Float[Tensor, "batch ends rays 2"], gap: int
) -> tuple[Float[Tensor, "batch ends rays 2"], Float[Tensor, "batch ends rays"]]:
    """Where points of the frames gap..n end `gap` frames earlier, following the flow, and the product of confidences.

    `uv` are fractions of the image. A point that leaves the image on its way has confidence 0.
    """
    position = uv
    confidence = torch.ones_like(position[..., 0])
    frames = position.shape[1]
    maps = clip.backward_flow
    if clip.confidence is not None:
        maps = torch.cat([maps, clip.confidence[:, :, None]], dim=2)
    for step in range(gap):
        pairs = maps[:, gap - 1 - step : gap - 1 - step + frames].flatten(0, 1)
        grid = position.flatten(0, 1)[:, :, None] * 2 - 1
        read = F.grid_sample(pairs, grid, padding_mode="border", align_corners=False)[..., 0]
        read = read.transpose(1, 2).unflatten(0, position.shape[:2])
        inside = ((position > 0) & (position < 1)).all(-1)
        confidence = confidence * inside * (read[..., 2] if clip.confidence is not None else 1)
        position = position + read[..., :2]
    return position, confidence
