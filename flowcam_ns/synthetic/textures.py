"""Procedural textures: square RGB tiles in [0, 1] that repeat without a seam, built from a random generator.

Every pattern is defined on the unit square and sampled at the wanted size, so that the same seed gives the same pattern
at every size; octaves of noise that a size cannot carry are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32

Tile = Float32[np.ndarray, "size size 3"]
Plane = Float32[np.ndarray, "size size"]

FIRST_LATTICE = 4
LATTICE_BORDER = 4
MAX_OCTAVES = 9


def fractal_noise(
    rng: np.random.Generator, size: int, persistence: float = 0.6, first: int = FIRST_LATTICE, aspect: int = 1
) -> Plane:
    """Periodic multi-octave value noise, about zero mean and unit contrast.

    `first` is the number of lattice cells of the coarsest octave, each octave doubles it and has `persistence` times
    the amplitude; `aspect` stretches the grain along x (wood).
    """
    total = np.zeros((size, size), np.float32)
    power = 0.0
    for octave in range(MAX_OCTAVES):
        cells = first * 2**octave
        # A fixed draw per octave keeps the coarse octaves alike at every size.
        seed = int(rng.integers(2**31))
        power += (persistence**octave) ** 2
        if cells * 2 <= size:
            lattice = np.random.default_rng(seed).normal(size=(cells, max(cells // aspect, 1))).astype(np.float32)
            total += persistence**octave * _upsample(lattice, size)
    return total / np.float32(np.sqrt(power))


def _upsample(lattice: Float32[np.ndarray, "rows cols"], size: int) -> Plane:
    """Periodic cubic upsampling of a lattice to `size` x `size`."""
    padded = np.pad(lattice, LATTICE_BORDER, mode="wrap")
    zoom_y, zoom_x = size / lattice.shape[0], size / lattice.shape[1]
    large = cv2.resize(
        padded, (round(padded.shape[1] * zoom_x), round(padded.shape[0] * zoom_y)), interpolation=cv2.INTER_CUBIC
    )
    top, left = round(LATTICE_BORDER * zoom_y), round(LATTICE_BORDER * zoom_x)
    return large[top : top + size, left : left + size]


def _grid(size: int) -> tuple[Plane, Plane]:
    """u (along columns) and v (along rows) of the texel centres."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = np.meshgrid(axis, axis)
    return u, v


def _wrapped(offset: np.ndarray) -> np.ndarray:
    """Shortest offset on a circle of length 1."""
    return offset - np.round(offset)


def _colour(rng: np.random.Generator, low: float = 0.15, high: float = 0.9) -> Float32[np.ndarray, "3"]:
    """A random colour of moderate saturation."""
    grey = rng.uniform(low, high)
    return np.clip(grey + rng.normal(scale=0.075, size=3), 0.04, 0.97).astype(np.float32)


def _two_colours(rng: np.random.Generator, contrast: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Two colours whose brightness differs by about `contrast`."""
    first = _colour(rng, 0.2, 0.9 - contrast)
    second = np.clip(first + contrast + rng.normal(scale=0.06, size=3), 0.04, 0.97).astype(np.float32)
    return (first, second) if rng.random() < 0.5 else (second, first)


def _mix(a: np.ndarray, b: np.ndarray, weight: Plane) -> Tile:
    """Linear mix of two colours or tiles by a weight in [0, 1]."""
    return (a + (b - a) * np.clip(weight, 0, 1)[..., None]).astype(np.float32)


def _grain(rng: np.random.Generator, size: int, amount: float) -> Tile:
    """A brightness factor of fine noise, so that no pattern is ever perfectly flat."""
    return 1 + amount * fractal_noise(rng, size, persistence=0.85, first=8)[..., None]


def stone(rng: np.random.Generator, size: int) -> Tile:
    """Mottled stone or soil: colours mixed by fractal noise at all scales."""
    a, b = _two_colours(rng, 0.3)
    tile = _mix(a, b, 0.5 + 0.45 * fractal_noise(rng, size, 0.72))
    return _mix(tile, _colour(rng), 0.5 * np.clip(fractal_noise(rng, size, 0.6, 8) - 0.3, 0, 1))


def plaster(rng: np.random.Generator, size: int) -> Tile:
    """A nearly smooth painted wall: what optical flow finds hard."""
    base = np.clip(_colour(rng, 0.55, 0.8), 0, 1)
    return (base * (1 + 0.06 * fractal_noise(rng, size, 0.75)[..., None])).astype(np.float32)


def checks(rng: np.random.Generator, size: int) -> Tile:
    """Tiles in two colours, each with a tint of its own, with worn edges."""
    cells = int(rng.choice([6, 8, 10]))
    u, v = _grid(size)
    wobble = 0.04 * fractal_noise(rng, size, 0.5, 8) / cells
    column, row = np.floor((u + wobble) * cells).astype(int) % cells, np.floor((v - wobble) * cells).astype(int) % cells
    a, b = _two_colours(rng, 0.28)
    tint = rng.normal(scale=0.09, size=(cells, cells, 1)).astype(np.float32)
    tile = _mix(a, b, ((column + row) % 2).astype(np.float32)) + tint[row, column]
    return tile * _grain(rng, size, 0.12)


def bricks(rng: np.random.Generator, size: int) -> Tile:
    """Bricks in rows, each with a tint of its own, in light mortar."""
    rows = int(rng.choice([10, 12, 16]))
    columns = rows // 2
    u, v = _grid(size)
    row = np.floor(v * rows).astype(int) % rows
    across = u * columns + 0.5 * (row % 2)
    column = np.floor(across).astype(int) % columns
    edge = np.minimum(np.minimum(across % 1, 1 - across % 1) * 2, np.minimum(v * rows % 1, 1 - v * rows % 1))
    brick, mortar = _two_colours(rng, 0.2)
    tint = (rng.normal(scale=0.08, size=(rows, columns, 1)) + rng.normal(scale=0.03, size=(rows, columns, 3))).astype(
        np.float32
    )
    tile = _mix(mortar, brick + tint[row, column], (edge - 0.04) * 20)
    return tile * _grain(rng, size, 0.16)


def planks(rng: np.random.Generator, size: int) -> Tile:
    """Wooden boards: grain stretched along x, a dark gap between boards."""
    boards = int(rng.choice([6, 8, 10]))
    _, v = _grid(size)
    board = np.floor(v * boards).astype(int) % boards
    base = np.array([0.58, 0.42, 0.28], np.float32) * rng.uniform(0.6, 1.35) + rng.normal(scale=0.04, size=3)
    tint = rng.normal(scale=0.08, size=(boards, 1)).astype(np.float32)
    grain = fractal_noise(rng, size, 0.8, 16, aspect=8)
    gap = np.clip(np.minimum(v * boards % 1, 1 - v * boards % 1) * 14, 0.35, 1)
    tile = (base + tint[board]) * (1 + 0.22 * grain[..., None]) * gap[..., None]
    return tile.astype(np.float32) * _grain(rng, size, 0.08)


def stripes(rng: np.random.Generator, size: int) -> Tile:
    """Painted stripes of irregular width, slightly wavy."""
    count = int(rng.choice([7, 9, 12]))
    edges = np.sort(rng.uniform(size=count))
    colours = np.stack([_colour(rng) for _ in range(count)])
    u, v = _grid(size)
    along = (u + v * float(rng.choice([0, 1, -1])) + 0.006 * fractal_noise(rng, size, 0.5)) % 1
    tile = colours[np.searchsorted(edges, along) % count]
    return tile * _grain(rng, size, 0.14)


def spots(rng: np.random.Generator, size: int) -> Tile:
    """Discs of many sizes and colours on a mottled ground."""
    u, v = _grid(size)
    a, b = _two_colours(rng, 0.15)
    tile = _mix(a, b, 0.5 + 0.4 * fractal_noise(rng, size, 0.7))
    for _ in range(70):
        centre, radius, colour = rng.uniform(size=2), 0.012 + 0.07 * rng.random() ** 2, _colour(rng)
        du, dv = _wrapped(u[0] - centre[0]), _wrapped(v[:, 0] - centre[1])
        window = np.ix_(np.abs(dv) < radius + 0.02, np.abs(du) < radius + 0.02)
        apart = np.hypot(*np.meshgrid(du[window[1][0]], dv[window[0][:, 0]]))
        tile[window] = _mix(tile[window], colour, (radius - apart) * 150 + 0.5)
    return tile * _grain(rng, size, 0.1)


def cells(rng: np.random.Generator, size: int) -> Tile:
    """Irregular patches (nearest of random seeds), like crazy paving."""
    u, v = _grid(size)
    seeds = rng.uniform(size=(40, 2))
    warp = np.float32(0.012) * fractal_noise(rng, size, 0.55, 8)
    across, down = u + warp, v - warp
    best = np.full((size, size), np.inf, np.float32)
    second, owner = best.copy(), np.zeros((size, size), int)
    for index, (su, sv) in enumerate(seeds):
        distance = _wrapped(across - np.float32(su)) ** 2 + _wrapped(down - np.float32(sv)) ** 2
        closer = distance < best
        second = np.where(closer, best, np.minimum(second, distance))
        owner = np.where(closer, index, owner)
        best = np.where(closer, distance, best)
    base = _colour(rng, 0.35, 0.65)
    colours = np.clip(
        base + rng.normal(scale=0.1, size=(len(seeds), 1)) + rng.normal(scale=0.04, size=(len(seeds), 3)), 0.05, 0.95
    ).astype(np.float32)
    tile = colours[owner] * np.clip((np.sqrt(second) - np.sqrt(best)) * 60 + 0.45, 0.45, 1)[..., None]
    return tile * _grain(rng, size, 0.15)


def clouds(rng: np.random.Generator, size: int) -> Tile:
    """A soft sky."""
    weight = 0.35 + 0.4 * fractal_noise(rng, size, 0.5)
    return _mix(np.array([0.5, 0.66, 0.86], np.float32), np.array([0.93, 0.94, 0.95], np.float32), weight)


def variation(rng: np.random.Generator, size: int) -> Tile:
    """Slow changes of brightness and hue about 1, laid over repeating tiles so that no two places look the same."""
    hue = np.stack([fractal_noise(rng, size, 0.5) for _ in range(3)], axis=-1)
    return 1 + 0.16 * fractal_noise(rng, size, 0.55)[..., None] + 0.045 * hue


FLOORS: tuple[Callable[[np.random.Generator, int], Tile], ...] = (stone, checks, planks, cells, bricks)
WALLS: tuple[Callable[[np.random.Generator, int], Tile], ...] = (bricks, stone, planks, cells, plaster)
OBJECTS: tuple[Callable[[np.random.Generator, int], Tile], ...] = (
    stone,
    checks,
    bricks,
    planks,
    stripes,
    spots,
    cells,
    plaster,
)
