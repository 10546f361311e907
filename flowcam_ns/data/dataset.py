"""Frames in memory as a nerfstudio dataset."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from flowcam_ns.data.frame_source import SharedFrames


class FlowCamDataset(InputDataset):
    """Images come from decoded frames instead of files, at the size of the cameras."""

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "height width 3"]:
        """RGB of one frame of this split."""
        shared: SharedFrames = self.metadata["frames"]
        frame = int(self.metadata["frame_index"][image_idx])
        width, height = int(self.cameras.width[image_idx]), int(self.cameras.height[image_idx])
        return shared.images(width, height)[frame]

    def get_metadata(self, data: dict) -> dict[str, Tensor]:
        """The frame's number in the clip and, where the input has masks, its mask (H, W, 1)."""
        shared: SharedFrames = self.metadata["frames"]
        masks = shared.frames.masks
        frame_index = self.metadata["frame_index"][data["image_idx"]]
        if masks is None:
            return {"frame_index": frame_index}
        frame = int(frame_index)
        height, width = data["image"].shape[:2]
        mask = cv2.resize(masks[frame].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return {"frame_index": frame_index, "mask": torch.from_numpy(mask > 0)[..., None]}
