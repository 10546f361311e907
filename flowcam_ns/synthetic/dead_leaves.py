"""Textures with the statistics of photographs: shapes of all sizes that hide one another, over noise of all scales."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

from flowcam_ns.synthetic.textures import Tile, fractal_noise

LEAST_RADIUS, LARGEST_RADIUS = 0.012, 0.3
"""Of a shape, in periods of the tile."""
CORNERS = 16
"""Of the polygon that stands for a disc."""


def dead_leaves(rng: np.random.Generator, size: int) -> Tile:
    """Discs, bars and boxes, the numbers of which fall with the cube of their size, as in pictures of the world."""
    palette = _palette(rng)
    tile = _noise(rng, size, palette)
    shaded = np.stack([_noise(rng, size, palette) for _ in range(3)])
    for _ in range(int(rng.integers(60, 260))):
        # Inverse of the cumulated share of shapes smaller than a radius, where their density falls as radius ** -3.
        share = rng.random()
        radius = (LEAST_RADIUS**-2 - share * (LEAST_RADIUS**-2 - LARGEST_RADIUS**-2)) ** -0.5
        inside = _covered(rng, size, radius)
        colour = palette[rng.integers(len(palette))] * rng.uniform(0.7, 1.3)
        texture = 2 * shaded[rng.integers(len(shaded))][inside] if rng.random() < 0.3 else np.float32(1)
        tile[inside] = np.clip(colour * texture, 0.02, 0.98)
    return tile.astype(np.float32)


def _palette(rng: np.random.Generator) -> Float32[np.ndarray, "colours 3"]:
    """A few colours of one mood: dark or light, grey or colourful."""
    count = int(rng.integers(3, 9))
    grey = rng.uniform(0.05, 0.9) + rng.normal(scale=rng.uniform(0.08, 0.35), size=(count, 1))
    return np.clip(grey + rng.normal(scale=rng.uniform(0.0, 0.15), size=(count, 3)), 0.03, 0.97).astype(np.float32)


def _noise(rng: np.random.Generator, size: int, palette: Float32[np.ndarray, "colours 3"]) -> Tile:
    """Two colours mixed by noise of all scales; from almost smooth to rough."""
    first, second = palette[rng.integers(len(palette), size=2)]
    contrast, persistence = rng.uniform(0.05, 0.6), rng.uniform(0.45, 0.9)
    weight = 0.5 + contrast * fractal_noise(rng, size, persistence, int(rng.choice([2, 4, 8])))
    mixed = first + (second - first) * np.clip(weight, 0, 1)[..., None]
    return np.clip(mixed * (1 + 0.1 * fractal_noise(rng, size, 0.85, 8)[..., None]), 0, 1).astype(np.float32)


def _covered(rng: np.random.Generator, size: int, radius: float) -> np.ndarray:
    """Texels under a disc, a box or a bar of about a radius (in periods) at a random place; it wraps around."""
    kind, angle = rng.random(), rng.uniform(0, 2 * np.pi)
    if kind < 0.45:
        around = np.arange(CORNERS) * (2 * np.pi / CORNERS)
        corners = np.stack([np.cos(around), rng.uniform(0.5, 1) * np.sin(around)], axis=-1)
    else:
        slim = rng.uniform(0.4, 1.0) if kind < 0.8 else rng.uniform(0.03, 0.15)
        corners = np.array([[-1, -slim], [1, -slim], [1, slim], [-1, slim]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    polygon = (rng.random(2) + radius * corners @ turn.T) * size
    mask = np.zeros((size, size), np.uint8)
    for across in (-size, 0, size):
        for down in (-size, 0, size):
            moved = polygon + np.array([across, down])
            if (moved.max(0) > 0).all() and (moved.min(0) < size).all():
                cv2.fillPoly(mask, [np.round(moved * 16).astype(np.int32)], (1,), cv2.LINE_8, 4)
    return mask.astype(bool)
