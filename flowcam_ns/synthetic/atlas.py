"""All textures of a scene with their mip levels in one image, sampled with anti-aliasing by footprint."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch.nn.functional import grid_sample

BORDER = 2
"""Texels repeated around every level, so that interpolation wraps."""

LEVEL_BIAS = -0.4
"""Interpolation between levels already blurs a little; this much sharper keeps about a pixel's worth of blur."""


def _halved(tile: Float32[np.ndarray, "size size 3"]) -> Float32[np.ndarray, "half half 3"]:
    """The next mip level: periodic (1, 3, 3, 1)/8 filter, then every second texel."""
    for axis in (0, 1):
        pair = tile + np.roll(tile, -1, axis)
        outer = np.roll(tile, 1, axis) + np.roll(tile, -2, axis)
        tile = ((3 * pair + outer) / 8).take(range(0, tile.shape[axis], 2), axis)
    return tile


class Atlas:
    """Mip-mapped, repeating textures behind one vectorised lookup."""

    def __init__(self, tiles: list[Float32[np.ndarray, "size size 3"]]) -> None:
        self.size = tiles[0].shape[0]
        self.levels = int(np.log2(self.size)) - 1
        sizes = [self.size >> level for level in range(self.levels)]
        column = self.size + 2 * BORDER
        self._row_of_level = np.cumsum([0] + [size + 2 * BORDER for size in sizes])[:-1] + BORDER
        self._column_width = column
        image = np.zeros((sum(sizes) + 2 * BORDER * len(sizes), column * len(tiles), 3), np.float32)
        for index, tile in enumerate(tiles):
            level_tile = tile.astype(np.float32)
            for row, size in zip(self._row_of_level, sizes, strict=True):
                padded = np.pad(level_tile, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="wrap")
                top, left = row - BORDER, index * column
                image[top : top + size + 2 * BORDER, left : left + size + 2 * BORDER] = padded
                level_tile = _halved(level_tile)
        self._image = torch.from_numpy(image).permute(2, 0, 1).contiguous()[None]

    def sample(
        self,
        tile: Int[np.ndarray, "n"],
        uv: Float32[np.ndarray, "n 2"],
        footprint: Float32[np.ndarray, "n"],
    ) -> Float32[np.ndarray, "n 3"]:
        """Colours at `uv` (in periods of the tile), averaged over about `footprint` (in periods)."""
        level = np.log2(np.maximum(footprint * self.size, 1e-6)) + LEVEL_BIAS
        level = np.clip(level, 0, self.levels - 1.001).astype(np.float32)
        fine = level.astype(np.int64)
        weight = (level - fine)[:, None]
        wrapped = uv - np.floor(uv)
        left = (tile * self._column_width + BORDER).astype(np.float32)
        return (1 - weight) * self._lookup(left, wrapped, fine) + weight * self._lookup(left, wrapped, fine + 1)

    def _lookup(
        self, left: Float32[np.ndarray, "n"], uv: Float32[np.ndarray, "n 2"], level: Int[np.ndarray, "n"]
    ) -> Float32[np.ndarray, "n 3"]:
        size = np.ldexp(np.float32(self.size), -level)
        height, width = self._image.shape[-2:]
        x = left + uv[:, 0] * size
        y = self._row_of_level[level].astype(np.float32) + uv[:, 1] * size
        grid = np.stack([x * (2 / width) - 1, y * (2 / height) - 1], axis=-1).astype(np.float32)
        sampled = grid_sample(self._image, torch.from_numpy(grid)[None, None], align_corners=False)
        return sampled[0, :, 0].T.numpy()
