"""Frames out of a list of image files: one size, natural order, all of them unless there are too many."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.video.frames import DEFAULT_FPS, Frames
from flowcam_ns.video.image_file import ImageHeader, read_header, read_rgb
from flowcam_ns.video.motion import MotionTrack, thumbnail_size
from flowcam_ns.video.options import MIN_FRAMES, FrameOptions, Progress
from flowcam_ns.video.selection import Selection, evenly_spaced, select_frames

THREADS = 4
MAX_IMAGES = 100_000
SAME_FOCAL = 0.02


def load_images(
    files: list[Path],
    options: FrameOptions,
    name: str,
    upright: bool = True,
    progress: Progress | None = None,
) -> tuple[Frames, list[int], tuple[int, int]]:
    """Read image files, given in temporal order, as frames.

    Args:
        files: the images; their names below the folder they share become the frames' sources.
        options: range, budget and size.
        name: what to call the whole.
        upright: whether EXIF orientation is applied.
        progress: called after every image read.

    Returns:
        The frames, the position of each among `files`, and the images' (width, height) in px before scaling.
    """
    wanted = [i for i in range(len(files)) if options.includes(i, i / DEFAULT_FPS)]
    if len(wanted) > MAX_IMAGES:
        raise FlowCamError(f"{name} has {len(wanted)} images; at most {MAX_IMAGES:,} can be read: use start and end.")
    if len(wanted) < MIN_FRAMES:
        raise FlowCamError(
            f"{name} has {len(wanted) or 'no'} image{'s' * (len(wanted) != 1)} in the range asked for; "
            f"poses need at least {MIN_FRAMES}."
        )
    headers = [read_header(files[i], upright) for i in wanted]
    _require_one_size(headers)
    full_size = headers[0].size
    size = options.loaded_size(*full_size)
    scale = max(size) / max(full_size)
    selection = _choose(headers, size, options, progress)
    images = _read_all([headers[i] for i in selection.indices], size, progress)
    kept = [wanted[i] for i in selection.indices]
    focal, focal_warnings = _common_focal([headers[i] for i in selection.indices])
    frames = Frames(
        images=images,
        sources=_sources(files, kept),
        timestamps=np.array(kept) / DEFAULT_FPS,
        name=name,
        thinned=len(wanted) - len(kept),
        focal_prior=focal and focal * scale,
        camera=Camera.from_focal(*size, options.focal * scale) if options.focal else None,
        warnings=selection.warnings + focal_warnings,
    )
    return frames, kept, full_size


def _require_one_size(headers: list[ImageHeader]) -> None:
    first = headers[0]
    for header in headers:
        if header.size != first.size:
            raise FlowCamError(
                f"The images have different sizes: {first.path.name} is {first.width}x{first.height} px, "
                f"{header.path.name} is {header.width}x{header.height} px. Put the images of one camera and one "
                "orientation in a folder of their own."
            )


def _choose(
    headers: list[ImageHeader], size: tuple[int, int], options: FrameOptions, progress: Progress | None
) -> Selection:
    """All images where the budget allows; else thinned by motion and blur, as a video is."""
    if len(headers) <= options.max_frames:
        return Selection(list(range(len(headers))), [])
    if not options.thin:
        return Selection(evenly_spaced(len(headers), options.max_frames), [])
    track = MotionTrack()
    thumbnail = thumbnail_size(*size)
    for done, header in enumerate(headers, 1):
        track.push(cv2.cvtColor(read_rgb(header, thumbnail), cv2.COLOR_RGB2GRAY))
        if progress:
            progress(done, len(headers))
    return select_frames(track.displacement, track.sharpness, options.max_frames)


def _read_all(
    headers: list[ImageHeader], size: tuple[int, int], progress: Progress | None
) -> UInt8[np.ndarray, "frames height width 3"]:
    images = np.empty((len(headers), size[1], size[0], 3), np.uint8)

    def read(row: int) -> None:
        images[row] = read_rgb(headers[row], size)

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for done, _ in enumerate(pool.map(read, range(len(headers))), 1):
                if progress:
                    progress(done, len(headers))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # An error or Ctrl-C must not wait for the rest of the folder.
            raise
    return images


def _sources(files: list[Path], kept: list[int]) -> list[str]:
    """File names, with their folder where the images lie in several."""
    parents = {file.parent for file in files}
    if len(parents) == 1:
        return [files[i].name for i in kept]
    common = min((file.parent for file in files), key=lambda parent: len(parent.parts))
    while not all(file.is_relative_to(common) for file in files):
        common = common.parent
    return [files[i].relative_to(common).as_posix() for i in kept]


def _common_focal(headers: list[ImageHeader]) -> tuple[float | None, list[str]]:
    """EXIF's focal length in px, where most images have one and all agree (no zooming)."""
    focals = [header.focal for header in headers if header.focal]
    if len(focals) < len(headers) / 2:
        return None, []
    median = float(np.median(focals))
    if max(abs(focal - median) for focal in focals) > SAME_FOCAL * median:
        return None, ["the images' EXIF focal lengths differ (zoom?); they are not used."]
    return median, []
