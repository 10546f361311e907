"""Pictures as people's videos have them: cut out of larger ones, taken at night or by an action camera, compressed,
with a logo. Every function takes all frames and their lens, and gives both as they are afterwards.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic.video_file import write_video

Pictures = UInt8[np.ndarray, "frames height width 3"]
Spoiled = tuple["Pictures", Camera | None]

CUT = 0.2
"""Share of the long side that is cut away, so that the lens no longer looks through the middle of the picture."""
DARK = 0.15
"""Share of the brightness that is left of a video taken at night; eight bits keep little of it."""
BARREL = -0.25
"""k1 of an action camera."""
CRF = 36
"""H.264's quality, of 51 (worst): a video that was sent on a few times."""
LOGO_WIDTH, LOGO_HEIGHT = 3, 4
"""A logo takes up a third of the picture's width and a quarter of its height."""
THING_STEP, THING_BOB, THING_PACE = 0.012, 0.02, 0.9
"""A thing that moves goes on by this share of the long side from frame to frame, and bobs by this share of it, so many
radians a frame."""
THING_START, THING_LEVEL, THING_SLENDER = 0.2, 0.55, 2
"""Where it begins (share of the width) and at which height its middle is; how many times as tall as wide it is."""


def cut(images: Pictures, camera: Camera | None) -> Spoiled:
    """Without the right side of wide pictures, the lower of tall ones."""
    height, width = images.shape[1:3]
    if width >= height:
        width = int(width * (1 - CUT)) // 2 * 2
    else:
        height = int(height * (1 - CUT)) // 2 * 2
    # The upper left corner stays, so the principal point stays at the same pixel.
    return _cropped(images, camera, 0, 0, height, width)


def dark(images: Pictures, camera: Camera | None) -> Spoiled:
    """By night."""
    return np.stack([(image * DARK).round().astype(np.uint8) for image in images]), camera


def compressed(images: Pictures, camera: Camera | None) -> Spoiled:
    """Through a small H.264 file."""
    height, width = (side // 2 * 2 for side in images.shape[1:3])
    images, camera = _cropped(images, camera, 0, 0, height, width)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.mp4"
        write_video(path, images, fps=15, crf=CRF)
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(decoded), camera


def with_logo(images: Pictures, camera: Camera | None) -> Spoiled:
    """A gaudy plate in the lower left corner of every frame."""
    height, width = images.shape[1] // LOGO_HEIGHT, images.shape[2] // LOGO_WIDTH
    blocks = np.random.default_rng(1).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    images = images.copy()
    images[:, -height:, :width] = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    return images, camera


def crossed_by_thing(share: float, images: Pictures, camera: Camera | None) -> Spoiled:
    """With a thing that moves to and fro before the scene: an oval of `share` of the picture, whose texture is the
    last picture, upside down.
    """
    frames, height, width = images.shape[:3]
    tall = min(np.sqrt(share * height * width * THING_SLENDER / np.pi), 0.475 * height)
    wide = share * height * width / np.pi / tall
    size = 2 * int(wide) + 1, 2 * int(tall) + 1
    texture = cv2.resize(images[-1, ::-1], size, interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[: size[1], : size[0]]
    oval = (np.square((x - wide) / wide) + np.square((y - tall) / tall) < 1).astype(np.float32)
    side = max(height, width)
    images = images.copy()
    for frame in range(frames):
        way = THING_START * width + THING_STEP * side * frame
        middle_x = abs(way % (2 * width) - width)
        middle_y = THING_LEVEL * height + THING_BOB * side * np.sin(THING_PACE * frame)
        move = np.array([[1, 0, middle_x - wide], [0, 1, middle_y - tall]], np.float32)
        thing, there = (cv2.warpAffine(image, move, (width, height)) for image in (texture, oval))
        images[frame] = (thing * there[..., None] + images[frame] * (1 - there[..., None])).round()
    return images, camera


def through_barrel(images: Pictures, camera: Camera | None) -> Spoiled:
    """As a lens with barrel distortion sees it, without the corners that the picture does not fill."""
    height, width = images.shape[1:3]
    lens = camera or Camera.from_focal(width, height, 0.8 * max(width, height))
    y, x = np.mgrid[:height, :width] + 0.5
    bent = np.stack([(x - lens.cx) / lens.fx, (y - lens.cy) / lens.fy])
    ray = bent.copy()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(30):  # Where the distortion cannot be undone this runs away, out of the picture.
            ray = bent / (1 + BARREL * np.square(ray).sum(0))
    column, row = (ray[0] * lens.fx + lens.cx - 0.5), (ray[1] * lens.fy + lens.cy - 0.5)
    filled = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    column, row = (np.where(filled, at, 0).astype(np.float32) for at in (column, row))
    seen = np.stack([cv2.remap(image, column, row, cv2.INTER_CUBIC) for image in images])
    return _cropped(seen, camera, *_largest_middle(filled))


def _largest_middle(filled: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest part around the middle, of the picture's shape, that is all filled."""
    height, width = filled.shape
    for percent in range(100, 10, -2):
        rows, columns = height * percent // 200 * 2, width * percent // 200 * 2
        top, left = (height - rows) // 2, (width - columns) // 2
        if filled[top : top + rows, left : left + columns].all():
            return top, left, rows, columns
    raise ValueError("the distorted picture has no middle")


def _cropped(images: Pictures, camera: Camera | None, top: int, left: int, height: int, width: int) -> Spoiled:
    part = np.ascontiguousarray(images[:, top : top + height, left : left + width])
    if camera is not None:
        camera = replace(camera, width=width, height=height, cx=camera.cx - left, cy=camera.cy - top)
    return part, camera
