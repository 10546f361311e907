"""Settings of the pose estimation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class AlignmentOptions:
    """How poses are estimated from flow."""

    flow: Literal["auto", "dis", "raft", "raft-small"] = "auto"
    """Optical flow: DIS (fast, any CPU), RAFT (torchvision, for GPUs), or the one that fits the machine."""
    flow_size: int | None = None
    """Long side, in px, of the images on which flow is estimated. By default it is chosen: 384 where neighbouring
    frames lie close together, 512 where they do not, and for RAFT."""
    flow_confidence: bool = True
    """Weigh flow by how well its two directions agree; otherwise all that stays inside the picture counts alike."""
    find_overlays: bool = True
    """Leave out what stays at one place of the picture while the rest moves: logos, captions, bars at the sides."""
    find_moving: bool = True
    """Where flow contradicts a scene that stands still, leave out what moves on its own and solve again."""
    cache: bool = True
    """Keep computed flow on disk, so that a second run on the same video starts at once."""
    cache_dir: Path | None = None
    """Where to keep it; by default FLOWCAM_CACHE, or flowcam in the user's cache folder."""
    point_spacing: int = 16
    """Distance, in px of the flow images, of the points whose depths are solved for."""
    refine_distortion: bool = True
    """Solve for lens distortion (k1, k2, p1, p2)."""
    refine_principal_point: bool = True
    """Solve for the principal point where the video can tell it."""
    device: str = "cpu"
    """Torch device of the flow network. The solver itself runs on the CPU, on all its cores."""
