"""A little world from a seed: a room or square with boxes, balls and columns, all textured, under one fixed light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int

from flowcam_ns.errors import FlowCamError
from flowcam_ns.synthetic import textures
from flowcam_ns.synthetic.atlas import Atlas
from flowcam_ns.synthetic.layout import Layout, room_layout, town_layout
from flowcam_ns.synthetic.primitives import FACES, Solid

TEXTURE_SIZES = (128, 256, 512, 1024)
AMBIENT = 0.57
SKY_AMBIENT = 0.12
DIFFUSE = 0.46
LIGHT_MAP_SIZE = 512
SHADOW = 0.45
LAMP_DISTANCE = 1e3


@dataclass(frozen=True)
class Scene:
    """Solids and everything that colours their surfaces; immutable, the same for the same seed.

    The per-surface arrays are indexed by surface number (solid * FACES + face).
    """

    layout: Layout
    atlas: Atlas
    tile: Int[np.ndarray, "surfaces"]
    """Which texture of the atlas."""
    period: Float32[np.ndarray, "surfaces"]
    """Size of one texture period in metres."""
    offset: Float32[np.ndarray, "surfaces 2"]
    """Shift of the texture in periods."""
    tint: Float32[np.ndarray, "surfaces 3"]
    variation_tile: int
    sun: Float[np.ndarray, "3"]
    """Unit vector towards the light."""
    light_map: Float32[np.ndarray, "size size"]
    """Brightness of the floor: soft shadows of the solids; rows along y, columns along x over the room."""

    @property
    def solids(self) -> list[Solid]:
        """The room first, then everything in it."""
        return self.layout.solids

    def clearance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Distance in metres from points to the nearest surface, negative inside a solid or outside the room."""
        return np.min([solid.distance(points.T) for solid in self.solids], axis=0)


def build_scene(seed: int, kind: str = "room", texture_size: int = 512) -> Scene:
    """The scene of a seed: `room` (a dozen metres, up to twenty solids) or `town` (a square of 60 m for long walks).

    `texture_size` (128, 256, 512 or 1024 texels) bounds the detail; the pattern is the same at every size.
    Raises FlowCamError for an unknown kind or size.
    """
    if texture_size not in TEXTURE_SIZES:
        raise FlowCamError(f"texture size {texture_size}: choose one of {TEXTURE_SIZES}")
    if kind not in ("room", "town"):
        raise FlowCamError(f"unknown scene kind {kind!r}: choose room or town")
    layout_rng, texture_rng, paint_rng = (np.random.default_rng([seed, stream]) for stream in range(3))
    layout = room_layout(layout_rng) if kind == "room" else town_layout(layout_rng)
    azimuth, height = layout_rng.uniform(0, 2 * np.pi), np.deg2rad(layout_rng.uniform(42, 65))
    sun = np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)])
    floors = _pick(texture_rng, textures.FLOORS, 1)
    walls = _pick(texture_rng, textures.WALLS, 2)
    objects = _pick(texture_rng, textures.OBJECTS, len(textures.OBJECTS) if kind == "room" else 12)
    makers = [*floors, *walls, *objects, textures.clouds, textures.variation]
    tiles = [maker(np.random.default_rng([seed, 3, index]), texture_size) for index, maker in enumerate(makers)]
    tile, period, offset, tint = _paint(paint_rng, layout, len(objects))
    return Scene(
        layout=layout,
        atlas=Atlas(tiles),
        tile=tile,
        period=period,
        offset=offset,
        tint=tint,
        variation_tile=len(tiles) - 1,
        sun=sun,
        light_map=_light_map(layout, sun, min(LIGHT_MAP_SIZE, 2 * texture_size)),
    )


def _pick(rng: np.random.Generator, choices: tuple, count: int) -> list:
    """`count` of the choices, each once before any comes twice."""
    order = np.concatenate([rng.permutation(len(choices)) for _ in range(-(-count // len(choices)))])
    return [choices[index] for index in order[:count]]


def _paint(
    rng: np.random.Generator, layout: Layout, object_tiles: int
) -> tuple[
    Int[np.ndarray, "surfaces"],
    Float32[np.ndarray, "surfaces"],
    Float32[np.ndarray, "surfaces 2"],
    Float32[np.ndarray, "surfaces 3"],
]:
    """Texture, scale, shift and tint of every surface. Atlas order: floor, two walls, objects, sky, variation."""
    count = len(layout.solids)
    tile = 3 + np.repeat(rng.permutation(count) % object_tiles, FACES)
    period = np.repeat(rng.uniform(0.9, 1.9, count), FACES)
    tint = np.repeat(1 + rng.normal(scale=0.07, size=(count, 3)), FACES, axis=0)
    tile[:FACES] = [1, 1, 2, 2, 0, 3 + object_tiles]
    period[:FACES] = [3.0, 3.0, 3.0, 3.0, 2.6, 3.0 * layout.room.size[2]]
    tint[:FACES] = 1 + rng.normal(scale=0.04, size=(FACES, 3))
    tint *= 1 + rng.normal(scale=0.04, size=(count * FACES, 1))
    offset = rng.uniform(size=(count * FACES, 2))
    return tile, period.astype(np.float32), offset.astype(np.float32), tint.astype(np.float32)


def _light_map(layout: Layout, sun: Float[np.ndarray, "3"], size: int) -> Float32[np.ndarray, "size size"]:
    """Soft shadows on the floor, cast once: a sharp shadow towards the sun, blurred, and a contact shadow."""
    half = layout.room.size
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis * half[0], axis * half[1])
    lit = np.ones((size, size), np.float32)
    near = np.full((size, size), np.inf)
    points = np.stack([x, y, np.zeros_like(x)])
    lamp = sun * LAMP_DISTANCE
    for solid in layout.solids[1:]:
        reach = solid.bound + (solid.centre[2] + solid.size[2]) / sun[2] + 1
        columns = np.flatnonzero(np.abs(x[0] - solid.centre[0]) < reach)
        rows = np.flatnonzero(np.abs(y[:, 0] - solid.centre[1]) < reach)
        if not len(columns) or not len(rows):
            continue
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        floor = points[(slice(None), *window)]
        lit[window] *= np.isinf(solid.hit(lamp, floor - lamp.reshape(3, 1, 1)))
        near[window] = np.minimum(near[window], solid.distance(floor))
    texel = 2 * half[0] / size
    soft = cv2.GaussianBlur(lit, (0, 0), max(0.07 / texel, 0.5))
    contact = 1 - 0.35 * np.exp(-np.maximum(near, 0) / 0.15)
    return ((1 - SHADOW * (1 - soft)) * contact).astype(np.float32)
