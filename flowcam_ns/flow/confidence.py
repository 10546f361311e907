"""How far a flow can be trusted, from its agreement with the flow back."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

TOLERANCE_PX = 0.5
"""Forward-backward distance in px at which confidence has fallen to a half, for a small motion."""
TOLERANCE_OF_FLOW = 0.01
"""What a longer motion adds to it, as a fraction of the motion's length."""


def pixel_grid(height: int, width: int) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """x and y of every pixel, OpenCV's convention (centres at integers)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x, y


def forward_backward_confidence(
    forward: Float32[np.ndarray, "h w 2"],
    backward: Float32[np.ndarray, "h w 2"],
    tolerance: float = TOLERANCE_PX,
    tolerance_of_flow: float = TOLERANCE_OF_FLOW,
) -> Float32[np.ndarray, "h w"]:
    """Confidence in [0, 1] of `forward`: 1 / (1 + (e / s)^2), with e how far from itself a pixel comes back.

    s is `tolerance` (px) plus `tolerance_of_flow` times the flow's length. 0 where the flow leaves the image.
    """
    height, width = forward.shape[:2]
    x, y = pixel_grid(height, width)
    x_to, y_to = x + forward[..., 0], y + forward[..., 1]
    back = cv2.remap(backward, x_to, y_to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    away = forward + back
    error_squared = np.einsum("hwc,hwc->hw", away, away)
    scale = tolerance + tolerance_of_flow * np.sqrt(np.einsum("hwc,hwc->hw", forward, forward))
    inside = (x_to >= -0.5) & (x_to <= width - 0.5) & (y_to >= -0.5) & (y_to <= height - 0.5)
    return np.where(inside, 1 / (1 + error_squared / scale**2), 0).astype(np.float32)
