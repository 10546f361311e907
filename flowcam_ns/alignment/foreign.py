"""What a solve found in the frames that is not of the still scene, small enough to be kept with its result."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool

LONG_SIDE = 256
"""Px of the images that tell it."""


def foreign_pixels(
    frames: int,
    overlay: Bool[np.ndarray, "height width"] | None,
    scene: Bool[np.ndarray, "frames height width"] | None,
) -> Bool[np.ndarray, "frames h w"] | None:
    """True where an overlay lies, or what moves on its own; None where there is neither.

    Args:
        frames: how many there are.
        overlay: True where all frames show the same.
        scene: True where the frames surely show the still scene.
    """
    moving = None if scene is None or scene.all() else np.stack([_small(~image) for image in scene])
    if overlay is None:
        return moving
    fixed = np.broadcast_to(_small(overlay), (frames, *_small(overlay).shape))
    return fixed.copy() if moving is None else fixed | moving


def _small(image: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "h w"]:
    """True where any of the pixels is that one stands for."""
    height, width = image.shape
    factor = min(1.0, LONG_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
