"""Clips of anything, from anywhere: rooms, streets, table tops and loose heaps, any lens, any motion, any light.

The scenes of `scene.py` are tidy, filmed at eye level and always of one kind: figures and demos want that. A network
that shall read real videos must not learn what only holds there, so here everything is drawn: what stands where, at
what scale, how the camera is held and moved, the lens, the shape of the picture, exposure, colours, noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from scipy.spatial.transform import Rotation

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic import textures
from flowcam_ns.synthetic.atlas import Atlas
from flowcam_ns.synthetic.clip import SyntheticClip
from flowcam_ns.synthetic.dead_leaves import dead_leaves
from flowcam_ns.synthetic.layout import Layout
from flowcam_ns.synthetic.motions import Wobble
from flowcam_ns.synthetic.primitives import FACES, Box, Cylinder, Room, Solid, Sphere
from flowcam_ns.synthetic.render import render, render_depth
from flowcam_ns.synthetic.scene import Scene

ASPECTS = (16 / 9, 16 / 9, 4 / 3, 4 / 3, 6 / 5, 1.0, 3 / 4, 9 / 16, 9 / 16, 3.2)
DRAWS = 60
TILES = 8
TEXELS = 256
LIGHT_TEXELS = 128
CLEARANCE = 0.12
"""Of what lies in the middle of the picture's depths; no camera comes nearer to anything."""
LEAST_RELIEF = 1.5
"""Far over near in a picture (tenth of its pixels each): a bare wall teaches nothing."""
PREVIEW = 40
"""Long side in px of the depth maps that motions are planned on."""


@dataclass(frozen=True)
class Kind:
    """What sort of place it is. Lengths in metres, though nobody can tell."""

    half: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    """Least and largest half extents of the room."""
    solids: tuple[int, int]
    sizes: tuple[float, float]
    """Least and largest half extents of the solids; small ones are as likely as large ones, scale by scale."""
    eye: tuple[float, float]
    """Height of the camera."""
    pitch: tuple[float, float]
    """Degrees above the horizon that it looks."""
    floating: float
    """Share of the solids that hang anywhere."""


KINDS = (
    Kind(((3, 7), (3, 7), (1.3, 3)), (25, 60), (0.12, 1.1), (0.6, 2.0), (-35, 12), 0.2),
    Kind(((2.5, 8), (20, 50), (4, 12)), (50, 90), (0.25, 2.5), (0.8, 2.2), (-15, 8), 0.1),
    Kind(((1.2, 3), (1.2, 3), (1.2, 2)), (25, 60), (0.05, 0.35), (0.4, 1.0), (-70, -20), 0.0),
    Kind(((3, 9), (3, 9), (3, 9)), (50, 100), (0.15, 1.3), (1.0, 4.0), (-60, 50), 1.0),
)


def clutter_clip(seed: int, frames: int = 24, long_side: int = 192) -> SyntheticClip:
    """A clip of about `long_side` px. Raises FlowCamError where a seed gives none (rare: try the next)."""
    rng = np.random.default_rng([seed, 77])
    camera = _camera(rng, long_side)
    for _ in range(DRAWS):
        kind = KINDS[rng.integers(len(KINDS))]
        scene = _scene(rng, kind)
        for _ in range(8):
            c2w = _motion(rng, scene, kind, camera, frames)
            if c2w is not None:
                return _film(rng, scene, camera, c2w, seed)
    raise FlowCamError(f"seed {seed} gives no clip: choose another one")


def _camera(rng: np.random.Generator, long_side: int) -> Camera:
    aspect = ASPECTS[rng.integers(len(ASPECTS))]
    width, height = (long_side, long_side / aspect) if aspect >= 1 else (long_side * aspect, long_side)
    width, height = 2 * round(width / 2), 2 * round(height / 2)
    focal = long_side * float(np.exp(rng.uniform(np.log(0.55), np.log(1.35))))
    cx, cy = (0.5 + 0.03 * rng.normal(size=2).clip(-2, 2)) * (width, height)
    return Camera(width, height, focal, focal, float(cx), float(cy))


def _scene(rng: np.random.Generator, kind: Kind) -> Scene:
    half = np.array([rng.uniform(*span) for span in kind.half])
    solids: list[Solid] = [Room(np.array([0, 0, half[2]]), half)]
    for _ in range(int(rng.integers(*kind.solids))):
        size = np.exp(rng.uniform(*np.log(kind.sizes), size=3))
        place = rng.uniform(-1, 1, 3) * half
        shape = rng.random()
        if shape < 0.2:
            size = np.full(3, size[0])
        elif shape < 0.4:
            size[1] = size[0]
        place[2] = place[2] + half[2] if rng.random() < kind.floating else size[2]
        maker = Sphere if shape < 0.2 else Cylinder if shape < 0.4 else Box
        solids.append(maker(place, size, rng.uniform(0, np.pi)))
    tiles = [_tile(rng) for _ in range(TILES)] + [textures.variation(rng, TEXELS)]
    count = len(solids)
    light = 1 + rng.uniform(0, 0.35) * textures.fractal_noise(rng, LIGHT_TEXELS, 0.5, 2)
    azimuth, height = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(20, 80))
    own_tile = np.repeat(rng.integers(TILES, size=count), FACES)
    own_tile[:FACES] = rng.integers(TILES, size=FACES)
    period = np.exp(rng.uniform(np.log(0.3), np.log(3.0), count)) * np.clip(half.min(), 0.5, 4) / 2
    return Scene(
        layout=Layout(solids),
        atlas=Atlas(tiles),
        tile=own_tile,
        period=np.repeat(period, FACES).astype(np.float32),
        offset=rng.uniform(size=(count * FACES, 2)).astype(np.float32),
        tint=np.repeat(rng.uniform(0.5, 1.3, (count, 1)) + rng.normal(scale=0.08, size=(count, 3)), FACES, axis=0)
        .clip(0.2, 1.5)
        .astype(np.float32),
        variation_tile=TILES,
        sun=np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)]),
        light_map=light.clip(0.3, 1.5).astype(np.float32),
    )


def _tile(rng: np.random.Generator) -> textures.Tile:
    if rng.random() < 0.65:
        return dead_leaves(rng, TEXELS)
    return np.clip(textures.OBJECTS[rng.integers(len(textures.OBJECTS))](rng, TEXELS), 0, 1)


def _motion(
    rng: np.random.Generator, scene: Scene, kind: Kind, camera: Camera, frames: int
) -> Float64[np.ndarray, "frames 4 4"] | None:
    """Hand-held, tracking or steady poses in steps that flow can follow; None where something is in the way."""
    half = scene.layout.room.size
    position = rng.uniform(-0.8, 0.8, 3) * half
    position[2] = min(rng.uniform(*kind.eye), 1.8 * half[2])
    along = np.pi / 2 if half[1] > 3 * half[0] and rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    look = Rotation.from_euler(
        "ZYX", [along + rng.normal(scale=0.3), -np.deg2rad(rng.uniform(*kind.pitch)), np.deg2rad(rng.normal(scale=6))]
    ).as_matrix() @ np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    start = np.eye(4)
    start[:3, :3], start[:3, 3] = look, position
    if scene.clearance(position[None])[0] < 0.05:
        return None
    scale = PREVIEW / max(camera.width, camera.height)
    small = camera.scaled_to(max(round(camera.width * scale), 8), max(round(camera.height * scale), 8))
    near, depth, far = np.quantile(render_depth(scene, small, start), (0.1, 0.5, 0.9)).tolist()
    if far < LEAST_RELIEF * near:
        return None
    poses = _poses(rng, start, depth, camera, frames)
    return poses if scene.clearance(poses[:, :3, 3]).min() > CLEARANCE * depth else None


def _poses(
    rng: np.random.Generator, start: Float64[np.ndarray, "4 4"], depth: float, camera: Camera, frames: int
) -> Float64[np.ndarray, "frames 4 4"]:
    """A smooth way and gaze from `start` on, in steps that suit a scene at `depth`, with what a hand adds to both."""
    time = np.linspace(0, 1, frames)
    focal = camera.fx / max(camera.width, camera.height)
    step = float(np.exp(rng.uniform(np.log(0.006), np.log(0.05)))) * depth / focal
    mainly = rng.random()
    direction = rng.normal(size=3) * ([1, 0.4, 0.3] if mainly < 0.5 else [0.25, 0.15, 1.0] if mainly < 0.8 else 1.0)
    direction /= np.linalg.norm(direction)
    sway = np.stack([Wobble(rng, 0.3, 2)(time) for _ in range(3)], axis=-1) * rng.uniform(0, 0.6)
    hand = np.stack([Wobble(rng, 2, 8)(time) for _ in range(3)], axis=-1) * rng.uniform(0, 0.35)
    velocity = (direction + sway + hand) * step
    offset = np.concatenate([np.zeros((1, 3)), np.cumsum(velocity[1:], axis=0)])
    if rng.random() < 0.35:  # the gaze stays on something
        target = np.array([0, 0, depth * rng.uniform(0.6, 1.4)])
        line = target - offset
        turned = np.stack([np.arctan2(line[:, 0], line[:, 2]), -np.arctan2(line[:, 1], np.hypot(*line[:, ::2].T))], 1)
        turned = np.concatenate([turned - turned[:1], np.zeros((frames, 1))], axis=-1)
    else:
        rate = np.exp(rng.uniform(np.log(0.0005), np.log(0.03))) * rng.normal(size=3) * [1, 0.5, 0.4]
        drift = np.stack([Wobble(rng, 0.3, 1.5)(time) for _ in range(3)], axis=-1) * rng.uniform(0, 0.8)
        turned = np.cumsum(rate * (1 + drift), axis=0)
    shake = np.stack([Wobble(rng, 2, 9)(time) for _ in range(3)], axis=-1) * np.exp(
        rng.uniform(np.log(2e-4), np.log(8e-3))
    )
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("YXZ", turned + shake - shake[:1]).as_matrix()
    poses[:, :3, 3] = offset
    return start @ poses


def _film(
    rng: np.random.Generator, scene: Scene, camera: Camera, c2w: Float64[np.ndarray, "frames 4 4"], seed: int
) -> SyntheticClip:
    views = [render(scene, camera, pose) for pose in c2w]
    rgb = developed(rng, np.stack([colour for colour, _ in views]))
    return SyntheticClip(rgb, np.stack([depth for _, depth in views]), c2w, camera, "clutter", seed)


def developed(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "frames height width 3"]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """What some camera would have made of it: exposure that drifts, tone, colour, softness, dark corners, noise."""
    count, height, width = frames.shape[:3]
    time = np.linspace(0, 1, count)
    x = frames.astype(np.float32) / 255
    exposure = np.exp(rng.normal(scale=0.2) + 0.08 * rng.random() * Wobble(rng, 0.3, 2)(time))
    x = x * exposure[:, None, None, None] * np.exp(rng.normal(scale=0.06, size=3))
    grey = x.mean(-1, keepdims=True)
    x = grey + (x - grey) * (0.0 if rng.random() < 0.15 else rng.uniform(0.5, 1.5))
    v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    x = x * (1 - rng.uniform(0, 0.3) * (u**2 + v**2) / 2)[..., None]
    x = np.clip(x, 0, 1) ** np.exp(rng.normal(scale=0.25))
    if rng.random() < 0.4:
        sigma = float(rng.uniform(0.3, 0.9))
        x = np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in x.astype(np.float32)])
    x = x + rng.uniform(0, 0.015) * rng.normal(size=x.shape)
    return np.clip(x * 255 + 0.5, 0, 255).astype(np.uint8)
