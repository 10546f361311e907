"""Which way is up, from the surfaces of a scene: floors, tables and streets are level."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

MOST_POINTS = 4_000
CONE_DEG, WIDE_CONE_DEG, CANDIDATES = 45.0, 80.0, 1500
"""Surfaces may correct the cameras' idea of up by this much (the latter where cameras roll, and their idea is weak); in
so many directions they are asked."""
FINE_CONE_DEG, FINE_CANDIDATES = 4.0, 200
LAYER = 0.03
"""Thickness of a layer of equal height, relative to the median distance of the points from their middle."""
FAR = 2.0
"""Points farther from the middle than this many median distances have no say."""
CLEARLY, VERY_CLEARLY = 2.0, 4.0
"""How much more the points must gather at few heights than along a middling direction for surfaces to have a say, and
to have it within the wide cone."""
FEWEST_POINTS = 200
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
AT_ONCE = 100


def up_from_surfaces(
    up: Float[Tensor, "3"], points: Float[Tensor, "points 3"], is_sure: bool = True
) -> Float[Tensor, "3"] | None:
    """The direction near `up` along which the points gather at the fewest heights; None where that is not clear.

    All level surfaces together make the histogram of heights peaked; seen along any other direction it is flat. A
    direction at the edge of the cone means a plumb or slanted surface that pulls: then surfaces have no say.

    Args:
        up: A first idea (unit vector), from the cameras.
        points: Surface points, finite; noise and far points do little harm.
        is_sure: Whether the first idea is good to some 30 degrees. If not, very clear surfaces may turn it by far more.
    """
    cone_deg, clearly = (CONE_DEG, CLEARLY) if is_sure else (WIDE_CONE_DEG, VERY_CLEARLY)
    up, points = up.double(), points.double()
    if len(points) < FEWEST_POINTS:
        return None
    points = points[:: max(1, len(points) // (2 * MOST_POINTS))]
    offset = points - points.median(0).values
    distance = offset.norm(dim=-1)
    size = float(distance.median())
    near = offset[distance < FAR * size]
    near = near[:: max(1, len(near) // MOST_POINTS)]
    if size <= 0:
        return None
    directions = torch.cat([up[None], _cone(up, cone_deg, CANDIDATES)])
    peaks = _peakedness(near, directions, LAYER * size)
    best = directions[peaks.argmax()]
    if best @ up < math.cos(math.radians(cone_deg - FINE_CONE_DEG)) or peaks.max() < clearly * peaks.median():
        return None
    directions = torch.cat([best[None], _cone(best, FINE_CONE_DEG, FINE_CANDIDATES)])
    return directions[_peakedness(near, directions, LAYER * size).argmax()]


def _cone(axis: Float[Tensor, "3"], half_angle_deg: float, count: int) -> Float[Tensor, "count 3"]:
    """Unit vectors spread evenly within an angle of `axis`."""
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    cosine = 1 - (1 - math.cos(math.radians(half_angle_deg))) * share
    turn = torch.arange(count, dtype=torch.float64) * GOLDEN_ANGLE
    helper = torch.zeros_like(axis)
    helper[axis.abs().argmin()] = 1
    x = torch.nn.functional.normalize(torch.linalg.cross(helper, axis), dim=0)
    y = torch.linalg.cross(axis, x)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    around = torch.cos(turn)[:, None] * x + torch.sin(turn)[:, None] * y
    return sine[:, None] * around + cosine[:, None] * axis


def _peakedness(
    points: Float[Tensor, "points 3"], directions: Float[Tensor, "directions 3"], layer: float
) -> Float[Tensor, "directions"]:
    """Probability, along each direction, that two points lie in the same or neighbouring layers (twice the latter)."""
    found = []
    for some in directions.split(AT_ONCE):
        height = points @ some.T
        number = torch.floor((height - height.amin(0)) / layer).long()
        counts = torch.zeros(int(number.max()) + 2, len(some), dtype=torch.float64)
        counts.scatter_add_(0, number, torch.ones_like(height))
        # Two neighbouring layers at a time, so that it does not matter where layers begin.
        found.append(((counts[:-1] + counts[1:]) / len(points)).square().sum(0))
    return torch.cat(found)
