"""Reading a nerfstudio dataset's transforms.json: file names, poses, lens and masks. Its text is not trusted."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.se3 import opencv_to_opengl
from flowcam_ns.video.image_file import natural_key

FILE_NAME = "transforms.json"
MAX_BYTES = 200_000_000
PERSPECTIVE_MODELS = {"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"}
LONGEST_NAME = 255
"""Bytes that file systems allow each part of a path; a whole path may have `LONGEST_PATH`."""
LONGEST_PATH = 4000
LARGEST_NUMBER = 1e9
"""No size, focal length or distortion goes beyond this."""
SAME_LENS = 0.01
"""Frames share a lens where their focal lengths and principal points differ by no more than this share of the size."""


@dataclass(frozen=True)
class DatasetFrame:
    """One entry of `frames`."""

    image: Path
    mask: Path | None
    c2w: Float64[np.ndarray, "4 4"]
    """OpenCV camera-to-world; NaN where the file gives no usable pose."""
    intrinsics: dict[str, float]
    """Its own and the file's shared intrinsics, by nerfstudio's names, for the size (w, h) if that is given."""

    def camera(self, width: int, height: int) -> Camera | None:
        """The lens for images of `width` x `height` px, or None where the file gives none."""
        known = self.intrinsics
        w, h = known.get("w", width), known.get("h", height)
        fx = known.get("fl_x") or _focal_of_angle(known.get("camera_angle_x"), w)
        fy = known.get("fl_y") or _focal_of_angle(known.get("camera_angle_y"), h) or fx
        fx = fx or fy
        if fx is None or fy is None or min(fx, fy) <= 0 or max(fx, fy) > LARGEST_NUMBER:
            return None
        distortion = {key: known.get(key, 0.0) for key in ("k1", "k2", "p1", "p2")}
        camera = Camera(int(w), int(h), fx, fy, known.get("cx", w / 2), known.get("cy", h / 2), **distortion)
        return camera.scaled_to(width, height)


def read_dataset(folder: Path) -> list[DatasetFrame]:
    """The frames listed in `folder`/transforms.json, in natural order of their file names, each file once.

    Raises FlowCamError for a file that cannot be read, names files outside of the folder, or whose camera is not
    perspective.
    """
    path = folder / FILE_NAME
    content = _read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise FlowCamError(f"{path} has no list of frames; is it in nerfstudio's format?")
    assert isinstance(content, dict)
    shared = {key: value for key, value in content.items() if key != "frames"}
    parsed: dict[Path, DatasetFrame] = {}
    for frame in frames:
        merged = {**shared, **frame}
        _require_perspective(path, merged.get("camera_model"))
        image = _inside(folder, path, frame.get("file_path"))
        mask = None if frame.get("mask_path") is None else _inside(folder, path, frame["mask_path"])
        c2w = _pose(path, frame.get("transform_matrix"))
        parsed.setdefault(image, DatasetFrame(image, mask, c2w, _intrinsics(path, merged)))
    return sorted(parsed.values(), key=lambda frame: natural_key(PurePath(frame.image)))


def shared_camera(cameras: list[Camera | None]) -> Camera | None:
    """The lens that all frames share (their median one, where each has its own but they hardly differ), or None."""
    known = [camera for camera in cameras if camera is not None]
    if not known or len(known) < len(cameras):
        return None
    names = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")
    values = np.array([[getattr(camera, name) for name in names] for camera in known])
    median = np.median(values, axis=0)
    width, height = known[0].width, known[0].height
    scale = np.array([width, height, width, height, 1, 1, 1, 1])
    if (np.abs(values - median) > SAME_LENS * scale).any():
        return None
    return Camera(width, height, *median.tolist())


def _read_json(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FlowCamError(f"{path} is larger than {MAX_BYTES:,} bytes; is it really a nerfstudio dataset?")
        return json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise FlowCamError(f"No permission to read {path}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise FlowCamError(f"{path} cannot be read as JSON ({error}).") from error


def _require_perspective(path: Path, model: object) -> None:
    if model is not None and not (isinstance(model, str) and model in PERSPECTIVE_MODELS):
        raise FlowCamError(
            f"{path} has the camera model {_shown(model)}; only perspective cameras "
            f"({', '.join(sorted(PERSPECTIVE_MODELS))}) can be used: undistort the images first."
        )


def _inside(folder: Path, path: Path, name: object) -> Path:
    """The file that the JSON at `path` calls `name`, which must lie in `folder`."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise FlowCamError(f"{path} has a frame without a valid file_path or mask_path.")
    # Links inside the folder are its owner's business; what the text says must not lead out of it.
    relative = PurePath(os.path.normpath(name))
    if relative.is_absolute() and relative.is_relative_to(folder):
        relative = relative.relative_to(folder)
    if relative.is_absolute() or relative.drive or ".." in relative.parts or relative == PurePath():
        raise FlowCamError(f"{path} names a file outside of its folder ({_shown(name)}); paths must be relative to it.")
    if not _can_exist(folder, relative):
        raise FlowCamError(f"{path} names a file that cannot exist ({_shown(name)}).")
    return folder / relative


def _can_exist(folder: Path, relative: PurePath) -> bool:
    """Whether a path is one that file systems take: asking them about others raises an error."""
    try:
        longest = max(len(os.fsencode(part)) for part in relative.parts)
        return longest <= LONGEST_NAME and len(os.fsencode(folder / relative)) <= LONGEST_PATH
    except UnicodeEncodeError:
        return False


def _pose(path: Path, matrix: object) -> Float64[np.ndarray, "4 4"]:
    missing = np.full((4, 4), np.nan)
    if matrix is None:
        return missing
    try:
        c2w = np.array(matrix, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise FlowCamError(f"{path} has a transform_matrix that is not made of numbers.") from error
    if c2w.shape not in ((4, 4), (3, 4)):
        raise FlowCamError(f"{path} has a transform_matrix of shape {c2w.shape}; it must be 4x4.")
    if not np.isfinite(c2w).all():
        return missing
    c2w = np.concatenate([c2w[:3], [[0.0, 0.0, 0.0, 1.0]]])
    return opencv_to_opengl(torch.from_numpy(c2w)).numpy()


def _intrinsics(path: Path, entry: dict[str, Any]) -> dict[str, float]:
    names = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "p1", "p2", "camera_angle_x", "camera_angle_y")
    found = {}
    for name in names:
        value = entry.get(name)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Compared as it is: an integer of hundreds of digits is no float.
        if not (number and abs(value) <= LARGEST_NUMBER):
            raise FlowCamError(f"{path} has {name} = {_shown(value)}; it must be a number, and not a huge one.")
        if name in ("w", "h") and value < 1:
            raise FlowCamError(f"{path} has {name} = {_shown(value)}; it must be a number of px.")
        found[name] = float(value)
    return found


def _shown(value: object) -> str:
    """Untrusted text for a message: short, on one line, no control characters."""
    return str(value)[:80].encode("unicode_escape").decode()


def _focal_of_angle(angle: float | None, size: float) -> float | None:
    return 0.5 * size / math.tan(0.5 * angle) if angle and 0 < angle < math.pi else None
