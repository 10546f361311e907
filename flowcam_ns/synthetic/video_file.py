"""Frames into an H.264 file."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from flowcam_ns.errors import FlowCamError

DEFAULT_CRF = 18
"""Visually near lossless."""


def write_video(
    path: Path, rgb: Iterable[UInt8[np.ndarray, "height width 3"]], fps: int = 30, crf: int = DEFAULT_CRF
) -> int:
    """Write RGB frames (an array, or one frame after another) as an H.264 mp4 and return how many there were.

    yuv420p, so the size must be even. The file gets its name only when it is complete.
    Raises FlowCamError for an odd size, for no frames, or where the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            count = _encode(unfinished, rgb, fps, crf)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FlowCamError(f"cannot write {path} ({error.strerror or error}): choose another place") from error
    return count


def _encode(path: Path, rgb: Iterable[UInt8[np.ndarray, "height width 3"]], fps: int, crf: int) -> int:
    count = 0
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "medium"}
        for image in rgb:
            if count == 0:
                stream.height, stream.width = image.shape[:2]
                if stream.width % 2 or stream.height % 2:
                    size = f"{stream.width} x {stream.height}"
                    raise FlowCamError(f"H.264 needs an even width and height, not {size}: choose another size")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            count += 1
        if count == 0:
            raise FlowCamError(f"no frames to write to {path.name}: give at least one")
        container.mux(stream.encode(None))
    return count
