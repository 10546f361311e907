"""Where things stand: the room or town square of a seed, with lanes kept free for the camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flowcam_ns.synthetic.primitives import Box, Cylinder, Room, Solid, Sphere

CLUSTER_RADIUS = 2.0
"""The room's middle group stands inside this radius; the lane for the camera is the ring outside it."""
LANE_OUTER = 4.3
LANE_Y = (-6.8, 3.2)
"""On the lane's side the ring is lengthened to a straight lane along y, for motions that go ahead."""
TOWN_HALF = 30.0
TOWN_LANE_RADIUS = 15.0
TOWN_LANE_HALF_WIDTH = 1.7
GAP = 0.05
PLACEMENT_TRIES = 60


@dataclass(frozen=True)
class Layout:
    """The solids of a scene; the first one is the room around all others."""

    solids: list[Solid]
    flip: tuple[float, float] = (1.0, 1.0)
    """Signs of x and y that turn the straight lane (at positive x, walked towards positive y) to its place."""

    @property
    def room(self) -> Solid:
        """The enclosing room; its floor lies at z = 0 and its middle over the world's origin."""
        return self.solids[0]


def town_lane_radius(angle: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Distance from the middle of the town to the middle of its closed lane, in metres, by direction (radians)."""
    return TOWN_LANE_RADIUS + 2.6 * np.sin(2 * angle + 0.4) + 1.5 * np.sin(3 * angle + 2.0)


def room_layout(rng: np.random.Generator) -> Layout:
    """A room of about 12 x 16 m with 5-9 solids in its middle, some 10 along its walls and pictures on them."""
    flip = (float(rng.choice([-1.0, 1.0])), float(rng.choice([-1.0, 1.0])))
    half = np.array([rng.uniform(5.8, 6.8), rng.uniform(7.2, 8.6), rng.uniform(2.0, 2.8)])
    solids: list[Solid] = [Room(np.array([0, 0, half[2]]), half)]

    def in_middle() -> tuple[float, float]:
        radius, angle = CLUSTER_RADIUS * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        return radius * np.cos(angle), radius * np.sin(angle)

    def along_walls() -> tuple[float, float]:
        return rng.uniform(-half[0], half[0]), rng.uniform(-half[1], half[1])

    def middle_free(solid: Solid) -> bool:
        return float(np.hypot(*solid.centre[:2])) + _radius(solid) < CLUSTER_RADIUS

    def walls_free(solid: Solid) -> bool:
        inside = np.all(np.abs(solid.centre[:2]) + _radius(solid) < half[:2] - GAP)
        x, y, radius = *(solid.centre[:2] * flip), _radius(solid)
        beside = x - radius > LANE_OUTER or x + radius < CLUSTER_RADIUS or not LANE_Y[0] < y < LANE_Y[1] + radius
        return bool(inside) and beside and np.hypot(x, y) - radius > LANE_OUTER

    _place(rng, solids, int(rng.integers(5, 10)), in_middle, middle_free, (0.22, 0.55), (0.15, 0.95))
    _place(rng, solids, int(rng.integers(11, 17)), along_walls, walls_free, (0.25, 0.75), (0.3, 1.3))
    _stack(rng, solids)
    _hang(rng, solids, half)
    return Layout(solids, flip)


def town_layout(rng: np.random.Generator) -> Layout:
    """A square of 60 x 60 m with some 130 solids and a winding closed lane among them."""
    half = np.array([TOWN_HALF, TOWN_HALF, 7.0])
    solids: list[Solid] = [Room(np.array([0, 0, half[2]]), half)]

    def anywhere() -> tuple[float, float]:
        return rng.uniform(-TOWN_HALF, TOWN_HALF), rng.uniform(-TOWN_HALF, TOWN_HALF)

    def beside_lane() -> tuple[float, float]:
        angle = rng.uniform(0, 2 * np.pi)
        radius = town_lane_radius(np.array(angle)) + rng.choice([-1, 1]) * rng.uniform(TOWN_LANE_HALF_WIDTH, 5)
        return float(radius * np.cos(angle)), float(radius * np.sin(angle))

    around = np.linspace(0, 2 * np.pi, 361)
    lane = np.stack([np.cos(around), np.sin(around)], axis=-1) * town_lane_radius(around)[:, None]

    def lane_free(solid: Solid) -> bool:
        inside = np.all(np.abs(solid.centre[:2]) + _radius(solid) < half[:2] - GAP)
        distance = np.linalg.norm(lane - solid.centre[:2], axis=-1).min() - _radius(solid)
        return bool(inside) and distance > TOWN_LANE_HALF_WIDTH

    _place(rng, solids, 90, beside_lane, lane_free, (0.3, 0.9), (0.3, 1.6))
    _place(rng, solids, 40, anywhere, lane_free, (0.6, 2.4), (0.8, 3.0))
    _stack(rng, solids)
    return Layout(solids)


def _radius(solid: Solid) -> float:
    """Radius of a solid's bounding circle on the floor."""
    return float(np.hypot(*solid.size[:2])) if isinstance(solid, Box) else float(solid.size[0])


def _place(
    rng: np.random.Generator,
    solids: list[Solid],
    count: int,
    propose: Callable[[], tuple[float, float]],
    allowed: Callable[[Solid], bool],
    widths: tuple[float, float],
    heights: tuple[float, float],
) -> None:
    """Stand up to `count` random solids on the floor where they are allowed and touch none (half extents in metres)."""
    for _ in range(count):
        for _ in range(PLACEMENT_TRIES):
            x, y = propose()
            solid = _random_solid(rng, x, y, widths, heights)
            apart = all(
                np.hypot(*(solid.centre - other.centre)[:2]) > _radius(solid) + _radius(other) + GAP
                for other in solids[1:]
            )
            if apart and allowed(solid):
                solids.append(solid)
                break


def _random_solid(
    rng: np.random.Generator, x: float, y: float, widths: tuple[float, float], heights: tuple[float, float]
) -> Solid:
    width, height, kind = rng.uniform(*widths), rng.uniform(*heights), rng.random()
    if kind < 0.22:
        return Sphere(np.array([x, y, width]), np.full(3, width))
    if kind < 0.45:
        width *= 0.75
        return Cylinder(np.array([x, y, height]), np.array([width, width, height]))
    depth = width * rng.uniform(0.6, 1.3)
    return Box(np.array([x, y, height]), np.array([width, depth, height]), rng.uniform(0, np.pi))


def _stack(rng: np.random.Generator, solids: list[Solid]) -> None:
    """Put a ball or a smaller box onto some of the boxes and columns."""
    for base in list(solids[1:]):
        top = base.centre[2] + base.size[2]
        if isinstance(base, Sphere) or top > 2.2 or rng.random() < 0.55:
            continue
        width = float(min(base.size[:2])) * rng.uniform(0.5, 0.9)
        if rng.random() < 0.6:
            solids.append(Sphere(np.array([*base.centre[:2], top + width]), np.full(3, width)))
        else:
            size = np.array([width, width, width]) * 0.7
            solids.append(Box(np.array([*base.centre[:2], top + size[2]]), size, rng.uniform(0, np.pi)))


def _hang(rng: np.random.Generator, solids: list[Solid], half: Float[np.ndarray, "3"]) -> None:
    """Hang pictures and boards, 5 to 30 cm thick, on all four walls."""
    for wall in range(4):
        across, sign = wall % 2, 1 if wall < 2 else -1
        along = 1 - across
        for place in np.arange(-half[along] + 1, half[along] - 1, 2.2):
            if rng.random() < 0.45:
                continue
            size, centre = np.empty(3), np.empty(3)
            size[along], size[2], size[across] = rng.uniform(0.3, 0.85), rng.uniform(0.25, 0.7), rng.uniform(0.05, 0.3)
            centre[along], centre[2] = place + rng.uniform(-0.2, 0.2), rng.uniform(1.2, 2 * half[2] - 1)
            centre[across] = sign * half[across]
            solids.append(Box(centre, size))
