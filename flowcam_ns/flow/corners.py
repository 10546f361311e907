"""Points where flow is well determined: the best corner of each cell of a grid."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

WINDOW = 5
"""Side of the window of the structure tensor in px."""
IMAGE_MARGIN = 4
"""Points stay this many px away from the image's border, where flow is poor."""
CELL_MARGIN = 0.1
"""Points stay away from their cell's border by this part of the cell, so that neighbours don't share a corner."""


def strongest_in_cells(
    image: UInt8[np.ndarray, "h w"],
    cell_width: int,
    cell_height: int,
    usable: Bool[np.ndarray, "h w"] | None = None,
) -> Float32[np.ndarray, "points 2"]:
    """In each cell the pixel with the largest smaller eigenvalue of the structure tensor, in px, centres at +0.5.

    The cells are in row-major order and centred on the image; an image smaller than a cell is one cell. Where some of a
    cell's pixels are `usable`, one of these is chosen.
    """
    height, width = image.shape
    margin = min(IMAGE_MARGIN, (min(height, width) - 1) // 4)
    cell_width, cell_height = min(cell_width, width - 2 * margin), min(cell_height, height - 2 * margin)
    columns, rows = (width - 2 * margin) // cell_width, (height - 2 * margin) // cell_height
    left, top = (width - columns * cell_width) // 2, (height - rows * cell_height) // 2
    strength = cv2.cornerMinEigenVal(image, WINDOW, ksize=3)
    if usable is not None:
        strength = np.where(usable, strength, -np.inf)
    cells = strength[top : top + rows * cell_height, left : left + columns * cell_width]
    cells = cells.reshape(rows, cell_height, columns, cell_width)
    inset_x, inset_y = int(CELL_MARGIN * cell_width), int(CELL_MARGIN * cell_height)
    cells = cells[:, inset_y : cell_height - inset_y, :, inset_x : cell_width - inset_x]
    best = cells.transpose(0, 2, 1, 3).reshape(rows * columns, -1).argmax(axis=1)
    y_in, x_in = np.divmod(best, cells.shape[3])
    row, column = np.divmod(np.arange(rows * columns), columns)
    x = left + column * cell_width + inset_x + x_in
    y = top + row * cell_height + inset_y + y_in
    return np.stack([x, y], axis=-1).astype(np.float32) + np.float32(0.5)
