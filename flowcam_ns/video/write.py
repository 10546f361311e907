"""Writing selected frames and their masks as image files, for datasets that other tools read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.frames import Frames

JPEG_QUALITY = 95


def write_images(frames: Frames, folder: Path, suffix: Literal["jpg", "png"] = "jpg") -> list[Path]:
    """Write every frame as frame_00001.jpg and so on; returns the files in order. Other files there are left alone."""
    return [_write(image, folder / f"frame_{number:05d}.{suffix}") for number, image in enumerate(frames.images, 1)]


def write_masks(frames: Frames, folder: Path) -> list[Path]:
    """Write every frame's mask as frame_00001.png and so on (white: keep); nothing where there are no masks."""
    if frames.masks is None:
        return []
    return [
        _write(mask.astype(np.uint8) * 255, folder / f"frame_{number:05d}.png")
        for number, mask in enumerate(frames.masks, 1)
    ]


def _write(pixels: np.ndarray, path: Path) -> Path:
    """Write beside `path` under a temporary name, then rename: no half-written image is ever found under its name."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.fromarray(pixels).save(temporary, quality=JPEG_QUALITY, subsampling=0)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FlowCamError(f"Cannot write {path} ({error.strerror or error}): choose another folder.") from error
    return path
