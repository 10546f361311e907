"""Frames out of a dataset folder, and the ground truth that goes with it or with its folder of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.dataset import FILE_NAME, DatasetFrame, read_dataset, shared_camera
from flowcam_ns.video.frames import Frames, GroundTruth
from flowcam_ns.video.image_folder import load_images
from flowcam_ns.video.masks import masks_from_files
from flowcam_ns.video.options import FrameOptions, Progress


def load_dataset(folder: Path, options: FrameOptions, progress: Progress | None = None) -> Frames:
    """Read the frames that `folder`/transforms.json lists, as they are stored (EXIF orientation does not apply)."""
    listed = read_dataset(folder)
    existing = [frame for frame in listed if frame.image.is_file()]
    if not existing:
        raise FlowCamError(f"None of the {len(listed)} images that {folder / FILE_NAME} names is there.")
    frames, kept, full_size = load_images(
        [frame.image for frame in existing], options, folder.name, upright=False, progress=progress
    )
    entries: list[DatasetFrame | None] = [existing[i] for i in kept]
    frames = _with_ground_truth(frames, entries, full_size, options)
    if options.masks is None and any(entry and entry.mask for entry in entries):
        masks, warnings = masks_from_files([entry and entry.mask for entry in entries], frames)
        frames = replace(frames, masks=masks, warnings=frames.warnings + warnings)
    if len(existing) < len(listed):
        missing = f"{len(listed) - len(existing)} images named in {FILE_NAME} are not there and were left out."
        frames.warnings.append(missing)
    return frames


def load_images_of_dataset(
    folder: Path, files: list[Path], options: FrameOptions, progress: Progress | None = None
) -> Frames:
    """Read a dataset's folder of images as plain images, with the ground truth of the transforms.json beside it."""
    name = folder.parent.name
    try:
        listed = {frame.image.resolve(): frame for frame in read_dataset(folder.parent)}
    except FlowCamError as error:
        if options.use_dataset_intrinsics or "camera model" in str(error):
            raise
        frames, _, _ = load_images(files, options, name, progress=progress)
        frames.warnings.append(f"no ground truth to score with: {error}")
        return frames
    frames, kept, full_size = load_images(files, options, name, upright=False, progress=progress)
    return _with_ground_truth(frames, [listed.get(files[i].resolve()) for i in kept], full_size, options)


def _with_ground_truth(
    frames: Frames, entries: list[DatasetFrame | None], full_size: tuple[int, int], options: FrameOptions
) -> Frames:
    """Add what the dataset says about each frame: poses to score with, and the lens if it was asked for."""
    lenses = [entry.camera(*full_size) for entry in entries if entry is not None]
    camera = shared_camera(lenses)
    if camera is not None:
        camera = camera.scaled_to(frames.width, frames.height)
    if options.use_dataset_intrinsics:
        if camera is None:
            raise FlowCamError(
                f"{FILE_NAME} gives no lens that all frames share; leave use-dataset-intrinsics out to estimate it."
            )
        frames = replace(frames, camera=camera)
    if not options.ground_truth:
        return frames
    missing = np.full((4, 4), np.nan)
    c2w = np.stack([missing if entry is None else entry.c2w for entry in entries])
    if np.isnan(c2w).all():
        return frames
    return replace(frames, ground_truth=GroundTruth(c2w, camera))
