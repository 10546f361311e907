"""The pinhole camera with OPENCV distortion: px with pixel centres at +0.5; axes x right, y down, z forward."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

PIXEL_CENTRE = 0.5
"""Our pixel centres lie at +0.5, OpenCV's at integers; `to_opencv_pixels` and its inverse are the only converters."""

NEWTON_STEPS = 6


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one camera in px, nerfstudio's and COLMAP's OPENCV model (k1, k2, p1, p2)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @classmethod
    def from_focal(cls, width: int, height: int, focal: float) -> Camera:
        """An undistorted camera with square pixels and its principal point in the middle; `focal` in px."""
        return cls(width, height, focal, focal, width / 2, height / 2)

    @property
    def distortion(self) -> tuple[float, float, float, float]:
        """(k1, k2, p1, p2)."""
        return self.k1, self.k2, self.p1, self.p2

    def scaled_to(self, width: int, height: int) -> Camera:
        """The same lens for the image resized to `width` x `height` px."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy
        )

    def matrix(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "3 3"]:
        """The 3x3 intrinsic matrix K in px."""
        return torch.tensor([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=dtype)

    def project(self, points_cam: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
        """Pixels of points in the camera's frame; points must lie in front (z > 0) for the result to mean anything."""
        xy = distort(points_cam[..., :2] / points_cam[..., 2:], self._coefficients(points_cam))
        return xy * xy.new_tensor([self.fx, self.fy]) + xy.new_tensor([self.cx, self.cy])

    def unproject(self, pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
        """Rays through pixels, scaled to z = 1, in the camera's frame."""
        xy = (pixels - pixels.new_tensor([self.cx, self.cy])) / pixels.new_tensor([self.fx, self.fy])
        xy = undistort(xy, self._coefficients(pixels))
        return torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)

    def _coefficients(self, like: Tensor) -> Float[Tensor, "4"]:
        return like.new_tensor(self.distortion)


def distort(xy: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "4"]) -> Float[Tensor, "*batch 2"]:
    """Apply OPENCV distortion (k1, k2, p1, p2) to normalised image coordinates."""
    k1, k2, p1, p2 = coefficients.unbind(-1)
    x, y = xy.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * k2)
    dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([x * radial + dx, y * radial + dy], dim=-1)


def distort_jacobian(xy: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "4"]) -> Float[Tensor, "*batch 2 2"]:
    """Derivative of `distort` with respect to `xy`."""
    k1, k2, p1, p2 = coefficients.unbind(-1)
    x, y = xy.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * k2)
    slope = 2 * (k1 + 2 * k2 * r2)
    xx = radial + x * x * slope + 2 * p1 * y + 6 * p2 * x
    yy = radial + y * y * slope + 6 * p1 * y + 2 * p2 * x
    cross = x * y * slope + 2 * p1 * x + 2 * p2 * y
    return torch.stack([xx, cross, cross, yy], dim=-1).reshape(*xy.shape[:-1], 2, 2)


def undistort(xy: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "4"]) -> Float[Tensor, "*batch 2"]:
    """Invert `distort` by a fixed number of Newton steps (exact to rounding for lenses that can be inverted)."""
    if not bool(torch.any(coefficients != 0)):
        return xy
    undistorted = xy
    for _ in range(NEWTON_STEPS):
        error = distort(undistorted, coefficients) - xy
        a, b, c, d = distort_jacobian(undistorted, coefficients).flatten(-2).unbind(-1)
        determinant = (a * d - b * c).clamp(min=1e-3)
        ex, ey = error.unbind(-1)
        step = torch.stack([d * ex - b * ey, a * ey - c * ex], dim=-1) / determinant[..., None]
        undistorted = undistorted - step
    return undistorted


def to_opencv_pixels(pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """From our pixels (centres at +0.5) to OpenCV's (centres at integers)."""
    return pixels - PIXEL_CENTRE


def from_opencv_pixels(pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """From OpenCV's pixels (centres at integers) to ours (centres at +0.5)."""
    return pixels + PIXEL_CENTRE
