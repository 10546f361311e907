"""What decoding hands on: the selected frames of a video or folder, and where each came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from flowcam_ns.geometry.camera import Camera

DEFAULT_FPS = 30.0
"""What a folder of images counts as, in images a second."""


def mask_at_size(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """A mask at another (width, height); every pixel takes its nearest one's value."""
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


@dataclass(frozen=True)
class GroundTruth:
    """Poses and lens that came with a dataset folder; they score results and never train anything."""

    c2w: Float64[np.ndarray, "frames 4 4"]
    """OpenCV camera-to-world of every selected frame; NaN where the dataset gives none."""
    camera: Camera | None
    """The dataset's lens at the size of the selected frames, where it is one and the same for all."""


@dataclass(frozen=True)
class Frames:
    """Selected frames of one input, all of one size, in temporal order."""

    images: UInt8[np.ndarray, "frames height width 3"]
    """RGB."""
    sources: list[str]
    """Where each frame came from: the image's file name, or the video's frame number."""
    timestamps: Float64[np.ndarray, "frames"]
    """Seconds from the start of the video (folders: at `DEFAULT_FPS` frames a second)."""
    name: str
    """Stem of the video or name of the folder."""
    thinned: int = 0
    """How many frames were left out because of blur, standstill or budget."""
    focal_prior: float | None = None
    """Focal length in px told by the file itself (EXIF), if any."""
    camera: Camera | None = None
    """The lens, where the user asked for the dataset's own intrinsics or gave a focal length."""
    ground_truth: GroundTruth | None = None
    masks: Bool[np.ndarray, "frames height width"] | None = None
    """True where a pixel may be used (nerfstudio's mask convention: white)."""
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def without(self, foreign: Bool[np.ndarray, "frames h w"] | None) -> Frames:
        """The same with more masked: what is True in `foreign`, images of any size (None: nothing)."""
        if foreign is None:
            return self
        still = ~np.stack([mask_at_size(image, (self.width, self.height)) for image in foreign])
        return replace(self, masks=still if self.masks is None else self.masks & still)

    @property
    def width(self) -> int:
        """Width in px."""
        return self.images.shape[2]

    @property
    def height(self) -> int:
        """Height in px."""
        return self.images.shape[1]
