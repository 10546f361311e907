"""From features to surfaces: every pixel's expected 3D point, by volume rendering along its ray; and re-rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.latent_field import LatentField
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.volume_rendering import compositing_weights, geometric_depths

PROJECTION_EPS = 1e-5


@dataclass
class RaySurfaces:
    """What volume rendering makes of a set of rays; nothing is divided by `accumulation`."""

    rgb: Float[Tensor, "*batch rays 3"]
    """In [0, 1]."""
    points: Float[Tensor, "*batch rays 3"]
    """Expected surface point in the ray's own camera frame."""
    depth: Float[Tensor, "*batch rays 1"]
    """Expected distance along the unit ray."""
    accumulation: Float[Tensor, "*batch rays 1"]
    """Sum of the samples' weights."""

    def frames(self, start: int | None, stop: int | None) -> RaySurfaces:
        """The surfaces of some of the frames, where they are [batch, frames, rays, ...]."""
        return RaySurfaces(*(x[:, start:stop] for x in vars(self).values()))


@dataclass
class ContextView:
    """A frame that lends its features to rays of other cameras, for a batch of those."""

    features: Float[Tensor, "batch channels h w"]
    T_context_camera: Float[Tensor, "batch 4 4"]
    """From the camera that casts the rays to this frame's."""
    K: Float[Tensor, "batch 3 3"]
    """Pinhole matrix of this frame over the image's size."""


def pixel_coordinates(rays: Int[Tensor, "rays"], size: tuple[int, int], centre: float) -> Float[Tensor, "rays 2"]:
    """(x, y) of row-major pixel indices in fractions of the image; `centre` is 0.5, or 0 on the authors' grid."""
    height, width = size
    x, y = rays % width, torch.div(rays, width, rounding_mode="floor")
    return torch.stack([(x + centre) / width, (y + centre) / height], dim=-1)


def on_unit_plane(uv: Float[Tensor, "*batch rays 2"], K: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch rays 2"]:
    """Where rays through normalised pixel coordinates meet the camera's plane at distance 1."""
    y = (uv[..., 1] - K[..., 1, 2, None]) / K[..., 1, 1, None]
    x = (uv[..., 0] - K[..., 0, 2, None] - K[..., 0, 1, None] * y) / K[..., 0, 0, None]
    return torch.stack([x, y], dim=-1)


def unit_rays(uv: Float[Tensor, "*batch rays 2"], K: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch rays 3"]:
    """Unit ray directions in the camera's frame through normalised pixel coordinates."""
    place = on_unit_plane(uv, K)
    return F.normalize(torch.cat([place, torch.ones_like(place[..., :1])], dim=-1), dim=-1)


@full_precision
def project(
    points: Float[Tensor, "*batch points 3"], K: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Normalised pixel coordinates of points in the camera's frame; behind the camera finite but meaningless."""
    projected = points @ K.transpose(-1, -2)
    z = projected[..., 2:] + PROJECTION_EPS
    z = torch.where(z.abs() < PROJECTION_EPS**2, torch.full_like(z, PROJECTION_EPS**2), z)
    return projected[..., :2] / z


def lookup(
    features: Float[Tensor, "batch channels h w"], uv: Float[Tensor, "batch *points 2"], align_corners: bool
) -> Float[Tensor, "batch *points channels"]:
    """Features at normalised pixel coordinates, bilinear; outside the image the nearest border pixel's."""
    grid = uv.flatten(1, -2)[:, :, None] * 2 - 1
    sampled = F.grid_sample(features, grid.to(features.dtype), padding_mode="border", align_corners=align_corners)
    return sampled[..., 0].transpose(1, 2).unflatten(1, uv.shape[1:-1])


class SurfaceRenderer:
    """Renders rays with a field and a config's sampling; holds no weights of its own."""

    def __init__(self, field: LatentField, config: NetworkConfig) -> None:
        self.field = field
        self.config = config

    def render_own(
        self,
        features: Float[Tensor, "batch channels h w"],
        K: Float[Tensor, "batch 3 3"],
        uv: Float[Tensor, "batch rays 2"],
    ) -> RaySurfaces:
        """Rays of frames rendered from their own features alone, in their own camera frames."""
        directions = unit_rays(uv, K)
        depths, samples = self._samples(directions)
        if self.config.authors_conventions:
            projected = project(samples.flatten(1, 2), K).unflatten(1, samples.shape[1:3])
            seen = lookup(features, projected, align_corners=True)
        else:
            seen = lookup(features, uv, align_corners=False)[:, :, None]
        rgb, density = self.field(samples[None], seen[None])
        return self._composite(rgb, density, directions, depths)

    def render_from_context(
        self,
        features: Float[Tensor, "batch frames channels h w"],
        c2w: Float[Tensor, "batch frames 4 4"],
        K: Float[Tensor, "batch frames 3 3"],
        targets: Int[Tensor, "targets"],
        contexts: Int[Tensor, "targets views"],
        uv: Float[Tensor, "batch targets rays 2"],
    ) -> RaySurfaces:
        """Rays of the `targets` rendered from the features of their `contexts`, through the poses."""
        batch, count = uv.shape[:2]
        views = [
            ContextView(
                features[:, frames].flatten(0, 1),
                se3.between(c2w[:, frames], c2w[:, targets]).flatten(0, 1),
                K[:, targets if self.config.authors_conventions else frames].flatten(0, 1),
            )
            for frames in contexts.unbind(-1)
        ]
        surfaces = self.render_from_views(unit_rays(uv.flatten(0, 1), K[:, targets].flatten(0, 1)), views)
        return RaySurfaces(*(x.unflatten(0, (batch, count)) for x in vars(surfaces).values()))

    def render_from_views(self, directions: Float[Tensor, "batch rays 3"], views: Sequence[ContextView]) -> RaySurfaces:
        """Unit rays of cameras (in their own frames) rendered from what each of the `views` sees along them."""
        depths, samples = self._samples(directions)
        samples_flat = samples.flatten(1, 2)
        points_views = [se3.transform(view.T_context_camera[:, None], samples_flat) for view in views]
        seen_views = [
            lookup(view.features, project(points, view.K), self.config.authors_conventions)
            for view, points in zip(views, points_views, strict=True)
        ]
        points = torch.stack(points_views)
        valid = None if self.config.authors_conventions else points[..., 2] > 0
        rgb, density = self.field(points, torch.stack(seen_views), valid)
        shape = samples.shape[1:3]
        return self._composite(rgb.unflatten(1, shape), density.unflatten(1, shape), directions, depths)

    def _samples(
        self, directions: Float[Tensor, "batch rays 3"]
    ) -> tuple[Float[Tensor, "samples"], Float[Tensor, "batch rays samples 3"]]:
        depths = geometric_depths(self.config.near, self.config.far, self.config.num_samples, directions)
        return depths, directions[:, :, None] * depths[:, None]

    def _composite(
        self,
        rgb: Float[Tensor, "batch rays samples 3"],
        density: Float[Tensor, "batch rays samples"],
        directions: Float[Tensor, "batch rays 3"],
        depths: Float[Tensor, "samples"],
    ) -> RaySurfaces:
        weights = compositing_weights(density.to(depths.dtype), depths, self.config.opaque_far)
        depth = (weights * depths).sum(-1, keepdim=True)
        # Samples lie on the ray, so their weighted sum is the expected distance along it.
        return RaySurfaces(
            rgb=(weights[..., None] * rgb).sum(-2),
            points=depth * directions,
            depth=depth,
            accumulation=weights.sum(-1, keepdim=True),
        )
