"""A clip of a procedural scene with everything known about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic.motions import NORMAL_FRAMES, make_poses, scene_kind
from flowcam_ns.synthetic.render import exact_flow, render, render_depth
from flowcam_ns.synthetic.scene import Scene, build_scene
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.video.frames import Frames, GroundTruth

__all__ = ["ClipPlan", "SyntheticClip", "make_clip", "plan_clip", "random_camera", "texture_size_for", "write_video"]

DEFAULT_FPS = 30
MIN_SIDE, MAX_SIDE = 8, 4096


@dataclass(frozen=True)
class SyntheticClip:
    """Frames of a procedural scene with exact poses, depth and flow."""

    rgb: UInt8[np.ndarray, "frames height width 3"]
    depth: Float32[np.ndarray, "frames height width"]
    """Metres along each camera's axis at the pixel centres."""
    c2w: Float64[np.ndarray, "frames 4 4"]
    """OpenCV camera-to-world; the world's z points up, its unit is the metre."""
    camera: Camera
    motion: str
    seed: int
    fps: int = DEFAULT_FPS

    def __len__(self) -> int:
        return len(self.rgb)

    def flow(self, i: int, j: int) -> tuple[Float32[np.ndarray, "height width 2"], Bool[np.ndarray, "height width"]]:
        """Exact flow in px from frame i to frame j, and where the point is visible in j (see `exact_flow`)."""
        T_j_i = np.linalg.inv(self.c2w[j]) @ self.c2w[i]
        return exact_flow(self.depth[i], self.depth[j], self.camera, T_j_i)

    def to_frames(self) -> Frames:
        """The clip as decoding would hand it on, with its truth (no lens is given away)."""
        return Frames(
            images=self.rgb,
            sources=[str(index) for index in range(len(self))],
            timestamps=np.arange(len(self)) / self.fps,
            name=f"{self.motion}_{self.seed}",
            ground_truth=GroundTruth(c2w=self.c2w, camera=self.camera),
        )


@dataclass(frozen=True)
class ClipPlan:
    """A clip before it is rendered: for clips too long to hold in memory."""

    scene: Scene
    camera: Camera
    c2w: Float64[np.ndarray, "frames 4 4"]
    motion: str
    seed: int
    fps: int = DEFAULT_FPS

    def __len__(self) -> int:
        return len(self.c2w)

    def view(self, i: int) -> tuple[UInt8[np.ndarray, "height width 3"], Float32[np.ndarray, "height width"]]:
        """Frame i: RGB and depth."""
        return render(self.scene, self.camera, self.c2w[i])

    def flow(self, i: int, j: int) -> tuple[Float32[np.ndarray, "height width 2"], Bool[np.ndarray, "height width"]]:
        """Exact flow in px from frame i to frame j, and where the point is visible in j; renders only depth."""
        depth_i, depth_j = (render_depth(self.scene, self.camera, self.c2w[k]) for k in (i, j))
        return exact_flow(depth_i, depth_j, self.camera, np.linalg.inv(self.c2w[j]) @ self.c2w[i])

    def render(self) -> SyntheticClip:
        """All frames, in memory."""
        shape = (len(self), self.camera.height, self.camera.width)
        rgb, depth = np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32)
        for index in range(len(self)):
            rgb[index], depth[index] = self.view(index)
        return SyntheticClip(rgb, depth, self.c2w, self.camera, self.motion, self.seed, self.fps)


def random_camera(seed: int, width: int, height: int) -> Camera:
    """A phone-like lens for a seed: 51 to 71 degrees across, no distortion."""
    focal = np.random.default_rng([seed, 5]).uniform(0.7, 1.05)
    return Camera.from_focal(width, height, focal * max(width, height))


def plan_clip(
    motion: str,
    seed: int,
    frames: int = NORMAL_FRAMES,
    width: int = 480,
    height: int = 270,
    camera: Camera | None = None,
    start: float = 0.0,
    fps: int = DEFAULT_FPS,
) -> ClipPlan:
    """Build the scene of `seed` and the poses of `motion` in it (see `make_poses` for `frames` and `start`).

    `camera` overrides the lens of `random_camera` and the size. Raises FlowCamError for values that cannot be.
    """
    camera = camera or random_camera(seed, width, height)
    if not (MIN_SIDE <= camera.width <= MAX_SIDE and MIN_SIDE <= camera.height <= MAX_SIDE):
        raise FlowCamError(
            f"a clip of {camera.width} x {camera.height} px: choose a size with sides of {MIN_SIDE} to {MAX_SIDE} px"
        )
    scene = build_scene(seed, scene_kind(motion), texture_size_for(camera.width))
    return ClipPlan(scene, camera, make_poses(motion, seed, scene, frames, start), motion, seed, fps)


def make_clip(
    motion: str,
    seed: int,
    frames: int = NORMAL_FRAMES,
    width: int = 480,
    height: int = 270,
    camera: Camera | None = None,
    start: float = 0.0,
    fps: int = DEFAULT_FPS,
) -> SyntheticClip:
    """Film the scene of `seed` with `motion`: `plan_clip`, rendered."""
    return plan_clip(motion, seed, frames, width, height, camera, start, fps).render()


def texture_size_for(width: int) -> int:
    """Texels of a texture that keep it sharp at an image width in px."""
    return 128 if width <= 160 else 256 if width <= 256 else 512 if width <= 640 else 1024
