"""What a field reads of a scene: the frames, their cameras, and how deep every pixel lies."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from flowcam_ns.geometry.camera import Camera


@dataclass
class ContextScene:
    """Posed frames with dense depth, in one world frame. Frames that are not `usable` are never read."""

    images: UInt8[Tensor, "frames height width 3"]
    """RGB."""
    c2w: Float[Tensor, "frames 4 4"]
    """OpenCV camera-to-world."""
    camera: Camera
    """The lens at the size of `images`."""
    inverse_depth: Float[Tensor, "frames h w"]
    """1 / z in world units along each camera's z axis, at any size; 0 lies at infinity."""
    confidence: Float[Tensor, "frames h w"]
    """How far `inverse_depth` can be trusted, 0..1."""
    usable: Bool[Tensor, "frames"]
    """False where a frame is held out or has no pose: neither its colours nor its depths may be rendered from."""
    masks: Bool[Tensor, "frames height width"] | None = None
    """False where a pixel's colour must not be used (a logo, a moving thing)."""

    def __len__(self) -> int:
        return len(self.images)
