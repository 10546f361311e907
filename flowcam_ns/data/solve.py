"""From frames to what the field needs: cameras of all frames by flow bundle adjustment, and dense depths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.result import Alignment
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.video.frames import Frames

Progress = Callable[[str, float, "Tensor | None"], None]
"""Called with the stage's name, the share of it that is done, and the poses so far (OpenCV c2w) where there are any."""


@dataclass(frozen=True)
class Reconstruction:
    """Everything that flow told about a clip."""

    alignment: Alignment
    inverse_depth: Float[Tensor, "frames h w"]
    """1 / z in world units; 0 for frames that may not lend anything."""
    confidence: Float[Tensor, "frames h w"]

    @property
    def cameras(self) -> EstimatedCameras:
        """Poses and lens."""
        return EstimatedCameras(self.alignment.c2w, self.alignment.camera, self.alignment.posed)


def reconstruct(frames: Frames, held_out: Sequence[int], options: object, progress: Progress) -> Reconstruction:
    """Solve poses from all frames' flow, then depths from the flow of those that are not held out.

    Raises:
        FlowCamError: the clip gives no poses (still camera, pure rotation, too little texture, ...).
    """
    from flowcam_ns.alignment.dense_depth import dense_inverse_depth
    from flowcam_ns.alignment.estimate import estimate_poses
    from flowcam_ns.flow.store import FlowStore

    alignment = estimate_poses(frames, camera=frames.camera, options=options, progress=progress)
    progress("Dense depth", 0.0, alignment.c2w)
    usable = alignment.posed.clone()
    usable[list(held_out)] = False
    store = FlowStore(frames.images, masks=frames.masks)
    guide = torch.from_numpy(frames.images)
    inverse_depth, confidence = dense_inverse_depth(
        alignment.c2w, alignment.camera, PixelFlow(store), usable=usable, guide=guide
    )
    progress("Dense depth", 1.0, alignment.c2w)
    return Reconstruction(alignment, inverse_depth, confidence)


class PixelFlow:
    """A flow store's dense flow in px of its own grid, as tensors."""

    def __init__(self, store: object) -> None:
        self._store = store

    def dense(self, i: int, j: int) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w"]]:
        """Flow from frame i to j and its confidence."""
        flow, confidence = self._store.dense(i, j)  # type: ignore[attr-defined]
        height, width = confidence.shape
        return torch.from_numpy(flow) * torch.tensor([width, height]), torch.from_numpy(confidence)
