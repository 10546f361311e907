"""A frame as the field's contexts show it, the way the photometric normal equations want it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.photometric import PhotometricView, places
from flowcam_ns.alignment.problem import FlowProblem
from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.blend_field import BlendField
from flowcam_ns.model.blend_sampling import REFERENCE_SIDE

LUMINANCE = (0.299, 0.587, 0.114)
CELL = 32
"""Side of the cells that share a depth error, px of an image with a long side of about `REFERENCE_SIDE`."""
BORDER = 0.98
"""Places farther out than this share of a context's half size have no gradient."""


@torch.no_grad()
def photometric_view(field: BlendField, frame: int, lens: Float[Tensor, "lens"], stride: int) -> PhotometricView:
    """Pixels of a frame that may be shown, rendered from the others; as many of a large frame as of a small one.

    Args:
        field: with its scene.
        frame: a usable frame; it lends itself nothing.
        lens: the scene's lens as the solver has it.
        stride: between them, in px of an image with a long side of about `REFERENCE_SIDE`.
    """
    scene = field.scene
    if scene is None or not bool(scene.usable[frame]):
        raise FlowCamError("only frames that are not held out can be compared with their rendering")
    device = field.device
    height, width = scene.images.shape[1:3]
    larger = max(1, round(max(width, height) / REFERENCE_SIDE))
    stride, cell = stride * larger, CELL * larger
    rows, columns = torch.arange(stride // 2, height, stride), torch.arange(stride // 2, width, stride)
    y, x = (v.flatten() for v in torch.meshgrid(rows, columns, indexing="ij"))
    pixels = torch.stack([x, y], dim=-1).to(device) + 0.5
    pose = scene.c2w[frame].float().to(device)
    rays_cam = F.normalize(scene.camera.unproject(pixels), dim=-1)
    guide = field.training_guide(frame)
    chosen, blend = field.blend_of(pose[:3, 3], rays_cam @ pose[:3, :3].T, pose[:3, 2], guide, frame)
    size = pixels.new_tensor([width, height])
    side = float(size.max())
    contexts = len(chosen)
    problem = FlowProblem(
        sources=torch.tensor([frame]),
        points=((pixels - size / 2) / side).T[None].cpu(),
        neighbours=chosen[None].cpu(),
        targets=torch.zeros(1, contexts, 2, len(pixels)),
        confidence=torch.ones(1, contexts, len(pixels)),
    )
    inverse_depth = (blend.inverse_distance / rays_cam[:, 2]).cpu()[None]
    place = places(problem, inverse_depth, scene.c2w.double().cpu(), lens)
    grid = (place.transpose(1, 2) * side / (size.cpu() / 2))[:, None]
    luminance = torch.tensor(LUMINANCE)
    pictures = scene.images[chosen.cpu()].float() @ luminance / 255
    across = F.pad((pictures[:, :, 2:] - pictures[:, :, :-2]) / 2, (1, 1))
    down = F.pad((pictures[:, 2:] - pictures[:, :-2]) / 2, (0, 0, 1, 1))
    gradient = F.grid_sample(torch.stack([across, down], dim=1), grid, align_corners=False, padding_mode="border")
    weights = blend.weights.cpu() * (grid[:, 0].abs() < BORDER).all(-1)
    shown = ((blend.weights[..., None] * blend.candidates).sum(0)).cpu() @ luminance
    own = scene.images[frame, y, x].float() @ luminance / 255
    confidence = blend.confidence.cpu().clamp(0, 1)
    if scene.masks is not None:
        confidence = confidence * scene.masks[frame, y, x].cpu()
    cells = (y // cell) * (width // cell + 1) + x // cell
    return PhotometricView(
        problem, inverse_depth, gradient[:, :, 0] * side, weights, shown - own, own, confidence, cells
    )


def brightness_error(view: PhotometricView) -> float:
    """Mean absolute error of brightness where contexts see the surface."""
    weight = view.confidence * view.weights.sum(0)
    return float((weight * view.error.abs()).sum() / weight.sum().clamp(min=1e-6))
