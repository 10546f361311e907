"""A coloured point cloud that remembers which pixel of which frame each point was seen at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8


@dataclass(frozen=True)
class PointCloud:
    """Surface points in world units."""

    xyz: Float[np.ndarray, "points 3"]
    rgb: UInt8[np.ndarray, "points 3"]
    frame: Int[np.ndarray, "points"]
    """Index of the frame that each point was seen in."""
    pixels: Float[np.ndarray, "points 2"]
    """Where in that frame, (x, y) in px with pixel centres at +0.5."""

    def __len__(self) -> int:
        return len(self.xyz)
