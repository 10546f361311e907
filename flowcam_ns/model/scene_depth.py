"""Dense depth of every frame in the checkpoint, small: half-precision inverse depth and one byte of confidence; and
where frames show what is not of the scene.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class SceneDepth(nn.Module):
    """Buffers that take the size of whatever is set or loaded."""

    inverse_depth: Tensor
    confidence: Tensor
    foreign_pixels: Tensor

    def __init__(self, frame_count: int) -> None:
        super().__init__()
        self.register_buffer("inverse_depth", torch.zeros(frame_count, 1, 1, dtype=torch.float16))
        self.register_buffer("confidence", torch.zeros(frame_count, 1, 1, dtype=torch.uint8))
        self.register_buffer("foreign_pixels", torch.zeros(frame_count, 1, 1, dtype=torch.bool))

    def set_depth(
        self,
        inverse_depth: Float[Tensor, "frames h w"],
        confidence: Float[Tensor, "frames h w"],
        foreign: Bool[Tensor, "frames small_h small_w"] | None = None,
    ) -> None:
        """Store inverse depths (1 / z, world units), confidences (0..1), and where frames do not show the scene."""
        largest = torch.finfo(torch.float16).max
        self.inverse_depth = inverse_depth.clamp(0, largest).to(self.inverse_depth)
        self.confidence = (confidence.clamp(0, 1) * 255).round().to(self.confidence)
        nothing = torch.zeros(len(inverse_depth), 1, 1, dtype=torch.bool)
        self.foreign_pixels = (nothing if foreign is None else foreign).to(self.foreign_pixels)

    def depth(self) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
        """Inverse depths and confidences in float32."""
        return self.inverse_depth.float(), self.confidence.float() / 255

    @property
    def foreign(self) -> Bool[Tensor, "frames small_h small_w"] | None:
        """Where frames show what is not of the scene, on the CPU; None where they show nothing else."""
        return self.foreign_pixels.cpu() if bool(self.foreign_pixels.any()) else None

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in self._buffers:
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.empty_like(stored, device=getattr(self, name).device))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
