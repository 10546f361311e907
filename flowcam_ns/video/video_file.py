"""Frames out of a video file: scan for motion and blur, choose, and keep only what was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.video.decode import DecodedFrame, PictureConverter, VideoReader
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.motion import MotionTrack, thumbnail_size
from flowcam_ns.video.options import MIN_FRAMES, FrameOptions, Progress
from flowcam_ns.video.selection import Selection, evenly_spaced, select_frames

HELD_BYTES = 1_000_000_000
"""Pictures kept from the first pass take at most this much; a longer video is decoded a second time instead."""
HELD_PER_BUDGET = 1.5


@dataclass
class _Scan:
    """What the first pass leaves: measurements of every frame in range and, if they fit, the frames themselves."""

    numbers: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    track: MotionTrack = field(default_factory=MotionTrack)
    held: UInt8[np.ndarray, "room height width 3"] | None = None
    """The frames' pictures in order; memory that is not written to yet costs nothing. None once they are too many."""
    size: tuple[int, int] = (0, 0)
    scale: float = 1.0


def load_video(path: Path, options: FrameOptions, progress: Progress | None = None) -> Frames:
    """Read the frames of the video at `path` that `options` asks for; raises FlowCamError where there are none."""
    if path.stat().st_size == 0:
        raise FlowCamError(f"{path} is empty (0 bytes); copy or download the video again.")
    reader = VideoReader(path, options)
    scan = _scan(reader, options, progress)
    count = len(scan.numbers)
    if count < MIN_FRAMES:
        raise FlowCamError(
            f"{path} has {count or 'no'} frame{'s' * (count != 1)} in the range asked for; "
            f"poses need at least {MIN_FRAMES}.{_told(reader.warnings)}"
        )
    selection = choose(scan.track, options)
    images = _take(scan, selection.indices, VideoReader(path, options), progress)
    return Frames(
        images=images,
        sources=[str(scan.numbers[i]) for i in selection.indices],
        timestamps=np.array([scan.times[i] for i in selection.indices]),
        name=path.stem,
        thinned=count - len(selection.indices),
        camera=Camera.from_focal(*scan.size, options.focal * scan.scale) if options.focal else None,
        warnings=reader.warnings + selection.warnings,
    )


def _told(warnings: list[str]) -> str:
    """What reading noticed, as the end of an error's one line."""
    return f" ({' '.join(warnings)})" if warnings else ""


def choose(track: MotionTrack, options: FrameOptions) -> Selection:
    """Which of the measured frames to keep."""
    if options.thin:
        return select_frames(track.displacement, track.sharpness, options.max_frames)
    return Selection(evenly_spaced(len(track), options.max_frames), [])


def _scan(reader: VideoReader, options: FrameOptions, progress: Progress | None) -> _Scan:
    scan = _Scan()
    converter: PictureConverter | None = None
    thumbnail = (0, 0)
    for frame in reader:
        if converter is None:
            converter = PictureConverter(frame.picture, reader.pixel_aspect)
            scan.size = options.loaded_size(*converter.upright_size)
            scan.scale = max(scan.size) / max(converter.upright_size)
            thumbnail = thumbnail_size(*scan.size)
            scan.held = _room_for_pictures(scan.size, options.max_frames)
        scan.numbers.append(frame.number)
        scan.times.append(frame.time)
        scan.track.push(converter.thumbnail(frame.picture, thumbnail))
        _hold(scan, converter, frame)
        if progress:
            progress(frame.number + 1, reader.expected_frames or None)
    return scan


def _room_for_pictures(size: tuple[int, int], budget: int) -> UInt8[np.ndarray, "room height width 3"]:
    width, height = size
    room = min(int(HELD_PER_BUDGET * budget), HELD_BYTES // (3 * width * height))
    return np.empty((room, height, width, 3), np.uint8)


def _hold(scan: _Scan, converter: PictureConverter, frame: DecodedFrame) -> None:
    """Keep the latest frame's picture while all so far fit; forget them all once they do not."""
    row = len(scan.numbers) - 1
    if scan.held is None or row >= len(scan.held):
        scan.held = None
    else:
        scan.held[row] = converter.rgb(frame.picture, scan.size)


def _take(scan: _Scan, indices: list[int], reader: VideoReader, progress: Progress | None) -> np.ndarray:
    """The chosen pictures, from memory or by decoding once more with `reader`."""
    if scan.held is not None:
        for row, index in enumerate(indices):
            if row != index:
                scan.held[row] = scan.held[index]
        kept = scan.held[: len(indices)]
        return kept if len(indices) > 0.7 * len(scan.numbers) else kept.copy()
    width, height = scan.size
    images = np.empty((len(indices), height, width, 3), np.uint8)
    rows = {scan.numbers[index]: row for row, index in enumerate(indices)}
    converter: PictureConverter | None = None
    done = 0
    for frame in reader:
        if frame.number == scan.numbers[0]:
            converter = PictureConverter(frame.picture, reader.pixel_aspect)
        if converter is None or frame.number not in rows:
            continue
        images[rows[frame.number]] = converter.rgb(frame.picture, scan.size)
        done += 1
        if progress:
            progress(done, len(indices))
        if done == len(indices):
            return images
    raise FlowCamError(f"{reader.path} changed while it was being read; try again.")
