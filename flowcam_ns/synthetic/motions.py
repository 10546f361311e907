"""Seeded camera motions through a scene, as exact OpenCV camera-to-world poses.

A motion is a curve over time in [0, 1]; its poses are that curve sampled at equal steps, so nothing is ever estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation

from flowcam_ns.errors import FlowCamError
from flowcam_ns.synthetic.layout import town_lane_radius
from flowcam_ns.synthetic.scene import Scene

NORMAL_FRAMES = 60
"""Frames that a room motion takes at normal speed."""
MIN_CLEARANCE = 0.3
"""Metres that every camera keeps from any surface."""
DRAWS = 40
WALL_SIGHT = 1.0
"""Metres that must lie open straight ahead of every camera."""


@dataclass(frozen=True)
class Path:
    """Positions, and sight lines as yaw (0 along +x, left positive), pitch (up positive) and roll, in radians."""

    position: Float64[np.ndarray, "n 3"]
    yaw: Float64[np.ndarray, "n"]
    pitch: Float64[np.ndarray, "n"]
    roll: Float64[np.ndarray, "n"]

    def c2w(self) -> Float64[np.ndarray, "n 4 4"]:
        """OpenCV camera-to-world poses."""
        # Camera axes in the world for yaw = pitch = roll = 0: x right is -y, y down is -z, z forward is +x.
        base = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        turn = Rotation.from_euler("ZYX", np.stack([self.yaw, -self.pitch, self.roll], axis=-1)).as_matrix()
        poses = np.tile(np.eye(4), (len(self.yaw), 1, 1))
        poses[:, :3, :3] = turn @ base
        poses[:, :3, 3] = self.position
        return poses

    def flipped(self, flip: tuple[float, float]) -> Path:
        """The path mirrored in x and/or y (signs)."""
        yaw = self.yaw if flip[0] > 0 else np.pi - self.yaw
        yaw = yaw if flip[1] > 0 else -yaw
        return Path(self.position * [*flip, 1.0], yaw, self.pitch, self.roll * flip[0] * flip[1])


class Wobble:
    """Smooth random movement over time: a sum of sines with random phases."""

    def __init__(self, rng: np.random.Generator, slow: float, fast: float, terms: int = 5) -> None:
        self._rate = 2 * np.pi * np.geomspace(slow, fast, terms)
        self._phase = rng.uniform(0, 2 * np.pi, terms)
        self._size = rng.uniform(0.5, 1, terms) / np.geomspace(1, fast / slow, terms) ** 0.7

    def __call__(self, time: Float[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """Value of about unit size; cycles are per unit of time."""
        return np.sin(time[:, None] * self._rate + self._phase) @ self._size / np.linalg.norm(self._size) * np.sqrt(2)


Curve = Callable[[Float64[np.ndarray, "n"]], Path]


def _toward(position: Float64[np.ndarray, "n 3"], target: Float64[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Yaw and pitch of the sight line from positions to targets."""
    line = target - position
    return np.unwrap(np.arctan2(line[:, 1], line[:, 0])), np.arctan2(line[:, 2], np.hypot(line[:, 0], line[:, 1]))


def _side(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def orbit(rng: np.random.Generator) -> Curve:
    """Around the middle of the room, looking at it."""
    radius, start, sweep = rng.uniform(3.0, 3.6), rng.uniform(0, 2 * np.pi), _side(rng) * rng.uniform(1.3, 1.7)
    height, rise, gaze = rng.uniform(1.1, 1.7), rng.uniform(-0.3, 0.3), rng.uniform(0.5, 0.9)
    sway = Wobble(rng, 0.7, 2)

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        angle = start + sweep * t
        around = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * (radius + 0.15 * sway(t))[:, None]
        position = np.concatenate([around, (height + rise * t)[:, None]], axis=-1)
        yaw, pitch = _toward(position, np.tile([0.0, 0.0, gaze], (len(t), 1)))
        return Path(position, yaw, pitch, 0.02 * sway(t + 0.3))

    return curve


def forward(rng: np.random.Generator) -> Curve:
    """Straight ahead along the lane, past the middle group, looking slightly towards it."""
    lane, height = rng.uniform(2.9, 3.4), rng.uniform(1.1, 1.6)
    start, length = rng.uniform(-6.0, -5.6), rng.uniform(6.4, 7.4)
    inward, drift, look_down = rng.uniform(0.1, 0.3), rng.uniform(-0.25, 0.25), rng.uniform(0.05, 0.15)
    sway = Wobble(rng, 0.5, 1.5)

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        position = np.stack([lane + drift * t, start + length * t, height + 0.05 * sway(t)], axis=-1)
        yaw = np.pi / 2 + inward + 0.03 * sway(t + 0.2)
        return Path(position, yaw, np.full(len(t), -look_down), 0.01 * sway(t + 0.5))

    return curve


def sideways(rng: np.random.Generator) -> Curve:
    """Along the lane with the middle group straight in view: everything slides by."""
    lane, height = rng.uniform(3.2, 3.8), rng.uniform(1.0, 1.6)
    start, length = rng.uniform(-2.6, -2.2), rng.uniform(4.2, 5.0)
    slant, look_down = rng.uniform(-0.2, 0.2), rng.uniform(0.08, 0.2)
    sway = Wobble(rng, 0.5, 1.5)

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        position = np.stack([lane + 0.1 * sway(t), start + length * t, height + 0.05 * sway(t + 0.4)], axis=-1)
        yaw = np.pi + slant + 0.03 * sway(t + 0.2)
        return Path(position, yaw, np.full(len(t), -look_down), 0.01 * sway(t + 0.5))

    return curve


def walk(rng: np.random.Generator) -> Curve:
    """Handheld, on foot around the middle group: steps, sway and a restless gaze."""
    way, start = _side(rng), rng.uniform(0, 2 * np.pi)
    radius, sweep, height = rng.uniform(3.0, 3.6), rng.uniform(1.1, 1.5), rng.uniform(1.3, 1.6)
    gaze_lead = rng.uniform(0.1, 0.7)
    drift = [Wobble(rng, 0.6, 3) for _ in range(4)]
    step = Wobble(rng, 4, 9, terms=3)

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        angle = start + way * sweep * t
        distance = radius + 0.15 * drift[0](t)
        height_now = height + 0.03 * step(t) + 0.04 * drift[1](t)
        position = np.stack([distance * np.cos(angle), distance * np.sin(angle), height_now], axis=-1)
        yaw, pitch = _toward(position, np.tile([0.0, 0.0, 0.8], (len(t), 1)))
        yaw = yaw - way * gaze_lead + 0.05 * drift[2](t) + 0.004 * step(t + 0.1)
        return Path(position, yaw, pitch + 0.03 * drift[3](t) + 0.004 * step(t + 0.2), 0.02 * drift[0](t + 0.7))

    return curve


def turn(rng: np.random.Generator) -> Curve:
    """Forward along the lane, then around the corner towards the middle group, still creeping ahead."""
    lane, height = rng.uniform(2.9, 3.4), rng.uniform(1.1, 1.6)
    start, length = rng.uniform(-5.9, -5.4), rng.uniform(4.6, 5.4)
    angle, look_down = rng.uniform(0.6, 0.75), rng.uniform(0.05, 0.15)
    sway = Wobble(rng, 0.5, 1.5)

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        slowed = t - 0.6 * np.clip(t - 0.5, 0, None) ** 2
        u = np.clip((t - 0.4) / 0.6, 0, 1)
        turned = angle * u * u * (3 - 2 * u)
        position = np.stack([lane - 0.6 * turned**2, start + length * slowed, height + 0.04 * sway(t)], axis=-1)
        yaw = np.pi / 2 + turned + 0.02 * sway(t + 0.2)
        return Path(position, yaw, np.full(len(t), -look_down), 0.01 * sway(t + 0.5))

    return curve


def pure_rotation(rng: np.random.Generator) -> Curve:
    """Panning from a tripod: no parallax at all."""
    start, sweep, height = rng.uniform(0, 2 * np.pi), _side(rng) * rng.uniform(0.9, 1.2), rng.uniform(1.1, 1.6)
    place = np.array([3.3 * np.cos(start), 3.3 * np.sin(start), height])
    sway = Wobble(rng, 0.5, 1.5)

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        yaw = start + np.pi + sweep * (t - 0.5)
        return Path(np.tile(place, (len(t), 1)), yaw, -0.1 + 0.04 * sway(t), 0.01 * sway(t + 0.5))

    return curve


def still(rng: np.random.Generator) -> Curve:
    """A camera that does not move."""
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(1.1, 1.6)
    place = np.array([3.3 * np.cos(angle), 3.3 * np.sin(angle), height])

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        return Path(np.tile(place, (len(t), 1)), np.full(len(t), angle + np.pi), np.full(len(t), -0.1), 0 * t)

    return curve


LOOP_OVERLAP = 0.05
"""The long walk goes this part of a round beyond its start: the one place it sees twice."""


def long_walk(rng: np.random.Generator) -> Curve:
    """Once around the town's winding lane and a little further: 100 m that return to their start at the very end."""
    start, way, height = rng.uniform(0, 2 * np.pi), _side(rng), rng.uniform(1.5, 1.7)
    drift = [Wobble(rng, 3, 14) for _ in range(5)]
    step = Wobble(rng, 60, 110, terms=3)
    fine = np.linspace(0, 1 + LOOP_OVERLAP, 20001)
    lane_fine = _lane(start + way * 2 * np.pi * fine)
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(lane_fine, axis=0), axis=-1))])

    def curve(t: Float64[np.ndarray, "n"]) -> Path:
        angle = start + way * 2 * np.pi * np.interp(t * walked[-1], walked, fine)
        here, ahead = _lane(angle), _lane(angle + way * 0.04)
        heading = np.unwrap(np.arctan2(*(ahead - here).T[::-1]))
        outward = here / np.linalg.norm(here, axis=-1, keepdims=True)
        ground = here + 0.35 * drift[0](t)[:, None] * outward
        position = np.concatenate([ground, (height + 0.02 * step(t) + 0.03 * drift[1](t))[:, None]], axis=-1)
        yaw = heading + 0.22 * drift[2](t) + 0.003 * step(t + 0.1)
        return Path(position, yaw, -0.06 + 0.04 * drift[3](t) + 0.002 * step(t + 0.2), 0.015 * drift[4](t))

    return curve


def _lane(angle: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n 2"]:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1) * town_lane_radius(angle)[:, None]


MOTIONS: dict[str, Callable[[np.random.Generator], Curve]] = {
    "orbit": orbit,
    "forward": forward,
    "sideways": sideways,
    "walk": walk,
    "turn": turn,
    "pure_rotation": pure_rotation,
    "still": still,
    "long_walk": long_walk,
}
BENCHMARK_MOTIONS = ("orbit", "forward", "sideways", "walk", "turn")
"""The five motions that the project's figures are measured on."""
NORMAL_FRAMES_OF = {"long_walk": 1000}


def scene_kind(motion: str) -> str:
    """The kind of scene a motion is made for (`build_scene`)."""
    return "town" if motion == "long_walk" else "room"


def make_poses(
    motion: str, seed: int, scene: Scene, frames: int = NORMAL_FRAMES, start: float = 0.0
) -> Float64[np.ndarray, "frames 4 4"]:
    """OpenCV camera-to-world poses of a motion, in free space with an open view.

    At normal speed a room motion lasts 60 frames, `long_walk` 1,000. Fewer frames are a part at normal speed, from
    `start` (0 to 1) on as far as there is room; more frames are the whole of it filmed at a higher rate. Random draws
    that come within 0.3 m of a surface, or face one within 1 m, are thrown away.
    Raises FlowCamError for an unknown motion, or where a scene leaves no room for it.
    """
    if motion not in MOTIONS:
        raise FlowCamError(f"unknown motion {motion!r}: choose one of {', '.join(MOTIONS)}")
    if frames < 1:
        raise FlowCamError("a clip needs at least one frame")
    step = 1 / (max(frames, NORMAL_FRAMES_OF.get(motion, NORMAL_FRAMES)) - 1)
    time = min(start, 1 - step * (frames - 1)) + step * np.arange(frames)
    for draw in range(DRAWS):
        poses = MOTIONS[motion](np.random.default_rng([seed, 4, draw]))(time).flipped(scene.layout.flip).c2w()
        if _free(scene, poses):
            return poses
    raise FlowCamError(f"seed {seed} leaves no room for the motion {motion!r}: choose another seed")


def _free(scene: Scene, poses: Float64[np.ndarray, "frames 4 4"]) -> bool:
    """Whether all cameras stand clear of every surface and see some way ahead."""
    position, ahead = poses[:, :3, 3], poses[:, :3, 2]
    if scene.clearance(position).min() < MIN_CLEARANCE:
        return False
    return all(scene.clearance(position + distance * ahead).min() > 0 for distance in np.linspace(0.2, WALL_SIGHT, 5))
