"""Which frames a picture is compared with to tell how deep its pixels lie, and what is compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.scene import ContextScene

MISMATCH = 0.12
"""Difference of brightness structure that counts as a full mismatch."""
UNSEEN = 0.8
"""Mismatch of a frame that does not show the point."""
PARALLAXES_PX = (4.0, 10.0)
"""Parallax, at the typical depth, from which a frame is worth comparing with; one frame each on either side."""
FARTHEST = 8
"""Frames are looked for so far away in the clip."""
SURROUNDINGS = 6
"""Radius in px of the mean that is taken off the brightness, so that exposure does not count."""
NEAREST_Z = 1e-2
FREE = 0.99
"""Share of a pixel that no mask may touch if its depth shall follow its colours."""
KNOWN = 0.3
"""Confidence from which a depth tells how deep the scene is."""


def comparable_frames(scene: ContextScene, frame: int, px: float) -> list[int]:
    """Usable frames on either side of `frame` whose parallax is large enough; `px` is the parallax of a unit baseline.

    Where no frame of a side lies far enough away, its farthest one counts.
    """
    found: list[int] = []
    for step in (-1, 1):
        near = [frame + step * n for n in range(1, FARTHEST + 1)]
        near = [j for j in near if 0 <= j < len(scene) and bool(scene.usable[j])]
        baselines = [float((scene.c2w[j, :3, 3] - scene.c2w[frame, :3, 3]).norm()) for j in near]
        side: list[int] = []
        for wanted in PARALLAXES_PX:
            far = [j for j, b in zip(near, baselines, strict=True) if b * px >= wanted and j not in side]
            side += far[:1]
        found += side or near[-1:]
    return found


def picture_features(
    image: Float[Tensor, "height width 3"], size: tuple[int, int]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """Brightness less its surroundings' mean with its two gradients, and the brightness itself, at `size` (h, w)."""
    grey = F.interpolate(image.float().mean(-1)[None, None] / 255, size=size, mode="area")
    radius = SURROUNDINGS
    mean = F.avg_pool2d(padded(grey, radius), 2 * radius + 1, 1)
    around = padded(grey, 1)
    across = 0.75 * (around[..., 1:-1, 2:] - around[..., 1:-1, :-2])
    down = 0.75 * (around[..., 2:, 1:-1] - around[..., :-2, 1:-1])
    return torch.cat([grey - mean, across, down], dim=1)[0], grey[0, 0]


def padded(image: Float[Tensor, "batch channels h w"], radius: int) -> Float[Tensor, "batch channels H W"]:
    """An image with its border's pixels repeated around it."""
    return F.pad(image, (radius,) * 4, mode="replicate")


def known_inverse_depths(
    inverse: Float[Tensor, "frames h w"], confidence: Float[Tensor, "frames h w"], usable: Bool[Tensor, "frames"]
) -> Float[Tensor, "known"]:
    """Up to some hundred thousand of the inverse depths that are trusted."""
    known = inverse[usable][confidence[usable] > KNOWN]
    return known[:: max(1, len(known) // 100_000)]


def depths_at(scene: ContextScene, long_side: int) -> tuple[Tensor, Tensor, Camera]:
    """Inverse depths and confidences [frames, h, w] at least as large as `long_side`, but no larger than the frames
    unless they are so already; and the lens at that size.
    """
    height, width = scene.images.shape[1:3]
    scale = max(long_side, *scene.inverse_depth.shape[1:]) / max(height, width)
    w, h = (round(width * min(1.0, scale)), round(height * min(1.0, scale)))
    maps = torch.stack([scene.inverse_depth.float(), scene.confidence.float()], dim=1)
    maps = F.interpolate(maps, size=(h, w), mode="bilinear")
    return maps[:, 0].clone(), maps[:, 1].clone(), scene.camera.scaled_to(w, h)


def pixel_rays(camera: Camera) -> Float[Tensor, "h w 3"]:
    """Rays (z = 1) through all pixel centres, in the camera's frame."""
    y, x = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    return camera.unproject(torch.stack([x, y], dim=-1) + 0.5)


def relative_poses(scene: ContextScene, frame: int, others: Sequence[int]) -> Float[Tensor, "others 4 4"]:
    """From a frame's camera to those of others, on the CPU."""
    return (se3.inverse(scene.c2w[list(others)]) @ scene.c2w[frame]).float().cpu()


def free_pixels(masks: Bool[Tensor, "frames height width"], frame: int, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Pixels of a frame's depth map (h, w) that no mask touches, on the CPU: their depth may follow their colours."""
    return F.interpolate(masks[frame].float().cpu()[None, None], size=size, mode="area")[0, 0] > FREE
