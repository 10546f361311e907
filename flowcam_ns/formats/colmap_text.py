"""A COLMAP model as text: cameras.txt, images.txt, points3D.txt, one OPENCV camera shared by all images.

COLMAP's cameras have our axes and our pixel centres (+0.5); its images hold world-to-camera, quaternions w first.
Format: https://colmap.github.io/format.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from flowcam_ns.formats.atomic import write_text
from flowcam_ns.formats.point_cloud import PointCloud
from flowcam_ns.geometry.camera import Camera

CAMERA_ID = 1
UNKNOWN_ERROR = -1.0
"""What COLMAP states for a point whose error it has not computed."""


def write_colmap_text(
    folder: Path,
    camera: Camera,
    c2w: Float[np.ndarray, "frames 4 4"],
    names: Sequence[str],
    cloud: PointCloud | None = None,
    point_error: float = 0.0,
) -> None:
    """Write the three files into `folder`.

    Args:
        folder: Made where it does not exist.
        camera: The lens, at the size of the images.
        c2w: OpenCV camera-to-world poses of the images.
        names: File names of the images, relative to COLMAP's image folder.
        cloud: Points; `cloud.frame` counts in `names`. Each becomes a track of one observation.
        point_error: Reprojection error in px to state for every point; not finite where it is unknown.
    """
    write_text(folder / "cameras.txt", _cameras(camera))
    write_text(folder / "images.txt", _images(c2w, names, cloud))
    write_text(folder / "points3D.txt", _points(cloud, len(names), point_error))


def _cameras(camera: Camera) -> str:
    parameters = [camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion]
    line = f"{CAMERA_ID} OPENCV {camera.width} {camera.height} " + " ".join(f"{x:.12g}" for x in parameters)
    return f"# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n{line}\n"


def _images(c2w: Float[np.ndarray, "frames 4 4"], names: Sequence[str], cloud: PointCloud | None) -> str:
    R = c2w[:, :3, :3].transpose(0, 2, 1)
    translations = -(R @ c2w[:, :3, 3:])[..., 0]
    quaternions = Rotation.from_matrix(R).as_quat()[:, [3, 0, 1, 2]]
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for index, (name, q, t) in enumerate(zip(names, quaternions, translations, strict=True)):
        numbers = " ".join(f"{x:.12g}" for x in (*q, *t))
        lines.append(f"{index + 1} {numbers} {CAMERA_ID} {name}")
        seen = np.flatnonzero(cloud.frame == index) if cloud is not None else np.empty(0, dtype=np.int64)
        pixels = cloud.pixels[seen].tolist() if cloud is not None else []
        lines.append(" ".join(f"{x:.3f} {y:.3f} {point + 1}" for (x, y), point in zip(pixels, seen, strict=True)))
    return "\n".join(lines) + "\n"


def _points(cloud: PointCloud | None, images: int, error: float) -> str:
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    known = error if math.isfinite(error) else UNKNOWN_ERROR
    if cloud is not None:
        counts = np.zeros(images, dtype=np.int64)
        rows = zip(cloud.xyz.tolist(), cloud.rgb.tolist(), cloud.frame.tolist(), strict=True)
        for point, ((x, y, z), (r, g, b), frame) in enumerate(rows, 1):
            lines.append(f"{point} {x:.7g} {y:.7g} {z:.7g} {r} {g} {b} {known:.4g} {frame + 1} {counts[frame]}")
            counts[frame] += 1
    return "\n".join(lines) + "\n"
