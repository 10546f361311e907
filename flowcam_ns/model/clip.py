"""A batch of short clips, as the network reads them."""

from __future__ import annotations

from dataclasses import dataclass

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
