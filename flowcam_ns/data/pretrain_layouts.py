"""Poses and lenses as RealEstate10K, CO3D and KITTI keep them: they give intrinsics and scores, and train nothing.

RealEstate10K   frames in a folder ID, named by their timestamps in microseconds; ID.txt beside it or anywhere in the
                data: a line each of timestamp, fx fy cx cy over the image's size, two zeros, world-to-camera 3x4
CO3D            CATEGORY/SEQUENCE/images/, CATEGORY/frame_annotations.jgz
KITTI           odometry: sequences/NN/image_2/, calib.txt beside it, poses/NN.txt; raw: DATE/DRIVE/image_02/data/,
                DATE/calib_cam_to_cam.txt
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jaxtyping import Float64

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.video.frames import GroundTruth
from flowcam_ns.video.image_file import image_files, read_header

MAX_BYTES = 2_000_000_000
"""Annotation files are not read beyond this, unpacked."""
MAX_TEXT_BYTES = 100_000_000
UNREADABLE = (
    *(OSError, EOFError, zlib.error, ValueError, ArithmeticError, RecursionError),
    *(KeyError, TypeError, IndexError, AttributeError),
)
"""What files that are damaged, or not what their names say, make their readers raise."""


@dataclass(frozen=True)
class Annotation:
    """What is known of the images of a folder, by file name."""

    c2w: dict[str, Float64[np.ndarray, "4 4"]]
    """OpenCV camera-to-world poses."""
    intrinsics: dict[str, tuple[float, float, float, float]]
    """fx, fy, cx, cy over the image's width and height."""

    def truth(self, names: list[str], width: int, height: int) -> GroundTruth | None:
        """Poses of the named images, and the lens (the median one) at a size; None where there is neither."""
        names = [PurePath(name).name for name in names]
        known = [self.intrinsics[name] for name in names if name in self.intrinsics]
        camera = None
        if known:
            fx, fy, cx, cy = np.median(np.array(known), axis=0).tolist()
            camera = Camera(width, height, fx * width, fy * height, cx * width, cy * height)
        missing = np.full((4, 4), np.nan)
        c2w = np.stack([self.c2w.get(name, missing) for name in names])
        return None if camera is None and np.isnan(c2w).all() else GroundTruth(c2w, camera)


def read_annotation(folder: Path, text: Path | None = None) -> Annotation | None:
    """What a layout says about a folder of images, if it is one of the known ones; `text` is a text file of its name.

    Raises FlowCamError where its files make no sense.
    """
    try:
        return _realestate(folder, text) or _co3d(folder) or _kitti_odometry(folder) or _kitti_raw(folder)
    except UNREADABLE as error:
        raise FlowCamError(f"the poses or the lens that go with {folder} cannot be read ({error})") from error


def _realestate(folder: Path, text: Path | None) -> Annotation | None:
    if text is None:
        return None
    lines = [line.split() for line in _text(text).splitlines()]
    rows = [line for line in lines if len(line) == 19]
    if not rows:
        return None
    by_stem = {image.stem: image.name for image in image_files(folder)}
    c2w, intrinsics = {}, {}
    for row in rows:
        name = by_stem.get(row[0])
        if name is None:
            continue
        numbers = _finite([float(x) for x in row[1:]])
        intrinsics[name] = _lens(*numbers[:4])
        c2w[name] = np.linalg.inv(_square(np.array(numbers[6:]).reshape(3, 4)))
    return Annotation(c2w, intrinsics) if c2w else None


def _co3d(folder: Path) -> Annotation | None:
    if folder.name != "images":
        return None
    path = folder.parents[1] / "frame_annotations.jgz"
    if not path.is_file():
        return None
    c2w, intrinsics = {}, {}
    for entry in _co3d_frames(path).get(folder.parent.name, []):
        name = PurePath(entry["image"]["path"]).name
        view = entry.get("viewpoint")
        if view is None:
            continue
        height, width = _finite(entry["image"]["size"])
        if min(height, width) <= 0:
            raise ValueError(f"an image is {width:g}x{height:g} px")
        # Their cameras look along +z with x to the left and y up, and multiply row vectors from the left.
        flip = np.diag([-1.0, -1.0, 1.0])
        T_cam_world = np.eye(4)
        T_cam_world[:3, :3] = flip @ np.array(view["R"], dtype=np.float64).T
        T_cam_world[:3, 3] = flip @ np.array(view["T"], dtype=np.float64)
        c2w[name] = np.linalg.inv(_square(T_cam_world[:3]))
        (fx, fy), (px, py) = _finite(view["focal_length"]), _finite(view["principal_point"])
        half = np.array([width, height]) / 2
        if view.get("intrinsics_format", "ndc_norm_image_bounds") == "ndc_isotropic":
            half = np.full(2, min(width, height) / 2)
        cx, cy = width / 2 - px * half[0], height / 2 - py * half[1]
        intrinsics[name] = _lens(fx * half[0] / width, fy * half[1] / height, cx / width, cy / height)
    return Annotation(c2w, intrinsics) if c2w else None


@lru_cache(maxsize=2)
def _co3d_frames(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The entries of an annotation file, by sequence."""
    with gzip.open(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise FlowCamError(f"{path} is larger than {MAX_BYTES:,} bytes when unpacked")
    by_sequence: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads(content):
        by_sequence.setdefault(str(entry["sequence_name"]), []).append(entry)
    return by_sequence


def _kitti_odometry(folder: Path) -> Annotation | None:
    calibration = folder.parent / "calib.txt"
    if folder.name not in ("image_2", "image_3") or not calibration.is_file():
        return None
    matrix = _kitti_matrix(calibration, f"P{folder.name[-1]}", (3, 4))
    names = [image.name for image in image_files(folder)]
    poses_file = folder.parents[2] / "poses" / f"{folder.parent.name}.txt"
    c2w: dict[str, np.ndarray] = {}
    if poses_file.is_file():
        # Poses are those of the left grey camera; a rectified one differs from it by a shift along x.
        shift = np.eye(4)
        shift[0, 3] = -matrix[0, 3] / matrix[0, 0]
        rows = [_finite([float(x) for x in line.split()]) for line in _text(poses_file).splitlines() if line.strip()]
        poses = [_square(np.array(row).reshape(3, 4)) @ shift for row in rows]
        c2w = dict(zip(names, poses, strict=False))
    return _of_one_lens(folder, names, matrix, c2w)


def _kitti_raw(folder: Path) -> Annotation | None:
    if folder.name != "data" or folder.parent.name not in ("image_02", "image_03"):
        return None
    calibration = folder.parents[2] / "calib_cam_to_cam.txt"
    if not calibration.is_file():
        return None
    matrix = _kitti_matrix(calibration, f"P_rect_{folder.parent.name[-2:]}", (3, 4))
    return _of_one_lens(folder, [image.name for image in image_files(folder)], matrix, {})


def _of_one_lens(folder: Path, names: list[str], matrix: np.ndarray, c2w: dict[str, np.ndarray]) -> Annotation:
    width, height = read_header(folder / names[0], upright=False).size
    lens = _lens(matrix[0, 0] / width, matrix[1, 1] / height, matrix[0, 2] / width, matrix[1, 2] / height)
    return Annotation(c2w, dict.fromkeys(names, lens))


def _kitti_matrix(path: Path, key: str, shape: tuple[int, int]) -> Float64[np.ndarray, "3 4"]:
    for line in _text(path).splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == key:
            return np.array(_finite([float(x) for x in numbers.split()])).reshape(shape)
    raise ValueError(f"{path.name} has no {key}")


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_TEXT_BYTES:,} bytes")
    return path.read_text(encoding="utf-8", errors="replace")


def _finite(numbers: list[float]) -> list[float]:
    if not all(math.isfinite(x) for x in numbers):
        raise ValueError("a number is not finite")
    return [float(x) for x in numbers]


def _lens(fx: float, fy: float, cx: float, cy: float) -> tuple[float, float, float, float]:
    """Intrinsics over the image's size, if a camera can have them."""
    fx, fy, cx, cy = _finite([fx, fy, cx, cy])
    if min(fx, fy) <= 0:
        raise ValueError(f"a focal length is {min(fx, fy):g}")
    return fx, fy, cx, cy


def _square(top: Float64[np.ndarray, "3 4"]) -> Float64[np.ndarray, "4 4"]:
    return np.concatenate([top, [[0.0, 0.0, 0.0, 1.0]]])
