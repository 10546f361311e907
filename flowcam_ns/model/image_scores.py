"""Scores of rendered images, and the trivial rendering that they are compared with."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.model.scene import ContextScene

LPIPS_LEAST_SIDE = 36
"""px; of smaller images AlexNet's last layers see nothing."""


class ImageScores:
    """psnr, ssim and, where its weights are at hand, lpips (alex) of an image against its truth.

    Deliberately no Module: LPIPS weights belong into no checkpoint. They are looked for once, on first use, so that all
    images of a run have the same scores.
    """

    def __init__(self) -> None:
        self._lpips: Any = None
        self._tried = False

    @torch.no_grad()
    def __call__(
        self, image: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]
    ) -> dict[str, float]:
        """All scores of one image with values in 0..1."""
        from torchmetrics.functional.image import structural_similarity_index_measure

        first, second = (x.float().clamp(0, 1).permute(2, 0, 1)[None] for x in (image, truth))
        error = float((first - second).square().mean())
        ssim = structural_similarity_index_measure(first, second, data_range=1.0)
        assert isinstance(ssim, Tensor)
        scores = {"psnr": -10 * float(np.log10(max(error, 1e-10))), "ssim": float(ssim)}
        lpips = self._load_lpips(first.device)
        if lpips is not None and min(first.shape[-2:]) >= LPIPS_LEAST_SIDE:
            scores["lpips"] = float(lpips(first, second))
        return scores

    def _load_lpips(self, device: torch.device) -> Any:
        if not self._tried:
            self._tried = True
            try:
                from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

                self._lpips = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)
            except (OSError, ImportError, RuntimeError) as error:  # no network, no torchvision, broken download
                print(f"LPIPS is left out: its AlexNet weights could not be loaded ({type(error).__name__}).")
        return self._lpips


def nearest_frame_copy(
    scene: ContextScene, frame: int, size: tuple[int, int] | None = None
) -> Float[Tensor, "height width 3"]:
    """The usable frame whose number is nearest to `frame` (the earlier of two), as an image in 0..1 of `size` (height,
    width); that of the scene's images by default.
    """
    candidates = scene.usable.cpu().clone()
    candidates[frame] = False
    others = candidates.nonzero()[:, 0]
    nearest = scene.images[int(others[(others - frame).abs().argmin()])]
    if size is not None and size != nearest.shape[:2]:
        resized = cv2.resize(nearest.cpu().numpy(), (size[1], size[0]), interpolation=cv2.INTER_AREA)
        nearest = torch.from_numpy(resized)
    return nearest.float() / 255
