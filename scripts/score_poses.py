#!/usr/bin/env python3
"""Score one transforms.json against another that holds the true poses; frames are matched by their `source`.

python scripts/score_poses.py demo/poses/transforms.json demo/truth.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.metrics import PoseScores, constant_velocity_baseline, score_trajectory
from flowcam_ns.geometry.se3 import opencv_to_opengl


@dataclass(frozen=True)
class Trajectory:
    """Poses by source, and the lens."""

    c2w: dict[str, Float[Tensor, "4 4"]]
    camera: Camera


def read_trajectory(path: Path) -> Trajectory:
    """Poses and lens of a transforms.json; raises FlowCamError where it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        c2w = {str(frame["source"]): _opencv(frame["transform_matrix"]) for frame in content["frames"]}
        lens = {name: float(content[key]) for name, key in {"fx": "fl_x", "fy": "fl_y", "cx": "cx", "cy": "cy"}.items()}
        return Trajectory(c2w, Camera(int(content["w"]), int(content["h"]), **lens))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlowCamError(f"{path} is no transforms.json with sources, poses and a lens: {error}") from error


def score(estimate: Trajectory, truth: Trajectory) -> tuple[PoseScores, PoseScores]:
    """Scores over the frames that both files hold, and those of a straight line at even speed."""
    sources = [source for source in truth.c2w if source in estimate.c2w]
    if len(sources) < 2:
        raise FlowCamError("the two files have fewer than two sources in common")
    true = torch.stack([truth.c2w[source] for source in sources])
    poses = torch.stack([estimate.c2w[source] for source in sources])
    trivial = score_trajectory(constant_velocity_baseline(len(true)), true)
    return score_trajectory(poses, true, camera=estimate.camera, truth_camera=truth.camera), trivial


def main(estimate: tyro.conf.Positional[Path], truth: tyro.conf.Positional[Path]) -> None:
    """Print the scores.

    Args:
        estimate: The transforms.json to be scored.
        truth: The transforms.json (of any name) that holds the true poses.
    """
    ours, trivial = score(read_trajectory(estimate), read_trajectory(truth))
    print(f"{ours.frames} frames compared, after a Sim(3) fit; in brackets a straight line at even speed")
    print(f"  ATE                 {100 * ours.ate_relative:8.3f} % of the radius  ({100 * trivial.ate_relative:.1f} %)")
    print(f"  largest offset      {100 * ours.max_position_relative:8.3f} % of the radius")
    print(f"  largest rotation    {ours.max_rotation_deg:8.3f} degrees        ({trivial.max_rotation_deg:.1f})")
    print(f"  AUC@5               {ours.auc_5:8.3f}                ({trivial.auc_5:.3f})")
    print(f"  focal length error  {ours.focal_error_percent:8.3f} %")


def _opencv(matrix: Any) -> Float[Tensor, "4 4"]:
    c2w = torch.tensor(matrix, dtype=torch.float64)
    if c2w.shape != (4, 4):
        raise ValueError("a transform_matrix is not 4 x 4")
    return opencv_to_opengl(c2w)


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except FlowCamError as error:
        raise SystemExit(f"error: {error}") from None
