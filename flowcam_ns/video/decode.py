"""Decoding a video file frame by frame with PyAV: true timestamps, upright, at the size asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import UInt8

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.orientation import Orientation, side_data

MAX_PIXELS = 64_000_000
"""Larger frames are refused before they are decoded (8K video has 33 million)."""
MAX_DECODED = 100_000
"""Frames after this many are not read (55 minutes at 30 a second)."""
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,ivf,h264,hevc,m4v,dv,nut,apng"
)
"""Playlists and the like, which could make the decoder open other files, are not among them."""
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
    warnings: list[str] = field(default_factory=list)
    expected_frames: int = 0
    """What the container promises; 0 where it does not say."""
    pixel_aspect: float = 1.0
    """Width over height of one pixel; not 1 in old camcorders and DVDs."""

    def __iter__(self) -> Iterator[DecodedFrame]:
        with _opened(self.path) as container:
            stream = _video_stream(self.path, container)
            self.expected_frames = stream.frames
            aspect = float(stream.sample_aspect_ratio or 1)
            self.pixel_aspect = aspect if 0.25 <= aspect <= 4 else 1.0
            yield from self._decode(container, stream)

    def _decode(self, container: InputContainer, stream: av.VideoStream) -> Iterator[DecodedFrame]:
        rate = float(stream.average_rate or 0) or 30.0
        size: tuple[int, int] | None = None
        number = broken = other_size = 0
        first = last = 0.0
        for picture in _pictures(container, stream, self.warnings):
            if picture is None or picture.is_corrupt:
                broken += 1
                continue
            size = size or (picture.width, picture.height)
            if (picture.width, picture.height) != size:
                other_size += 1
                continue
            if number == MAX_DECODED:
                self.warnings.append(f"only the first {MAX_DECODED} frames of {self.path.name} were read.")
                break
            time = None if picture.pts is None or picture.time_base is None else float(picture.pts * picture.time_base)
            if number == 0:
                first, last = time or 0.0, -1 / rate
            now = last + 1 / rate if time is None or time - first <= last else time - first
            yield DecodedFrame(number, now, picture)
            number, last = number + 1, now
        else:
            self._judge_end(container, stream, number, last + 1 / rate)
        if broken:
            self.warnings.append(f"{broken} damaged frames or packets of {self.path.name} could not be decoded.")
        if other_size:
            self.warnings.append(f"{other_size} frames of {self.path.name} have another size and were left out.")

    def _judge_end(self, container: InputContainer, stream: av.VideoStream, decoded: int, seconds: float) -> None:
        """Note a video that ends before its container says so."""
        if decoded == 0:
            raise FlowCamError(f"{self.path} holds no frame that can be decoded; is it damaged or still being written?")
        promised = (container.duration or 0) / av.time_base
        if stream.duration and stream.time_base:
            promised = float(stream.duration * stream.time_base)
        if seconds < 0.9 * promised and (stream.frames == 0 or decoded < 0.9 * stream.frames):
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


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The video's container; whatever goes wrong at opening is a FlowCamError."""
    try:
        container = av.open(
            str(path.absolute()), container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        )
    except PermissionError as error:
        raise FlowCamError(f"No permission to read {path}.") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise FlowCamError(
            f"{path} is not a video that can be read: it is damaged, cut off, or of another format "
            "(mp4, mov, mkv, webm, avi, gif and others can be read)."
        ) from error
    with container:
        yield container


def _video_stream(path: Path, container: InputContainer) -> av.VideoStream:
    """The first video stream, set up to decode on all cores and to refuse giant pictures."""
    if not container.streams.video:
        raise FlowCamError(f"{path} has no video stream (only sound?); give a video file or a folder of images.")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise FlowCamError(f"The frames of {path} are {width}x{height} px; at most {MAX_PIXELS:,} px can be read.")
    stream.thread_type = "AUTO"
    stream.codec_context.options = {**stream.codec_context.options, "max_pixels": str(MAX_PIXELS)}
    return stream


def _pictures(container: InputContainer, stream: av.VideoStream, warnings: list[str]) -> Iterator[av.VideoFrame | None]:
    """Decoded pictures in the order shown; None for a packet that cannot be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            warnings.append(f"the video is damaged and was read only up to there ({error}).")
            packet = None
            yield from _decode_packet(stream, None)
        if packet is None:
            return
        yield from _decode_packet(stream, packet)


def _decode_packet(stream: av.VideoStream, packet: av.Packet | None) -> Iterator[av.VideoFrame | None]:
    try:
        pictures = stream.decode(packet)
    except av.error.FFmpegError:
        yield None
        return
    yield from (picture for picture in pictures if isinstance(picture, av.VideoFrame))
