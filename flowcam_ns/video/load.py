"""The way in: a video file, a folder of images or a dataset folder, as `Frames`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.dataset import FILE_NAME
from flowcam_ns.video.dataset_folder import load_dataset, load_images_of_dataset
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.image_file import IMAGE_SUFFIXES, image_files
from flowcam_ns.video.image_folder import load_images
from flowcam_ns.video.masks import load_masks
from flowcam_ns.video.options import FrameOptions, Progress
from flowcam_ns.video.video_file import load_video

IMAGES = "images"
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v"}


def load_frames(path: Path | str, options: FrameOptions | None = None, progress: Progress | None = None) -> Frames:
    """Read the frames of a video, a folder of images or a nerfstudio dataset; nothing is written.

    Args:
        path: video file, folder of images, dataset folder, or a dataset's transforms.json itself.
        options: range, budget, size, lens, masks.
        progress: called after every frame with how many are done and, where known, of how many.

    Raises:
        FlowCamError: where there are no two frames to be had; its message says what to do.
    """
    options = options or FrameOptions()
    options.check()
    path = Path(path).expanduser()
    try:
        return _load(path, options, progress)
    except PermissionError as error:
        raise FlowCamError(f"No permission to read {error.filename or path}.") from error


def _load(path: Path, options: FrameOptions, progress: Progress | None) -> Frames:
    if not path.exists():
        raise FlowCamError(f"{path} does not exist; give a video file, a folder of images or a nerfstudio dataset.")
    path = path.resolve()
    if path.name == FILE_NAME:
        path = path.parent
    if path.is_dir():
        frames, has_lens = _load_folder(path, options, progress)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        raise FlowCamError(f"{path} is a single image; give the folder that holds all images, or a video.")
    else:
        frames, has_lens = load_video(path, options, progress), False
    if options.use_dataset_intrinsics and not has_lens:
        raise FlowCamError(f"{path} has no {FILE_NAME}, so there are no dataset intrinsics to use; leave the flag out.")
    if options.masks is not None:
        masks, warnings = load_masks(options.masks.expanduser(), frames, of_video=path.is_file())
        frames = replace(frames, masks=masks, warnings=frames.warnings + warnings)
    return frames


def _load_folder(folder: Path, options: FrameOptions, progress: Progress | None) -> tuple[Frames, bool]:
    """The frames of a folder, and whether a transforms.json went with them."""
    if (folder / FILE_NAME).is_file():
        return load_dataset(folder, options, progress), True
    files = image_files(folder)
    if not files and (folder / IMAGES).is_dir():
        folder = folder / IMAGES
        files = image_files(folder)
    if not files:
        raise FlowCamError(_nothing_in(folder))
    if folder.name == IMAGES and (folder.parent / FILE_NAME).is_file():
        return load_images_of_dataset(folder, files, options, progress), True
    name = folder.parent.name if folder.name == IMAGES else folder.name
    frames, _, _ = load_images(files, options, name, progress=progress)
    return frames, False


def _nothing_in(folder: Path) -> str:
    videos = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    if videos:
        return f"The folder {folder} holds no images but the video {videos[0]}: give the video file itself."
    kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
    return f"The folder {folder} holds no images ({kinds}) and no {FILE_NAME}."
