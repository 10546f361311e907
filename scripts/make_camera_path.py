#!/usr/bin/env python3
"""A smooth flight along a run's cameras, as a camera path for `ns-render camera-path`.

python scripts/make_camera_path.py demo/runs/demo/flowcam/TIMESTAMP --output demo/path.json
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float

from flowcam_ns.errors import FlowCamError
from flowcam_ns.formats.atomic import write_json
from flowcam_ns.geometry.smooth_path import smooth_path


@dataclass
class MakeCameraPath:
    """A smooth flight along the cameras of a run, as a camera path for `ns-render camera-path`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run (or of `flowcam-poses`), which holds a transforms.json."""
    output: Path = Path("path.json")
    """The camera path to be written."""
    period: float = 1.0
    """Shaking whose period is this many seconds of the video is halved; faster shaking vanishes."""
    slower: float = 2.0
    """How many times longer than the video the flight takes."""
    fps: int = 24
    """Views a second."""


def read_cameras(file: Path) -> tuple[dict[str, Any], Float[np.ndarray, "frames 4 4"], Float[np.ndarray, "frames"]]:
    """Content, OpenGL camera-to-world poses and times of a transforms.json of ours; FlowCamError where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        frames = sorted(content["frames"], key=lambda frame: frame["timestamp"])
        c2w = np.array([frame["transform_matrix"] for frame in frames], dtype=float).reshape(-1, 4, 4)
        return content, c2w, np.array([frame["timestamp"] for frame in frames], dtype=float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlowCamError(f"{file} is no transforms.json with poses and timestamps: {error}") from error


def camera_path(options: MakeCameraPath) -> dict[str, Any]:
    """What `ns-render camera-path` reads: nerfstudio's own format, as the viewer's Render tab exports it."""
    content, c2w, seconds = read_cameras(options.run / "transforms.json")
    # Most players show no H.264 video of odd sizes.
    width, height = (max(2 * round(content[side] / 2), 2) for side in ("w", "h"))
    duration = float(seconds[-1] - seconds[0]) * options.slower if len(seconds) else 0.0
    views = max(round(duration * options.fps), 2)
    try:
        path = smooth_path(c2w, seconds, views, options.period)
    except ValueError as error:
        raise FlowCamError(f"{options.run}: {error}") from error
    fov = math.degrees(2 * math.atan(height / 2 / content["fl_y"]))
    views_json = [{"camera_to_world": pose.flatten().tolist(), "fov": fov, "aspect": width / height} for pose in path]
    return {
        "camera_type": "perspective",
        "render_width": width,
        "render_height": height,
        "fps": options.fps,
        "seconds": views / options.fps,
        "camera_path": views_json,
    }


def main(options: MakeCameraPath) -> None:
    """Read, smooth and write."""
    path = camera_path(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, path)
    print(f"Wrote {options.output}: {len(path['camera_path'])} views, {path['seconds']:.1f} s")


if __name__ == "__main__":
    try:
        main(tyro.cli(MakeCameraPath, description=__doc__))
    except FlowCamError as error:
        raise SystemExit(f"error: {error}") from None
