"""Decoding a video file frame by frame with PyAV: true timestamps, upright, at the size asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import UInt8

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.container import (
    DEFAULT_RATE,
    frame_rate,
    opened,
    pictures,
    promised_seconds,
    sought,
    start_seconds,
    video_stream,
)
from flowcam_ns.video.options import FrameOptions
from flowcam_ns.video.orientation import Orientation, side_data

MAX_DECODED = 100_000
"""Frames of the range asked for after this many are not read (55 minutes at 30 a second)."""
HD_HEIGHT = 720
UNSPECIFIED_COLORSPACE = 2


@dataclass(frozen=True)
class DecodedFrame:
    """A frame as the codec gave it."""

    number: int
    """Position among the frames that can be decoded, from 0."""
    time: float
    """Seconds since the first frame."""
    picture: av.VideoFrame


@dataclass
class VideoReader:
    """One pass over a video's frames; `warnings` is complete once the pass has ended."""

    path: Path
    options: FrameOptions = field(default_factory=FrameOptions)
    """Frames outside of the range that it asks for are passed over."""
    seek_frame: int = 0
    """Decode from the keyframe before this one on, if the container can be searched. Numbers are then those of the
    average frame rate."""
    warnings: list[str] = field(default_factory=list)
    expected_frames: int = 0
    """What the container promises; 0 where it does not say."""
    pixel_aspect: float = 1.0
    """Width over height of one pixel; not 1 in old camcorders and DVDs."""
    rate: float = DEFAULT_RATE
    """Frames a second, on average."""

    def __iter__(self) -> Iterator[DecodedFrame]:
        if self.seek_frame > 0:
            with opened(self.path) as container:
                stream = self._stream(container)
                if sought(container, stream, self.seek_frame / self.rate):
                    yield from self._decode(container, stream, self.seek_frame / self.rate)
                    return
        with opened(self.path) as container:
            yield from self._decode(container, self._stream(container), 0.0)

    def _stream(self, container: InputContainer) -> av.VideoStream:
        stream = video_stream(self.path, container)
        self.expected_frames = stream.frames
        aspect = float(stream.sample_aspect_ratio or 1)
        self.pixel_aspect = aspect if 0.25 <= aspect <= 4 else 1.0
        self.rate = frame_rate(stream)
        return stream

    def _decode(self, container: InputContainer, stream: av.VideoStream, after: float) -> Iterator[DecodedFrame]:
        """The frames from the container's position on, which was sought at `after` seconds (0: its beginning)."""
        step = 1 / self.rate
        size: tuple[int, int] | None = None
        decoded = given = number = broken = other_size = 0
        origin = now = 0.0
        for picture in pictures(container, stream, self.warnings):
            if picture is None or picture.is_corrupt:
                broken += 1
                continue
            size = size or (picture.width, picture.height)
            if (picture.width, picture.height) != size:
                other_size += 1
                continue
            time = None if picture.pts is None or picture.time_base is None else float(picture.pts * picture.time_base)
            if decoded == 0:
                origin = start_seconds(stream) if after > 0 else time or 0.0
                now = after if time is None else max(time - origin, 0.0)
                number = round(now * self.rate)
            else:
                now = now + step if time is None or time - origin <= now else time - origin
                number += 1
            decoded += 1
            if self.options.is_past(number, now):
                break
            if not self.options.includes(number, now):
                continue
            if given == MAX_DECODED:
                self.warnings.append(f"only the first {MAX_DECODED} frames of the range asked for were read.")
                break
            given += 1
            yield DecodedFrame(number, now, picture)
        else:
            self._judge_end(container, stream, decoded, now + step, whole=after == 0)
        if broken:
            self.warnings.append(f"{broken} damaged frames or packets of {self.path.name} could not be decoded.")
        if other_size:
            self.warnings.append(f"{other_size} frames of {self.path.name} have another size and were left out.")

    def _judge_end(
        self, container: InputContainer, stream: av.VideoStream, decoded: int, seconds: float, whole: bool
    ) -> None:
        """Note a video that ends before its container says so."""
        if decoded == 0:
            raise FlowCamError(f"{self.path} holds no frame that can be decoded; is it damaged or still being written?")
        promised = promised_seconds(container, stream)
        if whole and seconds < 0.9 * promised and (stream.frames == 0 or decoded < 0.9 * stream.frames):
            self.warnings.append(
                f"{self.path.name} is cut short: {seconds:.1f} of {promised:.1f} s ({decoded} frames) could be decoded."
            )


class PictureConverter:
    """Turns decoded frames into arrays: upright RGB at one size, and grey thumbnails as they lie in the file."""

    def __init__(self, first: av.VideoFrame, pixel_aspect: float = 1.0) -> None:
        self.orientation = Orientation.of_frame(first)
        self.upright_size = self.orientation.size(max(1, round(first.width * pixel_aspect)), first.height)
        """(width, height) in px before scaling, with square pixels."""
        self._rgb, self._grey = VideoReformatter(), VideoReformatter()
        if side_data(first, "SPHERICAL") is not None:
            raise FlowCamError("This is a 360-degree video; only perspective cameras can be used: export a flat view.")

    def rgb(self, picture: av.VideoFrame, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """Upright RGB at `size` (width, height)."""
        return self.orientation.apply(self._convert(self._rgb, picture, self.orientation.size(*size), "rgb24"))

    def thumbnail(self, picture: av.VideoFrame, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
        """Grey levels at upright `size` (width, height), but not turned upright."""
        return self._convert(self._grey, picture, self.orientation.size(*size), "gray")

    def _convert(
        self, reformatter: VideoReformatter, picture: av.VideoFrame, size: tuple[int, int], pixels: str
    ) -> np.ndarray:
        # Files that name no colour matrix follow the custom: BT.709 for HD, BT.601 below.
        unspecified = picture.colorspace == UNSPECIFIED_COLORSPACE
        matrix = Colorspace.ITU709 if unspecified and picture.height >= HD_HEIGHT else None
        converted = reformatter.reformat(picture, *size, pixels, src_colorspace=matrix, interpolation="AREA")
        return np.ascontiguousarray(converted.to_ndarray())
