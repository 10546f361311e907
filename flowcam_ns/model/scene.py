"""What a field reads of a scene: the frames, their cameras, and how deep every pixel lies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from flowcam_ns.geometry.camera import Camera

TRUSTED = 0.25
"""Confidence from which a depth is good enough for an exported point."""
OUTSIDE = 0.02
"""Share of the surfaces that the scene's box leaves out on each of its sides."""
BOX_POINTS = 200_000
"""Surfaces that tell the box, about."""


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

    def box(self) -> Float[Tensor, "2 3"]:
        """Least and largest world coordinates of what is seen and trusted, without the last few percent on each side;
        that of the cameras where nothing is.
        """
        frames, h, w = self.inverse_depth.shape
        stride = max(1, round((frames * h * w / BOX_POINTS) ** 0.5))
        y, x = torch.meshgrid(torch.arange(0, h, stride), torch.arange(0, w, stride), indexing="ij")
        rays = self.camera.scaled_to(w, h).unproject(torch.stack([x, y], dim=-1) + 0.5)
        inverse = self.inverse_depth[:, ::stride, ::stride].cpu()
        seen = (self.confidence[:, ::stride, ::stride].cpu() >= TRUSTED) & (inverse > 0)
        seen &= self.usable.cpu()[:, None, None]
        frame, row, column = seen.nonzero(as_tuple=True)
        c2w = self.c2w.detach().float().cpu()
        if len(frame) == 0:
            return torch.stack([c2w[:, :3, 3].amin(0), c2w[:, :3, 3].amax(0)])
        in_camera = rays[row, column] / inverse[frame, row, column][:, None]
        points = torch.einsum("nij,nj->ni", c2w[frame, :3, :3], in_camera) + c2w[frame, :3, 3]
        return points.quantile(torch.tensor([OUTSIDE, 1 - OUTSIDE]), dim=0)
