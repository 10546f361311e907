"""The points that a solve was made with, as a coloured cloud in the world."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from flowcam_ns.alignment.result import Alignment
from flowcam_ns.formats.point_cloud import PointCloud
from flowcam_ns.geometry.se3 import transform
from flowcam_ns.video.frames import Frames

MAX_RELATIVE_STD = 0.2
"""Points whose inverse depth is less certain than this share of itself are left out."""

MAX_DEPTH = 50.0
"""World units (the scene is of unit size): what lies farther away is as good as at infinity."""


def point_cloud(frames: Frames, alignment: Alignment, use_frames: Bool[Tensor, "frames"] | None = None) -> PointCloud:
    """The well-determined points of all posed frames, with the colours of the pixels they were seen at.

    Args:
        frames: The frames that were aligned.
        alignment: Their poses and inverse depths.
        use_frames: Frames whose points and colours may be used (held-out frames give none); all when None.
    """
    inverse_depth = alignment.inverse_depth.double()
    certain = alignment.inverse_depth_std.double() <= MAX_RELATIVE_STD * inverse_depth
    keep = certain & (inverse_depth > 1 / MAX_DEPTH) & alignment.posed[:, None]
    if use_frames is not None:
        keep = keep & use_frames[:, None]
    if frames.masks is not None:
        keep = keep & torch.from_numpy(_at_pixels(frames.masks, alignment.points))
    frame, point = torch.nonzero(keep, as_tuple=True)
    pixels = alignment.points.double()[frame, point]
    points_cam = alignment.camera.unproject(pixels) / inverse_depth[frame, point, None]
    xyz = transform(alignment.c2w[frame], points_cam)
    colours = _at_pixels(frames.images, alignment.points)[frame.numpy(), point.numpy()]
    return PointCloud(xyz.float().numpy(), colours, frame.numpy(), pixels.numpy())


def _at_pixels(images: np.ndarray, pixels: Tensor) -> np.ndarray:
    """The values (frames, points, ...) of `images` (frames, height, width, ...) at px with their centres at +0.5."""
    columns = np.clip(pixels[..., 0].numpy().astype(int), 0, images.shape[2] - 1)
    rows = np.clip(pixels[..., 1].numpy().astype(int), 0, images.shape[1] - 1)
    return images[np.arange(len(images))[:, None], rows, columns]
