"""A piece of a training video at the network's size: frames, their flow at any gap, lens, and true poses if known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flowcam_ns.flow.estimator import FlowEstimator
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.clip_training import normalized_intrinsics
from flowcam_ns.video.frames import Frames

FLOW_OVER_NETWORK = 2
"""Flow is estimated on images of about this many times the network's size, as the authors do."""


class PretrainVideo:
    """Frames cropped about their middle to the network's shape; flow is estimated when asked for and kept."""

    def __init__(self, frames: Frames, camera: Camera, size: tuple[int, int], estimator: FlowEstimator) -> None:
        self.size = size
        height, width = size
        images, camera = cropped(frames.images, camera.scaled_to(frames.width, frames.height), width / height)
        self._images = _resized(images, FLOW_OVER_NETWORK * width, FLOW_OVER_NETWORK * height)
        self._store = FlowStore(self._images, estimator, FLOW_OVER_NETWORK * max(size))
        self.intrinsics = normalized_intrinsics(camera)
        truth = frames.ground_truth
        self.c2w = None if truth is None else torch.from_numpy(truth.c2w).float()

    def __len__(self) -> int:
        return len(self._images)

    def clip(self, indices: Sequence[int]) -> tuple[Clip, Float[Tensor, "frames 4 4"]]:
        """The frames `indices`, in this order, as a batch of one; and their true poses (NaN where unknown)."""
        height, width = self.size
        images = _resized(self._images[list(indices)], width, height)
        pairs = list(zip(indices[1:], indices[:-1], strict=True))
        before = 2 * indices[0] - indices[1]
        if 0 <= before < len(self):
            pairs.insert(0, (indices[0], before))
        maps = [self._flow(later, earlier) for later, earlier in pairs]
        flow, confidence = torch.stack([m[:2] for m in maps]), torch.stack([m[2] for m in maps])
        # A clip that has nothing before it borrows the flow of its second frame.
        first, own = (flow[0], slice(1, None)) if len(maps) == len(indices) else (flow[0], slice(None))
        clip = Clip(
            images=torch.from_numpy(images).permute(0, 3, 1, 2)[None].float() / 127.5 - 1,
            backward_flow=flow[None, own],
            intrinsics=self.intrinsics.expand(1, len(indices), 3, 3),
            confidence=confidence[None, own],
            first_flow=first[None],
        )
        c2w = torch.full((len(indices), 4, 4), torch.nan) if self.c2w is None else self.c2w[list(indices)]
        return clip, c2w

    def _flow(self, later: int, earlier: int) -> Float[Tensor, "3 h w"]:
        """Flow (fractions of the image) and its confidence at the network's size."""
        flow, confidence = self._store.dense(later, earlier)
        maps = np.concatenate([flow, confidence[..., None]], axis=-1)
        height, width = self.size
        if maps.shape[:2] != (height, width):
            maps = cv2.resize(maps, (width, height), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.ascontiguousarray(maps.transpose(2, 0, 1)))


def cropped(
    images: UInt8[np.ndarray, "frames h w 3"], camera: Camera, aspect: float
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Camera]:
    """The largest part about the middle whose width is `aspect` times its height, and the lens of that part."""
    height, width = images.shape[1:3]
    new_width = min(width, max(round(height * aspect), 1))
    new_height = min(height, max(round(width / aspect), 1))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    lens = replace(camera, width=new_width, height=new_height, cx=camera.cx - left, cy=camera.cy - top)
    return images[:, top : top + new_height, left : left + new_width], lens


def _resized(
    images: UInt8[np.ndarray, "frames h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "frames height width 3"]:
    how = cv2.INTER_AREA if width < images.shape[2] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(image, (width, height), interpolation=how) for image in images])
