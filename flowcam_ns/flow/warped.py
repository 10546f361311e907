"""Flow where it is roughly known beforehand.

An image is first warped by the predicted flow, which takes rotation, zoom and perspective out of it; what is left for
the estimator is a small motion. So frames far apart can be compared, whose plain flow would fail.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from flowcam_ns.flow.confidence import pixel_grid
from flowcam_ns.flow.estimator import FlowEstimator


def guided_flow(
    estimator: FlowEstimator,
    first: UInt8[np.ndarray, "h w *rgb"],
    second: UInt8[np.ndarray, "h w *rgb"],
    predicted: Float32[np.ndarray, "h w 2"],
) -> Float32[np.ndarray, "h w 2"]:
    """Flow from `first` to `second` in px, near `predicted`."""
    x, y = pixel_grid(*first.shape[:2])
    x_to, y_to = x + predicted[..., 0], y + predicted[..., 1]
    warped = cv2.remap(second, x_to, y_to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rest = estimator(first, warped)
    # The warped image's pixel (x, y) + rest shows the second image at the warp's value there.
    x_rest, y_rest = x + rest[..., 0], y + rest[..., 1]
    moved = [cv2.remap(to, x_rest, y_rest, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for to in (x_to, y_to)]
    # Replicating the border of the warp's map stops short of what was extrapolated: add what is lost there.
    beyond_x = x_rest - np.clip(x_rest, 0, first.shape[1] - 1)
    beyond_y = y_rest - np.clip(y_rest, 0, first.shape[0] - 1)
    return np.stack([moved[0] + beyond_x - x, moved[1] + beyond_y - y], axis=-1).astype(np.float32)
