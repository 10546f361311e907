"""The lens as the solver sees it: a vector of five unknowns, with the derivatives of rays and pixels.

Unknowns: log focal length, principal point offset (x, y) and radial distortion (k1, k2), all in units that do not
depend on the image's size: lengths are divided by the long side of the image. Pixels handed to these functions are
*centred*: relative to the middle of the image and divided by its long side. Coordinates stand in the last but one
dimension, points in the last.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry.camera import Camera

LENS_SIZE = 5
"""log f, cx, cy, k1, k2."""
NEWTON_STEPS = 5
MIN_SLOPE = 0.1
"""Radial distortion must keep growing: its slope d(r_distorted)/dr is held above this."""


def lens_from_camera(camera: Camera) -> Float[Tensor, "lens"]:
    """The solver's lens vector of a camera (tangential distortion is left out, unequal focal lengths are averaged)."""
    side = max(camera.width, camera.height)
    focal = math.sqrt(camera.fx * camera.fy) / side
    cx, cy = (camera.cx - camera.width / 2) / side, (camera.cy - camera.height / 2) / side
    return torch.tensor([math.log(focal), cx, cy, camera.k1, camera.k2], dtype=torch.float64)


def camera_from_lens(lens: Float[Tensor, "lens"], width: int, height: int) -> Camera:
    """The camera of a lens vector for images of `width` x `height` px."""
    side = max(width, height)
    log_focal, cx, cy, k1, k2 = lens.tolist()
    focal = math.exp(log_focal) * side
    return Camera(width, height, focal, focal, width / 2 + cx * side, height / 2 + cy * side, k1, k2)


def centred_pixels(pixels: Float[Tensor, "*batch 2"], width: int, height: int) -> Float[Tensor, "*batch 2"]:
    """Pixels (px, centres at +0.5) relative to the middle of the image, in units of its long side."""
    return (pixels - pixels.new_tensor([width / 2, height / 2])) / max(width, height)


def rays(pixels: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"]) -> Float[Tensor, "*batch 2 points"]:
    """Ray directions (x/z, y/z) through centred pixels."""
    distorted = (pixels - lens[1:3, None]) / lens[0].exp()
    if not bool((lens[3:5] != 0).any()):
        return distorted
    radius_distorted = distorted.norm(dim=-2, keepdim=True)
    radius = radius_distorted
    for _ in range(NEWTON_STEPS):
        r2 = radius * radius
        value = radius * (1 + r2 * (lens[3] + r2 * lens[4]))
        slope = (1 + r2 * (3 * lens[3] + 5 * r2 * lens[4])).clamp(min=MIN_SLOPE)
        radius = radius - (value - radius_distorted) / slope
    return distorted * (radius / radius_distorted.clamp(min=1e-12))


def project(ray: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"]) -> Float[Tensor, "*batch 2 points"]:
    """Centred pixels of rays (x/z, y/z)."""
    r2 = (ray * ray).sum(-2, keepdim=True)
    return ray * ((1 + r2 * (lens[3] + r2 * lens[4])) * lens[0].exp()) + lens[1:3, None]


def project_jacobians(
    ray: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"], with_lens: bool = True
) -> tuple[
    Float[Tensor, "*batch 2 points"], Float[Tensor, "*batch 2 2 points"], Float[Tensor, "*batch lens 2 points"] | None
]:
    """Centred pixels of rays, with derivatives by the ray (indexed [ray, pixel]) and by the lens (at a fixed ray)."""
    focal = lens[0].exp()
    r2 = (ray * ray).sum(-2, keepdim=True)
    pixel = ray * ((1 + r2 * (lens[3] + r2 * lens[4])) * focal)
    by_ray = _distortion_jacobian(ray, lens) * focal
    by_lens = None
    if with_lens:
        radial = ray * (r2 * focal)
        by_lens = _lens_columns(pixel, radial, radial * r2)
    return pixel + lens[1:3, None], by_ray, by_lens


def ray_lens_jacobian(
    pixels: Float[Tensor, "*batch 2 points"], ray: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"]
) -> Float[Tensor, "*batch lens 2 points"]:
    """Derivative by the lens of the rays through fixed pixels.

    By the implicit function theorem: f D(ray) + c = pixel with D the distortion, so d ray = -D'^-1 (d pixel at a fixed
    ray) / f.
    """
    focal = lens[0].exp()
    r2 = (ray * ray).sum(-2, keepdim=True)
    radial = ray * r2
    columns = _lens_columns((pixels - lens[1:3, None]) / focal, radial, radial * r2)
    columns[..., 1:3, :, :] /= focal
    jacobian = _distortion_jacobian(ray, lens)
    (a, b), (c, d) = (row.unbind(-2) for row in jacobian.unbind(-3))
    determinant = (a * d - b * c).clamp(min=MIN_SLOPE**2)
    x, y = columns.unbind(-2)
    expand = (slice(None),) * (a.ndim - 1) + (None,)
    a, b, c, d, determinant = (item[expand] for item in (a, b, c, d, determinant))
    return torch.stack([(b * y - d * x) / determinant, (c * x - a * y) / determinant], dim=-2)


def _distortion_jacobian(ray: Tensor, lens: Tensor) -> Float[Tensor, "*batch 2 2 points"]:
    """Derivative of the radial distortion by the ray; symmetric."""
    r2 = (ray * ray).sum(-2, keepdim=True)
    radial = 1 + r2 * (lens[3] + r2 * lens[4])
    slope = 2 * (lens[3] + 2 * lens[4] * r2)
    outer = ray[..., :, None, :] * ray[..., None, :, :] * slope[..., None, :]
    outer[..., 0, 0, :] += radial[..., 0, :]
    outer[..., 1, 1, :] += radial[..., 0, :]
    return outer


def _lens_columns(by_log_focal: Tensor, by_k1: Tensor, by_k2: Tensor) -> Float[Tensor, "*batch lens 2 points"]:
    """Stack the derivatives by (log f, cx, cy, k1, k2)."""
    out = by_log_focal.new_zeros(*by_log_focal.shape[:-2], LENS_SIZE, *by_log_focal.shape[-2:])
    out[..., 0, :, :] = by_log_focal
    out[..., 1, 0, :] = 1
    out[..., 2, 1, :] = 1
    out[..., 3, :, :] = by_k1
    out[..., 4, :, :] = by_k2
    return out
