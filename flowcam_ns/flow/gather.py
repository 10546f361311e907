"""Bilinear sampling of many small integer maps at many points, in a few vectorised steps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int16, UInt8


class BilinearGather:
    """Reads maps of one size (flow and confidence) at points in their px (centres at +0.5), one row of points a map.

    The four corners of all points are collected map by map (`read`), so that no map need be kept, and weighted
    together (`finish`).
    """

    def __init__(self, points: Float32[np.ndarray, "rows points 2"], height: int, width: int) -> None:
        last = np.array([width - 1, height - 1], np.float32)
        at = np.clip(np.nan_to_num(points) - np.float32(0.5), 0, last)
        corner = np.minimum(at.astype(np.int32), (last - 1).astype(np.int32))
        self._fraction = at - corner.astype(np.float32)
        first = corner[..., 1] * width + corner[..., 0]
        self._index = first[..., None] + np.array([0, 1, width, width + 1], np.int32)
        self._flow = np.zeros(self._index.shape, np.int32)  # the two int16 of a flow vector travel as one int32
        self._confidence = np.zeros(self._index.shape, np.uint8)

    def read(self, row: int, flow: Int16[np.ndarray, "h w 2"], confidence: UInt8[np.ndarray, "h w"]) -> None:
        """Read the map of one row; both arrays must be contiguous."""
        np.take(flow.reshape(-1).view(np.int32), self._index[row], out=self._flow[row], mode="clip")
        np.take(confidence.reshape(-1), self._index[row], out=self._confidence[row], mode="clip")

    def finish(self) -> tuple[Float32[np.ndarray, "rows points 2"], Float32[np.ndarray, "rows points"]]:
        """Interpolated flow and confidence, in the units of the maps."""
        x, y = self._fraction[..., 0], self._fraction[..., 1]
        weights = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], axis=-1)
        corners = self._flow.view(np.int16).reshape(*self._flow.shape, 2)
        flow = np.einsum("rpk,rpkc->rpc", weights, corners.astype(np.float32))
        confidence = np.einsum("rpk,rpk->rp", weights, self._confidence.astype(np.float32))
        return flow, confidence
