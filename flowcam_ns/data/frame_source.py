"""Frames shared by everything that lives in one process: decoded once, never copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.frames import Frames, mask_at_size
from flowcam_ns.video.options import FrameOptions

KEPT_SIZES = 2
"""Sizes at which resized frames are kept."""


class SharedFrames:
    """Decoded frames that survive nerfstudio's deep copies of dataset metadata without being duplicated."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self._resized: dict[tuple[int, int], UInt8[np.ndarray, "frames height width 3"]] = {}

    def size_within(self, long_side: int, downscale_factor: float = 1) -> tuple[int, int]:
        """(width, height) of the frames with a long side of at most so many px, then divided by the factor.

        Both are even, because most players show no H.264 video of odd sizes.
        """
        width, height = self.frames.width, self.frames.height
        scale = min(1.0, long_side / max(width, height)) / downscale_factor
        return max(2 * round(width * scale / 2), 2), max(2 * round(height * scale / 2), 2)

    def own_size_within(self, long_side: float) -> tuple[int, int]:
        """(width, height) of the frames as they are, or as `size_within` has them where their long side is longer."""
        own = self.frames.width, self.frames.height
        return own if max(own) <= long_side else self.size_within(round(long_side))

    def images(self, width: int, height: int) -> UInt8[np.ndarray, "frames height width 3"]:
        """All frames at another size (the last two are kept: every split reads one array, the field another)."""
        if (height, width) == self.frames.images.shape[1:3]:
            return self.frames.images
        if (width, height) not in self._resized:
            # Averaging over areas does not alias when shrinking.
            how = cv2.INTER_AREA if width < self.frames.width else cv2.INTER_LINEAR
            resized = [cv2.resize(image, (width, height), interpolation=how) for image in self.frames.images]
            last = list(self._resized.items())[1 - KEPT_SIZES :]
            self._resized = dict([*last, ((width, height), np.stack(resized))])
        return self._resized[width, height]

    def masks(
        self, width: int, height: int, foreign: Bool[Tensor, "frames h w"] | None = None
    ) -> Bool[np.ndarray, "frames height width"] | None:
        """All masks at another size, where the input has any: True where a pixel may be used, and is not `foreign`."""
        given, size = self.frames.masks, (width, height)
        if given is not None and size != (self.frames.width, self.frames.height):
            given = np.stack([mask_at_size(mask, size) for mask in given])
        if foreign is None:
            return given
        scene = ~np.stack([mask_at_size(image, size) for image in foreign.numpy()])
        return scene if given is None else given & scene

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedFrames:
        return self


_decoded: dict[tuple[str, str, int], SharedFrames] = {}


def decode_frames(path: Path, options: FrameOptions) -> SharedFrames:
    """The frames of `path`, decoded on the first call; the last input stays in memory for the process.

    Raises:
        FlowCamError: the input cannot be used; the message says why.
    """
    if str(path) in ("", "."):
        raise FlowCamError("no input given: add --data followed by a video file, an image folder or a dataset folder")
    if not path.exists():
        raise FlowCamError(f"{path} does not exist: give --data an existing video file, image folder or dataset folder")
    path = path.resolve()
    key = (str(path), repr(options), path.stat().st_mtime_ns)
    if key not in _decoded:
        from flowcam_ns.video.load import load_frames

        frames = load_frames(path, options)
        _decoded.clear()
        _decoded[key] = SharedFrames(frames)
    return _decoded[key]
