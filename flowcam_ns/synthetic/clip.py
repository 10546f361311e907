"""A rendered clip with everything known about it, and its H.264 file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic.motions import NORMAL_FRAMES, make_poses, scene_kind
from flowcam_ns.synthetic.render import exact_flow, render
from flowcam_ns.synthetic.scene import build_scene
from flowcam_ns.video.frames import Frames, GroundTruth

DEFAULT_FPS = 30
MAX_SIDE = 4096


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


def random_camera(seed: int, width: int, height: int) -> Camera:
    """A phone-like lens for a seed: 51 to 71 degrees across, no distortion."""
    focal = np.random.default_rng([seed, 5]).uniform(0.7, 1.05)
    return Camera.from_focal(width, height, focal * max(width, height))


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
    """Build the scene of `seed` and film it with `motion` (see `make_poses` for `frames` and `start`).

    `camera` overrides the lens of `random_camera` and the size. Raises FlowCamError for values that cannot be.
    """
    camera = camera or random_camera(seed, width, height)
    if not (8 <= camera.width <= MAX_SIDE and 8 <= camera.height <= MAX_SIDE):
        raise FlowCamError(f"a clip of {camera.width} x {camera.height} px: sides must be 8 to {MAX_SIDE} px")
    scene = build_scene(seed, scene_kind(motion), texture_size_for(camera.width))
    c2w = make_poses(motion, seed, scene, frames, start)
    views = [render(scene, camera, pose) for pose in c2w]
    rgb, depth = np.stack([view[0] for view in views]), np.stack([view[1] for view in views])
    return SyntheticClip(rgb, depth, c2w, camera, motion, seed, fps)


def texture_size_for(width: int) -> int:
    """Texels of a texture that keep it sharp at an image width in px."""
    return 128 if width <= 160 else 256 if width <= 256 else 512 if width <= 640 else 1024


def write_video(
    path: Path, rgb: UInt8[np.ndarray, "frames height width 3"], fps: int = DEFAULT_FPS, crf: int = 18
) -> None:
    """Write RGB frames as an H.264 mp4 (yuv420p, so an even size); a half-written file never bears the name.

    Raises FlowCamError for an odd size or where the file cannot be written.
    """
    height, width = rgb.shape[1:3]
    if width % 2 or height % 2:
        raise FlowCamError(f"H.264 needs an even width and height, not {width} x {height}: choose another size")
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _encode(unfinished, rgb, fps, crf)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FlowCamError(f"cannot write {path} ({error.strerror or error}): choose another place") from error


def _encode(path: Path, rgb: UInt8[np.ndarray, "frames height width 3"], fps: int, crf: int) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = rgb.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "medium"}
        for image in rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode(None))
