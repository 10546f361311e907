"""The lens as the solver sees it: a vector of seven unknowns, with the derivatives of rays and pixels.

Unknowns: log focal length, principal point offset (x, y) and distortion
(k1, k2 radial, p1, p2 tangential), all in units that do not
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

LENS_SIZE = 7
"""log f, cx, cy, k1, k2, p1, p2."""
NEWTON_STEPS = 5
NEWTON_TOLERANCE = 0.03
"""In square roots of the precision: a step this short leaves an error of its square, and nothing to hold it in."""
MIN_SLOPE = 0.1
"""The distortion must keep growing with the radius: its slope is held above this."""


def lens_from_camera(camera: Camera) -> Float[Tensor, "lens"]:
    """The solver's lens vector of a camera (unequal focal lengths are averaged)."""
    side = max(camera.width, camera.height)
    focal = math.sqrt(camera.fx * camera.fy) / side
    cx, cy = (camera.cx - camera.width / 2) / side, (camera.cy - camera.height / 2) / side
    return torch.tensor([math.log(focal), cx, cy, *camera.distortion], dtype=torch.float64)


def camera_from_lens(lens: Float[Tensor, "lens"], width: int, height: int) -> Camera:
    """The camera of a lens vector for images of `width` x `height` px."""
    side = max(width, height)
    log_focal, cx, cy, *distortion = lens.tolist()
    focal = math.exp(log_focal) * side
    return Camera(width, height, focal, focal, width / 2 + cx * side, height / 2 + cy * side, *distortion)


def centred_pixels(pixels: Float[Tensor, "*batch 2"], width: int, height: int) -> Float[Tensor, "*batch 2"]:
    """Pixels (px, centres at +0.5) relative to the middle of the image, in units of its long side."""
    return (pixels - pixels.new_tensor([width / 2, height / 2])) / max(width, height)


def rays(pixels: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"]) -> Float[Tensor, "*batch 2 points"]:
    """Ray directions (x/z, y/z) through centred pixels; the distortion is inverted by Newton's method."""
    distorted = (pixels - lens[1:3, None]) / lens[0].exp()
    if not bool((lens[3:] != 0).any()):
        return distorted
    ray, close = distorted, NEWTON_TOLERANCE * torch.finfo(distorted.dtype).eps ** 0.5
    for _ in range(NEWTON_STEPS):
        (a, b), (_, d) = (row.unbind(-2) for row in _distortion_jacobian(ray, lens).unbind(-3))
        determinant = (a * d - b * b).clamp(min=MIN_SLOPE**2)
        x, y = (_distort(ray, lens) - distorted).unbind(-2)
        step = torch.stack([(d * x - b * y) / determinant, (a * y - b * x) / determinant], dim=-2)
        ray = ray - step
        if float(step.detach().abs().amax()) < close:
            break
    return ray


def project(ray: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"]) -> Float[Tensor, "*batch 2 points"]:
    """Centred pixels of rays (x/z, y/z)."""
    return _distort(ray, lens) * lens[0].exp() + lens[1:3, None]


def project_jacobians(
    ray: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"], with_lens: bool = True
) -> tuple[
    Float[Tensor, "*batch 2 points"], Float[Tensor, "*batch 2 2 points"], Float[Tensor, "*batch lens 2 points"] | None
]:
    """Centred pixels of rays, with derivatives by the ray (indexed [ray, pixel]) and by the lens (at a fixed ray)."""
    focal = lens[0].exp()
    pixel = _distort(ray, lens) * focal
    by_ray = _distortion_jacobian(ray, lens) * focal
    by_lens = _lens_columns(pixel, ray, focal) if with_lens else None
    return pixel + lens[1:3, None], by_ray, by_lens


def ray_lens_jacobian(
    pixels: Float[Tensor, "*batch 2 points"], ray: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"]
) -> Float[Tensor, "*batch lens 2 points"]:
    """Derivative by the lens of the rays through fixed pixels.

    By the implicit function theorem: f D(ray) + c = pixel with D the distortion, so d ray = -D'^-1 (d pixel at a fixed
    ray) / f.
    """
    focal = lens[0].exp()
    columns = _lens_columns((pixels - lens[1:3, None]) / focal, ray, torch.ones_like(focal))
    columns[..., 1:3, :, :] /= focal
    jacobian = _distortion_jacobian(ray, lens)
    (a, b), (c, d) = (row.unbind(-2) for row in jacobian.unbind(-3))
    determinant = (a * d - b * c).clamp(min=MIN_SLOPE**2)
    x, y = columns.unbind(-2)
    expand = (slice(None),) * (a.ndim - 1) + (None,)
    a, b, c, d, determinant = (item[expand] for item in (a, b, c, d, determinant))
    return torch.stack([(b * y - d * x) / determinant, (c * x - a * y) / determinant], dim=-2)


def _distort(ray: Float[Tensor, "*batch 2 points"], lens: Float[Tensor, "lens"]) -> Float[Tensor, "*batch 2 points"]:
    """OPENCV distortion of normalised coordinates."""
    x, y = ray[..., :1, :], ray[..., 1:, :]
    r2 = x * x + y * y
    radial = ray * (1 + r2 * (lens[3] + r2 * lens[4]))
    if not _has_tangential(lens):
        return radial
    cross = 2 * x * y
    p1, p2 = lens[5], lens[6]
    return radial + torch.cat([p1 * cross + p2 * (r2 + 2 * x * x), p2 * cross + p1 * (r2 + 2 * y * y)], dim=-2)


def _distortion_jacobian(ray: Tensor, lens: Tensor) -> Float[Tensor, "*batch 2 2 points"]:
    """Derivative of the distortion by the ray; symmetric."""
    x, y = ray.unbind(-2)
    r2 = x * x + y * y
    radial = 1 + r2 * (lens[3] + r2 * lens[4])
    slope = 2 * (lens[3] + 2 * lens[4] * r2)
    p1, p2 = lens[5], lens[6]
    out = ray.new_empty(*ray.shape[:-2], 2, 2, ray.shape[-1])
    along = slope * x
    out[..., 0, 0, :] = torch.addcmul(radial, along, x)
    out[..., 1, 1, :] = torch.addcmul(radial, slope * y, y)
    out[..., 0, 1, :] = along * y
    if _has_tangential(lens):
        out[..., 0, 0, :] += 2 * p1 * y + 6 * p2 * x
        out[..., 1, 1, :] += 6 * p1 * y + 2 * p2 * x
        out[..., 0, 1, :] += 2 * p1 * x + 2 * p2 * y
    out[..., 1, 0, :] = out[..., 0, 1, :]
    return out


def _has_tangential(lens: Float[Tensor, "lens"]) -> bool:
    """Whether p1 or p2 matter at all: they are 0 in most lenses, and nobody differentiates by them."""
    return lens.requires_grad or bool((lens[5:] != 0).any())


def _lens_columns(
    by_log_focal: Float[Tensor, "*batch 2 points"], ray: Float[Tensor, "*batch 2 points"], focal: Float[Tensor, ""]
) -> Float[Tensor, "*batch lens 2 points"]:
    """The derivatives of a ray's pixel by (log f, cx, cy, k1, k2, p1, p2)."""
    x, y = ray.unbind(-2)
    r2 = x * x + y * y
    out = ray.new_zeros(*ray.shape[:-2], LENS_SIZE, 2, ray.shape[-1])
    out[..., 0, :, :] = by_log_focal
    out[..., 1, 0, :] = 1
    out[..., 2, 1, :] = 1
    torch.mul(ray, (r2 * focal)[..., None, :], out=out[..., 3, :, :])
    torch.mul(out[..., 3, :, :], r2[..., None, :], out=out[..., 4, :, :])
    cross = 2 * focal * x * y
    out[..., 5, 0, :] = out[..., 6, 1, :] = cross
    out[..., 5, 1, :] = focal * (r2 + 2 * y * y)
    out[..., 6, 0, :] = focal * (r2 + 2 * x * x)
    return out
