"""Frames in memory as a nerfstudio dataset."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from flowcam_ns.data.frame_source import SharedFrames
from flowcam_ns.video.frames import mask_at_size


class FlowCamDataset(InputDataset):
    """Images come from decoded frames instead of files, at the size of the cameras."""

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "height width 3"]:
        """RGB of one frame of this split."""
        shared: SharedFrames = self.metadata["frames"]
        frame = int(self.metadata["frame_index"][image_idx])
        width, height = int(self.cameras.width[image_idx]), int(self.cameras.height[image_idx])
        return shared.images(width, height)[frame]

    def get_metadata(self, data: dict) -> dict[str, Tensor]:
        """The frame's number in the clip and, where pixels are to be left out, its mask (H, W, 1)."""
        shared: SharedFrames = self.metadata["frames"]
        frame_index = self.metadata["frame_index"][data["image_idx"]]
        foreign: Tensor | None = self.metadata.get("foreign")
        size = data["image"].shape[1::-1]
        masks = []
        if shared.frames.masks is not None:
            masks.append(mask_at_size(shared.frames.masks[int(frame_index)], size))
        if foreign is not None:
            masks.append(~mask_at_size(foreign[int(frame_index)].numpy(), size))
        if not masks:
            return {"frame_index": frame_index}
        return {"frame_index": frame_index, "mask": torch.from_numpy(np.logical_and.reduce(masks))[..., None]}
