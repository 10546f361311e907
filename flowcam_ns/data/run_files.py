"""What every run leaves beside its checkpoint: the estimated cameras as other programs read them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.export import POINT_CLOUD, alignment_transforms, write_dataset
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.formats.atomic import write_json
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.scene import TRUSTED
from flowcam_ns.video.frames import Frames

POSES = "poses"
POINT_STEP = 8
"""Every such pixel of a stored depth map is a point of the cloud, in both directions."""
FROM_CHECKPOINT = "cameras and points are those of the checkpoint that the run started from; nothing was solved anew"
NO_POSE = "had no pose in the checkpoint that the run started from"


def write_run_files(run_folder: Path, frames: Frames, alignment: Alignment) -> Path:
    """Write `poses/` (a whole dataset folder) and a transforms.json that refers to its images; returns the latter.

    The file cannot lie in the checkpoint folder itself: nerfstudio takes everything there for a checkpoint.
    """
    folder = run_folder / POSES
    write_dataset(folder, frames, alignment, overwrite=True)

    def listed(name: str) -> list[str]:
        return [path.relative_to(run_folder).as_posix() for path in sorted((folder / name).glob("frame_*"))]

    cloud = f"{POSES}/{POINT_CLOUD}" if (folder / POINT_CLOUD).exists() else None
    target = run_folder / "transforms.json"
    write_json(target, alignment_transforms(frames, alignment, listed("images"), listed("masks"), cloud))
    return target


def loaded_alignment(
    cameras: EstimatedCameras,
    inverse_depth: Float[Tensor, "frames h w"],
    confidence: Float[Tensor, "frames h w"],
    foreign: Bool[Tensor, "frames small_h small_w"] | None = None,
) -> Alignment:
    """What a checkpoint still knows of the solve it holds the cameras of; its trusted depths serve as points."""
    count, h, w = inverse_depth.shape
    rows, columns = (torch.arange(min(POINT_STEP, side) // 2, side, POINT_STEP) for side in (h, w))
    y, x = (grid.flatten() for grid in torch.meshgrid(rows, columns, indexing="ij"))
    camera = cameras.camera
    pixels = (torch.stack([x, y], dim=-1) + 0.5) * torch.tensor([camera.width / w, camera.height / h])
    trusted = confidence[:, y, x].cpu() >= TRUSTED
    known = cameras.uncertainty
    return Alignment(
        camera=camera,
        c2w=cameras.c2w,
        posed=cameras.posed,
        points=pixels.expand(count, -1, -1),
        inverse_depth=inverse_depth[:, y, x].cpu().float(),
        inverse_depth_std=torch.where(trusted, 0.0, torch.inf),
        reprojection_error=math.nan,
        unposed_reasons={int(i): NO_POSE for i in (~cameras.posed).nonzero()[:, 0]},
        focal_std=math.inf if known is None else known.focal,
        rotation_std_deg=None if known is None else known.rotation_deg,
        position_std=None if known is None else known.position,
        foreign=foreign,
        warnings=[FROM_CHECKPOINT],
    )


def summary(alignment: Alignment, sources: list[str]) -> list[str]:
    """Lines that tell what the solve found."""
    camera, error = alignment.camera, alignment.reprojection_error
    measured = f"; reprojection error {error:.2f} px" if math.isfinite(error) else ""
    lines = [
        f"Posed {int(alignment.posed.sum())} of {len(alignment.posed)} frames; focal length {camera.fx:.1f} px at "
        f"{camera.width}x{camera.height}{measured}"
    ]
    lines += [f"Frame {sources[i]} has no pose: {reason}" for i, reason in sorted(alignment.unposed_reasons.items())]
    return lines + [f"Warning: {text}" for text in alignment.warnings]
