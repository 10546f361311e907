"""Trajectories in the TUM RGB-D benchmark's text format, which evo and most SLAM tools read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from flowcam_ns.formats.atomic import write_text


def write_tum(path: Path, timestamps: Float[np.ndarray, "frames"], c2w: Float[np.ndarray, "frames 4 4"]) -> None:
    """One line a frame: `timestamp tx ty tz qx qy qz qw`, seconds and OpenCV camera-to-world."""
    quaternions = Rotation.from_matrix(c2w[:, :3, :3]).as_quat()
    rows = np.concatenate([c2w[:, :3, 3], quaternions], axis=1)
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    lines += [f"{time:.6f} " + " ".join(f"{x:.9g}" for x in row) for time, row in zip(timestamps, rows, strict=True)]
    write_text(path, "\n".join(lines) + "\n")
