"""Where a picture has something that flow can hold on to."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, Shaped

AROUND = 21
"""Side, in px, of the surroundings that count: flow in a plain place is that of its surroundings."""
NOISE = 0.7
"""Gradient, grey levels a px, that a picture without any texture has as well."""


def corner_strength(image: Shaped[np.ndarray, "h w"], window: int) -> Float32[np.ndarray, "h w"]:
    """Root of the smaller eigenvalue of the structure tensor over a window of so many px, in grey levels a px.

    How fast the picture changes in the direction in which it changes least (Shi and Tomasi, Good features to track,
    CVPR 1994).
    """
    # OpenCV's eigenvalue is that of the mean over the window, of gradients that count twice.
    return np.sqrt(np.maximum(cv2.cornerMinEigenVal(image.astype(np.float32), window, ksize=3), 0)) / 2


def texture_share(image: Shaped[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """In [0, 1]: how much of what flow says about a place of this grey picture was seen there, and not just guessed.

    A plain wall's flow is smooth, agrees with the flow back, and says what the edges around it say; in a compressed
    video, whose plain parts are copied from frame to frame, it says that nothing moves.
    """
    strength = np.square(corner_strength(image, AROUND))
    return strength / (strength + np.float32(NOISE**2))
