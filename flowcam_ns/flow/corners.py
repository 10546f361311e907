"""Points where flow is worth having, one in each cell of a grid: corners and plain places in turn.

Flow is best determined at corners, but the strongest corner of a cell often sits on the outline of something near,
where smooth flow leans to one side. The middles of cells are noisier and lean nowhere. Half of each serves poses better
than either.
"""

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


def points_in_cells(
    image: UInt8[np.ndarray, "h w"],
    cell_width: int,
    cell_height: int,
    usable: Bool[np.ndarray, "h w"] | None = None,
) -> Float32[np.ndarray, "points 2"]:
    """The strongest corner of every second cell (as on a chessboard), the middle of the others; px, centres at +0.5.

    Corners are strong where the smaller eigenvalue of the structure tensor is large. The cells are in row-major order
    and centred on the image; an image smaller than a cell is one cell. Where some of a cell's pixels are `usable`, one
    of these is chosen.
    """
    height, width = image.shape
    margin = min(IMAGE_MARGIN, (min(height, width) - 1) // 4)
    cell_width, cell_height = min(cell_width, width - 2 * margin), min(cell_height, height - 2 * margin)
    columns, rows = (width - 2 * margin) // cell_width, (height - 2 * margin) // cell_height
    left, top = (width - columns * cell_width) // 2, (height - rows * cell_height) // 2
    inside = slice(top, top + rows * cell_height), slice(left, left + columns * cell_width)
    strength = cv2.cornerMinEigenVal(image, WINDOW, ksize=3)[inside].reshape(rows, cell_height, columns, cell_width)
    y, x = np.ogrid[:cell_height, :cell_width]
    nearness = -np.hypot(y - (cell_height - 1) / 2, x - (cell_width - 1) / 2).astype(np.float32)
    middle = (np.arange(rows)[:, None] + np.arange(columns)) % 2 == 1
    cells = np.where(middle[:, None, :, None], nearness[None, :, None], strength)
    if usable is not None:
        cells = np.where(usable[inside].reshape(cells.shape), cells, -np.inf)
    inset_x, inset_y = int(CELL_MARGIN * cell_width), int(CELL_MARGIN * cell_height)
    cells = cells[:, inset_y : cell_height - inset_y, :, inset_x : cell_width - inset_x]
    best = cells.transpose(0, 2, 1, 3).reshape(rows * columns, -1).argmax(axis=1)
    y_in, x_in = np.divmod(best, cells.shape[3])
    row, column = np.divmod(np.arange(rows * columns), columns)
    x = left + column * cell_width + inset_x + x_in
    y = top + row * cell_height + inset_y + y_in
    return np.stack([x, y], axis=-1).astype(np.float32) + np.float32(0.5)
