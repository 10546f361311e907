"""Flows of neighbouring frames joined to one long flow: a start for the search between frames further apart."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from flowcam_ns.flow.confidence import pixel_grid


def join(flows: Sequence[Float32[np.ndarray, "h w 2"]]) -> Float32[np.ndarray, "h w 2"]:
    """The flow through all `flows` one after the other, in their px; beyond the image their border values go on."""
    height, width = flows[0].shape[:2]
    x, y = pixel_grid(height, width)
    joined = flows[0]
    for step in flows[1:]:
        x_to, y_to = x + joined[..., 0], y + joined[..., 1]
        joined = joined + cv2.remap(step, x_to, y_to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return joined
