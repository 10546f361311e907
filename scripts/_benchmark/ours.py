"""Our own pose estimation with default options, from files to poses."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from _benchmark.estimate import Estimate
from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.watch import Progress
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions


def solve(
    path: Path,
    options: FrameOptions | None = None,
    progress: Progress | None = None,
    camera: Camera | None = None,
) -> Estimate:
    """Poses of a video or folder of images, under a lens where one is given; a refusal has nothing posed."""
    started = time.monotonic()
    frames = load_frames(path, options)
    decoded = time.monotonic()
    try:
        found = estimate_poses(frames, camera, progress=progress)
    except FlowCamError as error:
        stages = {"reading": decoded - started, "until it gave up": time.monotonic() - decoded}
        return Estimate.nothing(len(frames), str(error), stages)
    ended = time.monotonic()
    stages = {"reading": decoded - started, **found.seconds}
    stages["the rest"] = max(0.0, ended - started - sum(stages.values()))
    c2w = torch.where(found.posed[:, None, None], found.c2w, torch.nan)
    return Estimate(
        np.asarray(c2w, dtype=np.float64),
        asdict(found.camera),
        stages,
        sources=frames.sources,
        problem=" ".join(found.warnings),
        rotation_std_deg=None if found.rotation_std_deg is None else found.rotation_std_deg.tolist(),
        position_std=None if found.position_std is None else found.position_std.tolist(),
        focal_std=found.focal_std,
    )
