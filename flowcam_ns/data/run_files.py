"""What every run leaves beside its checkpoint: the estimated cameras as other programs read them."""

from __future__ import annotations

from pathlib import Path

from flowcam_ns.alignment.export import POINT_CLOUD, alignment_transforms, write_dataset
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.formats.atomic import write_json
from flowcam_ns.video.frames import Frames

POSES = "poses"


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
