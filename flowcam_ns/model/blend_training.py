"""One training step of the blend field: re-render a patch of a frame from the other frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.blend_field import BlendField

PATCH = 64
GRADIENT_WEIGHT = 0.5


def training_step(
    field: BlendField, target_index: int, generator: torch.Generator | None = None, patch: int = PATCH
) -> dict[str, Tensor]:
    """Losses of a random `patch` x `patch` px patch of a usable frame, rendered without that frame as context.

    Returns `rgb` (L1) and `gradient` (L1 of image gradients), already weighted: their sum is to be minimised.
    """
    scene = field.scene
    if scene is None or not bool(scene.usable[target_index]):
        raise FlowCamError("only frames of the scene that are not held out can be trained on")
    height, width = scene.images.shape[1:3]
    size_y, size_x = min(patch, height), min(patch, width)
    y = int(torch.randint(height - size_y + 1, (1,), generator=generator))
    x = int(torch.randint(width - size_x + 1, (1,), generator=generator))
    origins, directions, forward = camera_rays(
        scene.camera, scene.c2w[target_index].float().to(field.device), (x, y, size_x, size_y)
    )
    guide = field.training_guide(target_index)
    rgb = field(origins, directions, exclude=target_index, forward=forward, guide=guide)["rgb"]
    truth = scene.images[target_index, y : y + size_y, x : x + size_x].to(field.device).float() / 255
    return patch_losses(rgb, truth)


def patch_losses(rgb: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> dict[str, Tensor]:
    """L1 of colours, and of their differences between neighbouring pixels (sharpness)."""
    error = rgb - truth
    across, down = error[:, 1:] - error[:, :-1], error[1:] - error[:-1]
    return {"rgb": error.abs().mean(), "gradient": GRADIENT_WEIGHT * (across.abs().mean() + down.abs().mean())}


@full_precision
def camera_rays(
    camera: Camera, c2w: Float[Tensor, "4 4"], window: tuple[int, int, int, int] | None = None
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 3"], Float[Tensor, "3"]]:
    """Origins, unit directions and optical axis of a camera's pixels, or of a window (x, y, width, height) of them."""
    x, y, w, h = window or (0, 0, camera.width, camera.height)
    rows, columns = torch.meshgrid(torch.arange(y, y + h), torch.arange(x, x + w), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).to(c2w) + 0.5
    directions = F.normalize(camera.unproject(pixels), dim=-1) @ c2w[:3, :3].T
    return c2w[:3, 3].expand_as(directions), directions, c2w[:3, 2]
