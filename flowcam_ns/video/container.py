"""Opening a video file that is not trusted: which formats, how large, how many frames it promises, and its packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.error
from av.container import InputContainer

from flowcam_ns.errors import FlowCamError

MAX_PIXELS = 64_000_000
"""Larger frames are refused before they are decoded (8K video has 33 million)."""
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,ivf,h264,hevc,m4v,dv,nut,apng"
)
"""Playlists and the like, which could make the decoder open other files, are not among them."""
DEFAULT_RATE = 30.0
LARGEST_COUNT = 2**31
LARGEST_OFFSET = 2**62


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
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


def video_stream(path: Path, container: InputContainer) -> av.VideoStream:
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


def frame_rate(stream: av.VideoStream) -> float:
    """Frames a second, on average."""
    return float(stream.average_rate or 0) or DEFAULT_RATE


def promised_seconds(container: InputContainer, stream: av.VideoStream) -> float:
    """How long the video says it is; 0 where it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def frame_count(path: Path) -> int:
    """How many frames a video promises: as told, or its length at its rate; 0 where it tells neither.

    Nothing is decoded, and the promise may be broken. Raises FlowCamError for what cannot be opened.
    """
    with opened(path) as container:
        stream = video_stream(path, container)
        count = stream.frames or round(promised_seconds(container, stream) * frame_rate(stream))
        return min(max(count, 0), LARGEST_COUNT)


def start_seconds(stream: av.VideoStream) -> float:
    """Timestamp of the first frame, as far as the container tells."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def sought(container: InputContainer, stream: av.VideoStream, seconds: float) -> bool:
    """Go to the keyframe before a time (counted from the first frame); whether the container lets itself be searched.

    If not, its position is lost: open it anew.
    """
    if not stream.time_base:
        return False
    offset = (start_seconds(stream) + seconds) / float(stream.time_base)
    try:
        container.seek(int(min(offset, LARGEST_OFFSET)), stream=stream)
    except (av.error.FFmpegError, OSError):
        return False
    return True


def pictures(container: InputContainer, stream: av.VideoStream, warnings: list[str]) -> Iterator[av.VideoFrame | None]:
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
        decoded = stream.decode(packet)
    except av.error.FFmpegError:
        yield None
        return
    yield from (picture for picture in decoded if isinstance(picture, av.VideoFrame))
