"""nerfstudio's transforms.json, with what every file of ours adds: where frames came from and which are missing.

Beside nerfstudio's keys: `source` and `timestamp` (seconds) of each frame; `unposed`, a list of {source, reason};
`thinned`, how many frames of the input were left out beforehand; `lens_std_px`, standard deviations of the lens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.se3 import opencv_to_opengl


@dataclass(frozen=True)
class PosedFrame:
    """One entry of `frames`."""

    file_path: str
    """The image, relative to the transforms.json (or absolute)."""
    c2w: Float[np.ndarray, "4 4"]
    """OpenCV camera-to-world."""
    source: str
    """The input image's file name, or the video's frame number."""
    timestamp: float
    """Seconds."""
    mask_path: str | None = None
    rotation_std_deg: float | None = None
    """Standard deviation of the rotation, where it is known."""
    position_std: float | None = None
    """Standard deviation of the position in world units, where it is known."""


@dataclass(frozen=True)
class UnposedFrame:
    """One entry of `unposed`: a frame that was selected but could not be posed."""

    source: str
    reason: str


def transforms_dict(
    camera: Camera,
    frames: Sequence[PosedFrame],
    unposed: Sequence[UnposedFrame] = (),
    thinned: int = 0,
    ply_file_path: str | None = None,
    lens_std_px: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The content of a transforms.json, ready for `write_json`; figures that are not finite are left out.

    Args:
        camera: The lens at the size of the images.
        frames: The posed frames.
        unposed: Frames that were selected but not posed.
        thinned: How many frames of the input were left out beforehand.
        ply_file_path: Point cloud in the same world, relative to the transforms.json.
        lens_std_px: Standard deviations by nerfstudio's names (`fl_x`, ...); those of the distortion have no unit.

    Raises:
        ValueError: a pose or the lens is not finite.
    """
    content: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "k1": camera.k1,
        "k2": camera.k2,
        "p1": camera.p1,
        "p2": camera.p2,
    }
    known = {key: float(std) for key, std in (lens_std_px or {}).items() if math.isfinite(std)}
    if known:
        content["lens_std_px"] = known
    # Said outright, or nerfstudio takes a folder with a COLMAP model for one whose axes its own converter has swapped.
    content["applied_transform"] = np.eye(4)[:3].tolist()
    if ply_file_path is not None:
        content["ply_file_path"] = ply_file_path
    content["frames"] = [_frame(frame) for frame in frames]
    content["unposed"] = [{"source": frame.source, "reason": frame.reason} for frame in unposed]
    content["thinned"] = thinned
    if not all(math.isfinite(x) for x in content.values() if isinstance(x, float)):
        raise ValueError(f"the lens is not finite: {camera}")
    return content


def _frame(frame: PosedFrame) -> dict[str, Any]:
    if not np.isfinite(frame.c2w).all():
        raise ValueError(f"the pose of {frame.source} is not finite")
    entry: dict[str, Any] = {
        "file_path": frame.file_path,
        "source": frame.source,
        "timestamp": frame.timestamp,
        "transform_matrix": opencv_to_opengl(torch.from_numpy(frame.c2w).double()).tolist(),
    }
    if frame.mask_path is not None:
        entry["mask_path"] = frame.mask_path
    for key in ("rotation_std_deg", "position_std"):
        value = getattr(frame, key)
        if value is not None and math.isfinite(value):
            entry[key] = value
    return entry
