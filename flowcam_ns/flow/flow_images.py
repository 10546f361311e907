"""The images that flow is estimated on: small, with the masks that say which of their pixels count."""

from __future__ import annotations

from copy import copy

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from flowcam_ns.flow.cache import cache_key
from flowcam_ns.flow.confidence import pixel_grid

MASK_MARGIN = 4
"""Pixels of the flow image around a mask that the masked thing's flow may have reached."""


class FlowImages:
    """The frames of a video with a long side of `long_side` (never enlarged), grey unless `color` is wanted.

    Sides are made even, so the two axes scale by slightly different factors. `masks` are True where a pixel may be
    used; flow is smooth, so pixels within `MASK_MARGIN` of a masked one are not used either.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "frames height width 3"],
        masks: Bool[np.ndarray, "frames height width"] | None,
        long_side: int,
        color: bool,
    ) -> None:
        self.height, self.width = images.shape[1:3]
        self.flow_height, self.flow_width = flow_size(self.height, self.width, long_side)
        self.scale = np.array([self.flow_width / self.width, self.flow_height / self.height], dtype=np.float32)
        """From px of the frames to px of these images, for x and y."""
        self.masks = None if masks is None else self._eroded(masks)
        self._small = [self._shrink(image, color) for image in images]
        self._digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._small)

    def __getitem__(self, frame: int) -> UInt8[np.ndarray, "h w *rgb"]:
        return self._small[frame]

    def masked(self, masks: Bool[np.ndarray, "frames height width"]) -> FlowImages:
        """The same images under other masks."""
        other = copy(self)
        other.masks, other._digests = other._eroded(masks), {}
        return other

    def grey(self, frame: int) -> UInt8[np.ndarray, "h w"]:
        """An image without colour."""
        image = self._small[frame]
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image

    def mask(self, frame: int) -> Bool[np.ndarray, "h w"] | None:
        """The mask of an image; None where nothing is masked."""
        return None if self.masks is None else self._mask_of_size(frame, self.flow_width, self.flow_height).astype(bool)

    def usable(
        self, frames: np.ndarray, points: Float32[np.ndarray, "some points 2"]
    ) -> Bool[np.ndarray, "some points"]:
        """Whether points (px of the frames) lie inside the picture and on an unmasked pixel of their frames."""
        inside = ((points >= 0) & (points < (self.width, self.height))).all(-1)
        if self.masks is None:
            return inside
        pixels = np.where(inside[..., None], points, 0).astype(np.int64)
        return inside & self.masks[frames[:, None], pixels[..., 1], pixels[..., 0]]

    def off_masks(
        self, i: int, j: int, flow: Float32[np.ndarray, "half_h half_w 2"]
    ) -> UInt8[np.ndarray, "half_h half_w"] | int:
        """1 where flow from frame i to j (fractions of the image) both begins and ends on an unmasked pixel, else 0."""
        if self.masks is None:
            return 1
        height, width = flow.shape[:2]
        here, there = (self._mask_of_size(frame, width, height) for frame in (i, j))
        x, y = pixel_grid(height, width)
        return here * cv2.remap(there, x + flow[..., 0] * width, y + flow[..., 1] * height, cv2.INTER_NEAREST)

    def digest(self, frame: int) -> bytes:
        """What names an image and its mask in a cache."""
        if frame not in self._digests:
            image = self._small[frame]
            mask = b"" if self.masks is None else self.masks[frame].tobytes()  # keeps features off what is masked
            self._digests[frame] = cache_key(str(image.shape), image.tobytes(), mask).encode()
        return self._digests[frame]

    def _mask_of_size(self, frame: int, width: int, height: int) -> UInt8[np.ndarray, "height width"]:
        assert self.masks is not None
        return cv2.resize(self.masks[frame].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)

    def _eroded(self, masks: Bool[np.ndarray, "frames height width"]) -> Bool[np.ndarray, "frames height width"]:
        """The masks without the pixels next to what is masked."""
        width, height = (2 * np.ceil(MASK_MARGIN / self.scale).astype(int) + 1).tolist()
        around = np.ones((height, width), np.uint8)
        if masks.strides[0] == 0:  # one mask for all frames
            return np.broadcast_to(cv2.erode(masks[0].astype(np.uint8), around).astype(bool), masks.shape)
        return np.stack([cv2.erode(mask.astype(np.uint8), around) for mask in masks]).astype(bool)

    def _shrink(self, image: UInt8[np.ndarray, "height width 3"], color: bool) -> UInt8[np.ndarray, "h w *rgb"]:
        if not color:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if image.shape[:2] == (self.flow_height, self.flow_width):
            return np.ascontiguousarray(image)
        return cv2.resize(image, (self.flow_width, self.flow_height), interpolation=cv2.INTER_AREA)


def flow_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """(height, width) of the images flow is estimated on: even, at least 16 px."""
    factor = min(1.0, long_side / max(height, width))
    return max(16, 2 * round(height * factor / 2)), max(16, 2 * round(width * factor / 2))
