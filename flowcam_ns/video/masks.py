"""Masks: which pixels of each frame may be used (white: keep)."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Bool

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.image_file import IMAGE_SUFFIXES, read_grey

MAX_MASKS = 200_000
SAME_ASPECT = 0.03


def load_masks(path: Path, frames: Frames, of_video: bool) -> tuple[Bool[np.ndarray, "frames height width"], list[str]]:
    """Masks for `frames` from a folder (one for each image, by name) or a single image that holds for all.

    Args:
        path: the folder or image.
        frames: whose sources and size the masks are for.
        of_video: whether sources are frame numbers, which masks carry as the last number of their name.

    Returns:
        The masks, True where a pixel may be used, and warnings.
    """
    if path.is_file():
        mask = _read_mask(path, frames.width, frames.height)
        return np.repeat(mask[None], len(frames), axis=0), []
    if not path.is_dir():
        raise FlowCamError(f"The masks {path} do not exist; give a folder of masks or one image.")
    found = _index(path, by_number=of_video)
    files = [found.get(source if of_video else _stem(PurePosixPath(source))) for source in frames.sources]
    if not any(files):
        example = "000000.png" if of_video else f"{_stem(PurePosixPath(frames.sources[0]))}.png"
        raise FlowCamError(f"The folder {path} has no mask for any frame; masks are named like the frames: {example}.")
    return masks_from_files(files, frames)


def masks_from_files(
    files: list[Path | None], frames: Frames
) -> tuple[Bool[np.ndarray, "frames height width"], list[str]]:
    """One mask a frame; a frame without a file keeps every pixel, and a warning says how many do."""
    masks = np.ones((len(frames), frames.height, frames.width), bool)
    for mask, file in zip(masks, files, strict=True):
        if file is not None:
            mask[:] = _read_mask(file, frames.width, frames.height)
    missing = sum(file is None for file in files)
    return masks, [f"{missing} of {len(files)} frames have no mask; all their pixels are used."] if missing else []


def _index(folder: Path, by_number: bool) -> dict[str, Path]:
    """Mask files below `folder` by relative name without suffix, or by the last number in their name."""
    found: dict[str, Path] = {}
    # Counted while they are listed: a folder given by mistake may hold a whole disk.
    files = list(islice(folder.rglob("*"), MAX_MASKS + 1))
    if len(files) > MAX_MASKS:
        raise FlowCamError(f"The folder of masks {folder} holds more than {MAX_MASKS:,} files.")
    for file in sorted(files):
        if file.suffix.lower() not in IMAGE_SUFFIXES or not file.is_file():
            continue
        stem = _stem(PurePosixPath(file.relative_to(folder).as_posix()))
        numbers = re.findall(r"\d+", file.stem)
        key = stem if not by_number else str(int(numbers[-1])) if numbers else ""
        found.setdefault(key, file)
    return found


def _stem(name: PurePosixPath) -> str:
    """a/0001.jpg, a/0001.png and a/0001.jpg.png (COLMAP's custom) all give a/0001."""
    while name.suffix.lower() in IMAGE_SUFFIXES:
        name = name.with_suffix("")
    return name.as_posix()


def _read_mask(path: Path, width: int, height: int) -> Bool[np.ndarray, "height width"]:
    grey = read_grey(path)
    if abs(np.log(grey.shape[1] / grey.shape[0] * height / width)) > SAME_ASPECT:
        raise FlowCamError(
            f"The mask {path} is {grey.shape[1]}x{grey.shape[0]} px, of another shape than the frames "
            f"({width}x{height} px)."
        )
    # Some tools write 0 and 1; elsewhere grey is the noise of lossy compression.
    keep = grey > (0 if grey.max() <= 1 else 127)
    return cv2.resize(keep.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
