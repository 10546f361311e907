"""Casting rays into a scene: which surface each ray meets first, and how far away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int

from flowcam_ns.geometry.camera import PIXEL_CENTRE, Camera
from flowcam_ns.synthetic.primitives import NEAR, Solid
from flowcam_ns.synthetic.scene import Scene

WIDE = np.deg2rad(85.0)
"""Directions further than this from the optical axis count as unbounded."""


@dataclass(frozen=True)
class PixelRays:
    """Rays through all pixel centres of a camera, in its own frame, scaled to z = 1; the same for every frame."""

    camera: Camera
    xy: Float64[np.ndarray, "2 height width"]

    @classmethod
    def of(cls, camera: Camera) -> PixelRays:
        """The rays of a camera, its lens distortion undone."""
        x, y = np.arange(camera.width) + PIXEL_CENTRE, np.arange(camera.height) + PIXEL_CENTRE
        pixels = np.stack(np.meshgrid(x, y), axis=-1)
        return cls(camera, unproject(camera, pixels))

    def window(self, low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"]) -> tuple[slice, slice]:
        """Smallest rows and columns that hold every ray whose xy lies between `low` and `high`."""
        x, y = self.xy
        columns = np.flatnonzero((x.max(axis=0) >= low[0]) & (x.min(axis=0) <= high[0]))
        rows = np.flatnonzero((y.max(axis=1) >= low[1]) & (y.min(axis=1) <= high[1]))
        if not len(columns) or not len(rows):
            return slice(0, 0), slice(0, 0)
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def unproject(camera: Camera, pixels: Float[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "2 *batch"]:
    """x and y of rays with z = 1 through pixels, as two planes."""
    rays = camera.unproject(torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float64))).numpy()
    return np.ascontiguousarray(np.moveaxis(rays[..., :2], -1, 0))


def world_directions(
    xy: Float64[np.ndarray, "2 *rays"], c2w: Float64[np.ndarray, "4 4"]
) -> Float64[np.ndarray, "3 *rays"]:
    """World directions of rays (x, y, 1); lengths are kept, so that the distance along one is the depth z."""
    R = c2w[:3, :3]
    return np.stack([R[axis, 0] * xy[0] + R[axis, 1] * xy[1] + R[axis, 2] for axis in range(3)])


def sphere_extent(
    centre_cam: Float64[np.ndarray, "3"], radius: float
) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]] | None:
    """Range of x/z and y/z over a sphere in the camera's frame; None where it lies wholly behind."""
    if centre_cam[2] + radius < NEAR:
        return None
    low, high = np.full(2, -np.inf), np.full(2, np.inf)
    for axis in range(2):
        distance = np.hypot(centre_cam[axis], centre_cam[2])
        if distance <= radius:
            continue
        middle, spread = np.arctan2(centre_cam[axis], centre_cam[2]), np.arcsin(radius / distance)
        if middle - spread > WIDE or middle + spread < -WIDE:
            return None
        if middle - spread > -WIDE:
            low[axis] = np.tan(middle - spread)
        if middle + spread < WIDE:
            high[axis] = np.tan(middle + spread)
    return low, high


def visible_solids(
    scene: Scene, c2w: Float64[np.ndarray, "4 4"]
) -> list[tuple[int, Solid, Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]]]:
    """Solids that may be seen, each with the range of x/z and y/z it can cover. The room is not among them."""
    found = []
    for index, solid in enumerate(scene.solids[1:], start=1):
        extent = sphere_extent(c2w[:3, :3].T @ (solid.centre - c2w[:3, 3]), solid.bound)
        if extent is not None:
            found.append((index, solid, *extent))
    return found


def trace_pixels(
    scene: Scene, rays: PixelRays, c2w: Float64[np.ndarray, "4 4"]
) -> tuple[Float64[np.ndarray, "height width"], Int[np.ndarray, "height width"]]:
    """Depth z and number of the solid seen at every pixel centre."""
    origin, directions = c2w[:3, 3], world_directions(rays.xy, c2w)
    depth = scene.solids[0].hit(origin, directions)
    owner = np.zeros(depth.shape, np.int64)
    for index, solid, low, high in visible_solids(scene, c2w):
        window = rays.window(low, high)
        if window[0].stop > window[0].start:
            _nearer(depth, owner, window, index, solid.hit(origin, directions[(slice(None), *window)]))
    return depth, owner


def trace_rays(
    scene: Scene, xy: Float64[np.ndarray, "2 n"], c2w: Float64[np.ndarray, "4 4"]
) -> tuple[Float64[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Depth z and number of the solid seen along any rays (x, y, 1) of the camera."""
    origin, directions = c2w[:3, 3], world_directions(xy, c2w)
    depth = scene.solids[0].hit(origin, directions)
    owner = np.zeros(depth.shape, np.int64)
    for index, solid, low, high in visible_solids(scene, c2w):
        inside = (xy[0] >= low[0]) & (xy[0] <= high[0]) & (xy[1] >= low[1]) & (xy[1] <= high[1])
        chosen = np.flatnonzero(inside)
        if len(chosen):
            _nearer(depth, owner, chosen, index, solid.hit(origin, directions[:, chosen]))
    return depth, owner


def _nearer(
    depth: np.ndarray, owner: np.ndarray, where: tuple[slice, slice] | np.ndarray, index: int, hit: np.ndarray
) -> None:
    """Take over the hits of one solid where they are nearer."""
    nearer = hit < depth[where]
    depth[where] = np.where(nearer, hit, depth[where])
    owner[where] = np.where(nearer, index, owner[where])
