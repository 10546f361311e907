"""How much the picture moves and how sharp it is, frame by frame, measured on small grey thumbnails."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

THUMBNAIL_SIZE = 256
"""Long side in px: big enough to see a motion of 0.05 % of the width, small enough for 1 ms a frame."""
THUMBNAIL_SHORTEST = 32
"""OpenCV's DIS flow crashes on anything narrower (at its coarse scales less than a patch would be left)."""
CELLS = 8, 6
REANCHOR = 0.02
"""A new reference frame is taken once the picture has moved by this share of its long side."""
TYPICAL_QUANTILE = 0.6
"""A picture's motion is that of its cells at this quantile: up to 40 % may be blank (sky, walls)."""


def thumbnail_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the thumbnails for pictures of `width` x `height` px."""
    scale = min(1.0, THUMBNAIL_SIZE / max(width, height))
    return max(THUMBNAIL_SHORTEST, round(width * scale)), max(THUMBNAIL_SHORTEST, round(height * scale))


class MotionTrack:
    """Collects motion and sharpness while thumbnails stream by; holds one thumbnail at a time.

    Motion is measured against a reference frame that moves along only when the picture has moved, so that noise does
    not add up over a standstill: the displacement between any two frames is the difference of their rows.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._reference: np.ndarray | None = None
        self._reference_displacement = np.zeros((CELLS[0] * CELLS[1], 2), np.float32)
        self._displacement: list[np.ndarray] = []
        self._sharpness: list[float] = []

    def __len__(self) -> int:
        return len(self._sharpness)

    def push(self, thumbnail: UInt8[np.ndarray, "height width"]) -> None:
        """Take the next frame's thumbnail; all have one size."""
        self._sharpness.append(float(cv2.Laplacian(thumbnail, cv2.CV_32F).var()))
        if self._reference is None:
            self._reference = thumbnail
        flow = self._flow.calc(self._reference, thumbnail, None)  # type: ignore[call-overload]
        cells = cv2.resize(flow, CELLS, interpolation=cv2.INTER_AREA).reshape(-1, 2) / max(thumbnail.shape)
        displacement = self._reference_displacement + cells
        self._displacement.append(displacement.astype(np.float32))
        if typical_length(cells) > REANCHOR:
            self._reference, self._reference_displacement = thumbnail, displacement

    @property
    def displacement(self) -> Float32[np.ndarray, "frames cells 2"]:
        """Where each cell of the picture has moved since the first frame, as a share of the long side."""
        return np.stack(self._displacement)

    @property
    def sharpness(self) -> Float32[np.ndarray, "frames"]:
        """Variance of the Laplacian, in squared grey levels; comparable between neighbours only."""
        return np.array(self._sharpness, np.float32)


def typical_length(displacement: Float32[np.ndarray, "*batch cells 2"]) -> Float32[np.ndarray, "*batch"]:
    """Length of a displacement field: one number for the whole picture."""
    lengths = np.sort(np.linalg.norm(displacement, axis=-1), axis=-1)
    return lengths[..., int(TYPICAL_QUANTILE * lengths.shape[-1])]
