"""How far a flow can be trusted, from its agreement with the flow back."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float32

TOLERANCE_PX = 0.5
"""Forward-backward distance in px at which confidence has fallen to a half, for a small motion."""
TOLERANCE_OF_FLOW = 0.01
"""What a longer motion adds to it, as a fraction of the motion's length."""


@lru_cache(maxsize=8)
def pixel_grid(height: int, width: int) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """x and y of every pixel, OpenCV's convention (centres at integers); the same arrays for all, not to be written."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x.flags.writeable = y.flags.writeable = False
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
    # Channel by channel: numpy is several times slower over a last dimension of two.
    height, width = forward.shape[:2]
    x, y = pixel_grid(height, width)
    u, v = (np.ascontiguousarray(forward[..., k]) for k in range(2))
    x_to, y_to = x + u, y + v
    back = cv2.remap(backward, x_to, y_to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error_squared = (u + back[..., 0]) ** 2 + (v + back[..., 1]) ** 2
    scale = tolerance + tolerance_of_flow * np.sqrt(u * u + v * v)
    inside = (x_to >= -0.5) & (x_to <= width - 0.5) & (y_to >= -0.5) & (y_to <= height - 0.5)
    return np.where(inside, 1 / (1 + error_squared / scale**2), 0).astype(np.float32)
