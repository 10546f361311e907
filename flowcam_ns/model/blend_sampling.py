"""Samples along rays near known surfaces, and what the context frames show at them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.blend_pictures import ContextPictures
from flowcam_ns.model.exposure import ViewExposure

NEAREST_Z = 1e-2
REFERENCE_SIDE = 512
"""Parallax is counted in px of an image with this long side, so that it means the same at any size."""
LEAST_FORBIDDEN = 0.01
"""Share of masked pixels at a sample from which its colour is not used."""
BORDER = 0.03
"""Share of the image over which a context fades out towards its border."""


@dataclass
class ContextSamples:
    """What each context shows at each sample of each ray."""

    colours: Float[Tensor, "contexts rays samples 3"]
    """In 0..1."""
    misfit_px: Float[Tensor, "contexts rays samples"]
    """Sample's minus context's inverse depth, as the parallax it makes (px at `REFERENCE_SIDE`); positive: in front."""
    relative_misfit: Float[Tensor, "contexts rays samples"]
    """The same difference relative to the inverse depth."""
    trust: Float[Tensor, "contexts rays samples"]
    """Confidence of the context's depth there, 0..1."""
    inside: Float[Tensor, "contexts rays samples"]
    """1 inside the context's image, falling to 0 at its border; 0 where a mask forbids its colour."""


def place_samples(layers: Float[Tensor, "rays 3"], spread: float, floor: float) -> Float[Tensor, "rays 5"]:
    """Inverse distances of five samples, near to far: the likeliest surface, a step either side, both extremes."""
    near, centre, far = layers.unbind(-1)
    step = spread * centre + floor
    # Extremes so near to the likeliest surface are the noise of its depth: in front of it they would hide it.
    near = torch.where(near > centre + 0.5 * step, near, centre)
    far = torch.where(far < centre - 0.5 * step, far, centre)
    samples = torch.stack([near, centre + step, centre, (centre - step).clamp(min=0), far.clamp(min=0)], dim=-1)
    return torch.sort(samples, dim=-1, descending=True).values


@full_precision
def sample_contexts(
    origin: Float[Tensor, "3"],
    directions: Float[Tensor, "rays 3"],
    rho: Float[Tensor, "rays samples"],
    c2w: Float[Tensor, "contexts 4 4"],
    camera: Camera,
    pictures: ContextPictures,
    depths: Float[Tensor, "contexts 2 h w"],
    forbidden: Bool[Tensor, "contexts height width"] | None = None,
    exposure: ViewExposure | None = None,
) -> ContextSamples:
    """Project samples (inverse distance `rho` along unit rays) into every context and read what it shows there, but at
    `forbidden` pixels (see `forbidden_pixels`); with an `exposure`, as bright as the view.
    """
    w2c = se3.inverse(c2w)
    turned = torch.einsum("kij,rj->kri", w2c[:, :3, :3], directions)
    shift = w2c[:, :3, :3] @ origin + w2c[:, :3, 3]
    points = turned[:, :, None] + rho[None, ..., None] * shift[:, None, None]
    z = points[..., 2].clamp(min=NEAREST_Z)
    grid = image_grid(points[..., :2] / z[..., None], camera)
    inside = ((1 - grid.detach().abs().amax(-1)) / BORDER).clamp(0, 1) * (points[..., 2] > NEAREST_Z)
    if forbidden is not None:
        share = F.grid_sample(forbidden[:, None].float(), grid.detach(), align_corners=False)[:, 0]
        inside = inside * (share < LEAST_FORBIDDEN)
    found = F.grid_sample(depths, grid, mode="bilinear", align_corners=False, padding_mode="border")
    own = rho[None] / z
    difference = own - found[:, 0]
    baseline = shift.norm(dim=-1)[:, None, None]
    colours = pictures.sample(grid)
    return ContextSamples(
        colours=colours if exposure is None else exposure.evened(colours, grid),
        misfit_px=difference * baseline * camera.fx * (REFERENCE_SIDE / max(camera.width, camera.height)),
        relative_misfit=difference / (torch.maximum(own, found[:, 0]) + 1e-6),
        trust=found[:, 1],
        inside=inside,
    )


def forbidden_pixels(masks: Bool[Tensor, "frames height width"]) -> Bool[Tensor, "frames height width"]:
    """Pixels that a mask forbids, and those around them: the bicubic kernel of colours reaches two pixels far.

    The filter before it reaches one farther, with a hundredth of a pixel's weight.
    """
    # Frame by frame: in floats, a long video's masks would take as much memory as its pictures.
    grown = [F.max_pool2d((~mask[None, None]).float(), 5, 1, 2)[0, 0] > 0 for mask in masks]
    return torch.stack(grown)


def image_grid(xy: Float[Tensor, "*batch 2"], camera: Camera) -> Float[Tensor, "*batch 2"]:
    """Normalised image coordinates to `grid_sample`'s [-1, 1], kept where the lens model is one-to-one."""
    reach = 1.2 * max(camera.width / camera.fx, camera.height / camera.fy)
    xy = xy.clamp(-reach, reach)
    pixels = camera.project(torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1))
    return pixels / pixels.new_tensor([camera.width, camera.height]) * 2 - 1
