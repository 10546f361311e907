"""A piece out of the middle of a video, without decoding all that lies before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.decode import PictureConverter, VideoReader
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.options import MIN_FRAMES, FrameOptions


def load_piece(path: Path, first: int, count: int, max_size: int) -> Frames:
    """`count` neighbouring frames from number `first` on, or as many as there are.

    Where the frame rate varies, `first` is only about the number: its time is that of the average rate. Raises
    FlowCamError where there are no three frames.
    """
    reader = VideoReader(path, seek_frame=first)
    options = FrameOptions(max_size=max_size)
    converter: PictureConverter | None = None
    size = (0, 0)
    images: list[np.ndarray] = []
    times: list[float] = []
    for frame in reader:
        if frame.time < (first - 0.5) / reader.rate:
            continue
        if converter is None:
            converter = PictureConverter(frame.picture, reader.pixel_aspect)
            size = options.loaded_size(*converter.upright_size)
        images.append(converter.rgb(frame.picture, size))
        times.append(frame.time)
        if len(images) == count:
            break
    if len(images) < MIN_FRAMES:
        raise FlowCamError(f"{path} has {len(images) or 'no'} frames from number {first} on")
    return Frames(
        images=np.stack(images),
        sources=[str(round(time * reader.rate)) for time in times],
        timestamps=np.array(times),
        name=path.stem,
        warnings=reader.warnings,
    )
