"""Solids a ray can hit: boxes, spheres and upright cylinders, and the room around them.

World axes: x and y along the floor, z up, metres. A ray is origin + depth * direction; the caller scales directions, so
that `depth` comes out in the caller's units. Directions are passed as a stack of three planes (3, ...) for speed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Vector = Float[np.ndarray, "3"]
Planes = Float[np.ndarray, "3 *rays"]
Depth = Float[np.ndarray, "*rays"]

NEAR = 1e-4
FACES = 6
"""Surfaces are numbered solid * FACES + face."""


def _safe(direction: Depth) -> Depth:
    """A ray direction without exact zeros, so that division is defined."""
    return np.where(np.abs(direction) < 1e-12, 1e-12, direction)


@dataclass(frozen=True)
class Solid(ABC):
    """A solid standing at `centre`, turned by `yaw` (radians) about the vertical."""

    centre: Vector
    size: Vector
    """Half extents: (x, y, z) of a box; (radius, radius, half height) of a cylinder; (radius,) * 3 of a sphere."""
    yaw: float = 0.0

    @property
    def bound(self) -> float:
        """Radius of the bounding sphere about `centre`."""
        return float(np.linalg.norm(self.size))

    def turned(self, vectors: Planes) -> Planes:
        """World directions in the solid's own axes."""
        if self.yaw == 0:
            return vectors
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([c * vectors[0] + s * vectors[1], c * vectors[1] - s * vectors[0], vectors[2]])

    def turned_back(self, vectors: Planes) -> Planes:
        """Directions in the solid's own axes, in the world's."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([c * vectors[0] - s * vectors[1], c * vectors[1] + s * vectors[0], vectors[2]])

    def local(self, points: Planes) -> Planes:
        """World points in the solid's own axes, from its centre."""
        return self.turned(points - self.centre.reshape(3, *[1] * (points.ndim - 1)))

    @abstractmethod
    def hit(self, origin: Vector, directions: Planes) -> Depth:
        """Depth of the first hit in front of `origin`, inf where the ray misses."""

    @abstractmethod
    def surface(self, local: Planes) -> tuple[Int[np.ndarray, "n"], Planes, Float[np.ndarray, "n 2"]]:
        """Face number, outward normal (own axes) and texture coordinates (metres) of points on the surface."""

    @abstractmethod
    def distance(self, points: Planes) -> Depth:
        """Signed distance of world points to the surface, positive outside."""


def _slabs(half: Vector, origin: Planes, directions: Planes) -> tuple[Depth, Depth]:
    """Depths where rays enter and leave an axis-aligned box about the origin of the axes."""
    enter, leave = None, None
    for axis in range(3):
        inverse = 1 / _safe(directions[axis])
        middle, reach = -origin[axis] * inverse, half[axis] * np.abs(inverse)
        near, far = middle - reach, middle + reach
        enter = near if enter is None else np.maximum(enter, near)
        leave = far if leave is None else np.minimum(leave, far)
    assert enter is not None
    assert leave is not None
    return enter, leave


def _box_surface(half: Vector, local: Planes) -> tuple[Int[np.ndarray, "n"], Planes, Float[np.ndarray, "n 2"]]:
    axis = np.argmax(np.abs(local) / half[:, None], axis=0)
    columns = np.arange(local.shape[1])
    positive = local[axis, columns] > 0
    normal = np.zeros_like(local)
    normal[axis, columns] = np.where(positive, 1.0, -1.0)
    # Side faces keep "up" along v, so that bricks and boards lie level.
    u = np.where(axis == 0, local[1], local[0])
    v = np.where(axis == 2, local[1], local[2])
    return axis * 2 + positive, normal, np.stack([u, -v], axis=-1)


class Box(Solid):
    """A box standing upright."""

    def hit(self, origin: Vector, directions: Planes) -> Depth:
        """See `Solid.hit`."""
        enter, leave = _slabs(self.size, self.turned(origin - self.centre), self.turned(directions))
        return np.where((enter < leave) & (enter > NEAR), enter, np.inf)

    def surface(self, local: Planes) -> tuple[Int[np.ndarray, "n"], Planes, Float[np.ndarray, "n 2"]]:
        """See `Solid.surface`; faces -x, +x, -y, +y, -z, +z."""
        return _box_surface(self.size, local)

    def distance(self, points: Planes) -> Depth:
        """See `Solid.distance`."""
        q = np.abs(self.local(points)) - self.size.reshape(3, *[1] * (points.ndim - 1))
        return np.linalg.norm(np.maximum(q, 0), axis=0) + np.minimum(q.max(axis=0), 0)


class Room(Box):
    """The inside of a box: floor, four walls and a ceiling (or the sky)."""

    def hit(self, origin: Vector, directions: Planes) -> Depth:
        """See `Solid.hit`; every ray from the inside hits."""
        return _slabs(self.size, self.turned(origin - self.centre), self.turned(directions))[1]

    def surface(self, local: Planes) -> tuple[Int[np.ndarray, "n"], Planes, Float[np.ndarray, "n 2"]]:
        """See `Solid.surface`; normals point into the room."""
        face, normal, uv = _box_surface(self.size, local)
        return face, -normal, uv

    def distance(self, points: Planes) -> Depth:
        """See `Solid.distance`; positive inside the room."""
        return -super().distance(points)


class Sphere(Solid):
    """A ball."""

    def hit(self, origin: Vector, directions: Planes) -> Depth:
        """See `Solid.hit`."""
        offset = origin - self.centre
        a = np.einsum("i...,i...->...", directions, directions)
        nearest = -np.tensordot(offset, directions, 1) / a
        # Squared distance of the ray from the centre by the foot point: no cancellation far away.
        foot = offset.reshape(3, *[1] * (directions.ndim - 1)) + nearest * directions
        inside = self.size[0] ** 2 - np.einsum("i...,i...->...", foot, foot)
        depth = nearest - np.sqrt(np.maximum(inside, 0) / a)
        return np.where((inside > 0) & (depth > NEAR), depth, np.inf)

    def surface(self, local: Planes) -> tuple[Int[np.ndarray, "n"], Planes, Float[np.ndarray, "n 2"]]:
        """See `Solid.surface`; the texture is that of a cube, pressed onto the ball."""
        face, _, uv = _box_surface(self.size, local)
        return face, local / self.size[0], uv

    def distance(self, points: Planes) -> Depth:
        """See `Solid.distance`."""
        return np.linalg.norm(self.local(points), axis=0) - self.size[0]


class Cylinder(Solid):
    """An upright cylinder."""

    def hit(self, origin: Vector, directions: Planes) -> Depth:
        """See `Solid.hit`."""
        offset = origin - self.centre
        dx, dy, dz = directions
        a = np.maximum(dx * dx + dy * dy, 1e-12)
        nearest = -(offset[0] * dx + offset[1] * dy) / a
        inside = self.size[0] ** 2 - (offset[0] + nearest * dx) ** 2 - (offset[1] + nearest * dy) ** 2
        reach = np.sqrt(np.maximum(inside, 0) / a)
        inverse = 1 / _safe(dz)
        middle, half = -offset[2] * inverse, self.size[2] * np.abs(inverse)
        enter = np.maximum(nearest - reach, middle - half)
        leave = np.minimum(nearest + reach, middle + half)
        return np.where((inside > 0) & (enter < leave) & (enter > NEAR), enter, np.inf)

    def surface(self, local: Planes) -> tuple[Int[np.ndarray, "n"], Planes, Float[np.ndarray, "n 2"]]:
        """See `Solid.surface`; face 0 is the side, 4 and 5 the ends."""
        radius, half = self.size[0], self.size[2]
        ring = np.hypot(local[0], local[1])
        on_end = np.abs(local[2]) / half > ring / radius
        normal = np.where(
            on_end,
            np.stack([0 * ring, 0 * ring, np.sign(local[2])]),
            np.stack([local[0], local[1], 0 * ring]) / np.maximum(ring, 1e-9),
        )
        face = np.where(on_end, 4 + (local[2] > 0), 0)
        around = np.where(on_end, local[0], radius * np.arctan2(local[1], local[0]))
        return face, normal, np.stack([around, -np.where(on_end, local[1], local[2])], axis=-1)

    def distance(self, points: Planes) -> Depth:
        """See `Solid.distance`."""
        local = self.local(points)
        q = np.stack([np.hypot(local[0], local[1]) - self.size[0], np.abs(local[2]) - self.size[2]])
        return np.linalg.norm(np.maximum(q, 0), axis=0) + np.minimum(q.max(axis=0), 0)
