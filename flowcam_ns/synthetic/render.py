"""Images of a scene: colour with anti-aliasing, exact depth, and exact flow between two views."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from torch.nn.functional import grid_sample

from flowcam_ns.geometry.camera import PIXEL_CENTRE, Camera
from flowcam_ns.synthetic.primitives import FACES
from flowcam_ns.synthetic.scene import AMBIENT, DIFFUSE, SKY_AMBIENT, Scene
from flowcam_ns.synthetic.trace import PixelRays, trace_pixels, trace_rays, unproject, world_directions

EDGE_SAMPLES = 3
"""Pixels at an edge are averaged over this many rays each way; elsewhere textures are filtered by footprint."""
GRAZING_POWER = 0.65
"""How much a surface's slant widens the texture footprint: 1 never aliases and blurs, 0 ignores the slant."""
VARIATION_PERIOD = 7.3
DEPTH_TOLERANCE = 0.01


@lru_cache(maxsize=8)
def pixel_rays(camera: Camera) -> PixelRays:
    """Rays of a camera, kept for the next frame."""
    return PixelRays.of(camera)


def render(
    scene: Scene, camera: Camera, c2w: Float64[np.ndarray, "4 4"]
) -> tuple[UInt8[np.ndarray, "height width 3"], Float32[np.ndarray, "height width"]]:
    """One view: RGB, anti-aliased, and depth in metres along the camera's axis at the pixel centres."""
    rays = pixel_rays(camera)
    depth, owner = trace_pixels(scene, rays, c2w)
    colour, surface = shade(scene, camera, c2w, rays.xy.reshape(2, -1), depth.ravel(), owner.ravel())
    colour, surface = colour.reshape(*depth.shape, 3), surface.reshape(depth.shape)
    rows, columns = np.nonzero(_edges(surface, depth))
    if len(rows):
        colour[rows, columns] = _supersampled(scene, camera, c2w, rows, columns)
    return np.clip(colour * 255 + 0.5, 0, 255).astype(np.uint8), depth.astype(np.float32)


def render_depth(scene: Scene, camera: Camera, c2w: Float64[np.ndarray, "4 4"]) -> Float32[np.ndarray, "height width"]:
    """Only the depth of `render`: several times faster."""
    return trace_pixels(scene, pixel_rays(camera), c2w)[0].astype(np.float32)


def _edges(
    surface: Int[np.ndarray, "height width"], depth: Float64[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """Pixels whose neighbour shows another surface."""
    edge = np.zeros(surface.shape, bool)
    across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _supersampled(
    scene: Scene,
    camera: Camera,
    c2w: Float64[np.ndarray, "4 4"],
    rows: Int[np.ndarray, "n"],
    columns: Int[np.ndarray, "n"],
) -> Float32[np.ndarray, "n 3"]:
    """Colours of some pixels as the mean of EDGE_SAMPLES^2 rays each."""
    steps = (np.arange(EDGE_SAMPLES) + 0.5) / EDGE_SAMPLES
    shift = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(1, -1, 2)
    pixels = (np.stack([columns, rows], axis=-1)[:, None] + shift).reshape(-1, 2)
    xy = unproject(camera, pixels)
    depth, owner = trace_rays(scene, xy, c2w)
    colour, _ = shade(scene, camera, c2w, xy, depth, owner)
    return colour.reshape(len(rows), -1, 3).mean(axis=1)


def shade(
    scene: Scene,
    camera: Camera,
    c2w: Float64[np.ndarray, "4 4"],
    xy: Float64[np.ndarray, "2 n"],
    depth: Float64[np.ndarray, "n"],
    owner: Int[np.ndarray, "n"],
) -> tuple[Float32[np.ndarray, "n 3"], Int[np.ndarray, "n"]]:
    """Colours (0 to 1) of rays that met solid `owner` at `depth`, and the number of the surface each one met."""
    directions = world_directions(xy, c2w)
    points = c2w[:3, 3, None] + depth * directions
    surface, normal, uv = _surfaces(scene, points, owner)
    length = np.sqrt(1 + xy[0] ** 2 + xy[1] ** 2)
    cosine = np.abs(np.einsum("in,in->n", normal, directions)) / length
    footprint = (depth * length / camera.fx * np.maximum(cosine, 0.02) ** -GRAZING_POWER).astype(np.float32)
    period = scene.period[surface]
    scaled = uv.astype(np.float32) / period[:, None] + scene.offset[surface]
    colour = scene.atlas.sample(scene.tile[surface], scaled, footprint / period) * scene.tint[surface]
    slow = uv.astype(np.float32) / VARIATION_PERIOD + scene.offset[surface][:, ::-1]
    variation = scene.atlas.sample(np.full(len(slow), scene.variation_tile), slow, footprint / VARIATION_PERIOD)
    light = AMBIENT + SKY_AMBIENT * normal[2] + DIFFUSE * np.maximum(scene.sun @ normal, 0)
    ceiling = surface == FACES - 1
    light = np.where(ceiling, 1.0, light)
    floor = np.flatnonzero(surface == FACES - 2)
    light[floor] *= _floor_light(scene, points[:2, floor])
    colour = colour * variation * light[:, None].astype(np.float32)
    return np.clip(colour, 0, 1), surface


def _surfaces(
    scene: Scene, points: Float64[np.ndarray, "3 n"], owner: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "n"], Float64[np.ndarray, "3 n"], Float64[np.ndarray, "n 2"]]:
    """Surface number, world normal and texture coordinates (metres) of points on solids."""
    surface = np.empty(len(owner), np.int64)
    normal, uv = np.empty_like(points), np.empty((len(owner), 2))
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(scene.solids) + 1))
    for index, solid in enumerate(scene.solids):
        chosen = order[bounds[index] : bounds[index + 1]]
        if len(chosen):
            face, turned, uv[chosen] = solid.surface(solid.local(points[:, chosen]))
            normal[:, chosen] = solid.turned_back(turned)
            surface[chosen] = index * FACES + face
    return surface, normal, uv


def _floor_light(scene: Scene, xy: Float64[np.ndarray, "2 n"]) -> Float64[np.ndarray, "n"]:
    """Brightness of the floor at world positions."""
    grid = torch.from_numpy((xy.T / scene.solids[0].size[:2]).astype(np.float32))[None, None]
    light = grid_sample(torch.from_numpy(scene.light_map)[None, None], grid, align_corners=False, padding_mode="border")
    return light[0, 0, 0].numpy().astype(np.float64)


def exact_flow(
    depth_i: Float[np.ndarray, "height width"],
    depth_j: Float[np.ndarray, "height width"],
    camera: Camera,
    T_j_i: Float64[np.ndarray, "4 4"],
) -> tuple[Float32[np.ndarray, "height width 2"], Bool[np.ndarray, "height width"]]:
    """Flow in px from view i to view j at i's pixel centres, and where the point is seen in j as well.

    `T_j_i` takes points from camera i to camera j (inverse(c2w_j) @ c2w_i). A pixel is visible when its point falls
    inside image j at the depth seen there, within 1 %; pixels next to a depth edge of j are left out.
    """
    xy = pixel_rays(camera).xy
    rays = np.concatenate([xy, np.ones_like(xy[:1])])
    points = np.einsum("ij,jhw->hwi", T_j_i[:3, :3], rays * depth_i) + T_j_i[:3, 3]
    depth = points[..., 2]
    front = depth > 1e-3
    points[~front] = (0.0, 0.0, 1.0)
    target = camera.project(torch.from_numpy(points)).numpy()
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    flow = target - np.stack([columns, rows], axis=-1) - PIXEL_CENTRE
    inside = (target >= 0.5).all(-1) & (target[..., 0] <= camera.width - 0.5) & (target[..., 1] <= camera.height - 0.5)
    at = (target - PIXEL_CENTRE).astype(np.float32)
    # Inverse depth is linear over a plane's image, so interpolating it is exact away from edges.
    inverse = cv2.remap((1 / depth_j).astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    agrees = np.abs(depth * inverse - 1) < DEPTH_TOLERANCE
    return flow.astype(np.float32), front & inside & agrees
