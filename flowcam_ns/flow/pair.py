"""The flow between two frames, both ways, as it is kept: half size, fixed point."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int16, UInt8

from flowcam_ns.flow.confidence import TOLERANCE_PX, forward_backward_confidence

STEPS_PER_PX = 64.0
"""Fixed-point resolution of a stored flow: steps in one px of the flow image."""
LARGEST = 32767
"""Largest stored step count (about 512 px); a longer flow is cut off there and gets confidence 0."""


@dataclass(frozen=True)
class FlowPair:
    """Flow and confidence from a frame to another [0] and back [1], on a grid of half the flow image's size."""

    flow: Int16[np.ndarray, "2 half_h half_w 2"]
    """In 1 / STEPS_PER_PX px of the (full) flow image."""
    confidence: UInt8[np.ndarray, "2 half_h half_w"]
    """255 is full confidence."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.flow.nbytes + self.confidence.nbytes

    def start(self, side: int) -> Float32[np.ndarray, "half_h half_w 2"]:
        """The flow to (0) or back (1) in px of its own half-size grid."""
        return self.flow[side] * np.float32(0.5 / STEPS_PER_PX)

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes into the cache."""
        return {"flow": self.flow, "confidence": self.confidence}

    def trusting(self) -> FlowPair:
        """The same flow with full confidence everywhere, wherever its way back may end."""
        return FlowPair(self.flow, np.full_like(self.confidence, 255))

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray] | None, height: int, width: int) -> FlowPair | None:
        """From the cache; None where the arrays are not those of a flow image of `height` x `width`."""
        if arrays is None or set(arrays) != {"flow", "confidence"}:
            return None
        flow, confidence = arrays["flow"], arrays["confidence"]
        shape = (2, height // 2, width // 2)
        if (flow.dtype, flow.shape, confidence.dtype, confidence.shape) != (np.int16, (*shape, 2), np.uint8, shape):
            return None
        return cls(np.ascontiguousarray(flow), np.ascontiguousarray(confidence))

    @classmethod
    def from_dense(cls, forward: Float32[np.ndarray, "h w 2"], backward: Float32[np.ndarray, "h w 2"]) -> FlowPair:
        """From flows in px of the flow image, whose sides must be even."""
        size = forward.shape[1] // 2, forward.shape[0] // 2
        halves = [cv2.resize(flow, size, interpolation=cv2.INTER_AREA) for flow in (forward, backward)]
        # On the half-size grid a flow is half as many px long, so the tolerance is halved with it.
        ours = [flow / 2 for flow in halves]
        confidences = [confidence_of_half(ours[0], ours[1]), confidence_of_half(ours[1], ours[0])]
        steps = np.stack(halves) * np.float32(STEPS_PER_PX)
        kept = np.abs(steps) <= LARGEST  # neither where it is not finite
        if not kept.all():
            steps = np.clip(np.nan_to_num(steps), -LARGEST, LARGEST)
        fixed = np.rint(steps).astype(np.int16)
        levels = np.rint(np.stack(confidences) * (kept[..., 0] & kept[..., 1]) * 255).astype(np.uint8)
        return cls(fixed, levels)


def confidence_of_half(
    forward: Float32[np.ndarray, "half_h half_w 2"], backward: Float32[np.ndarray, "half_h half_w 2"]
) -> Float32[np.ndarray, "half_h half_w"]:
    """Forward-backward confidence on the half-size grid, with the tolerance of the full flow image."""
    return forward_backward_confidence(forward, backward, tolerance=TOLERANCE_PX / 2)
