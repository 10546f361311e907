"""Videos of any container and codec are read as they were filmed: upright, at their true times, in true colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video import decode
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions
from flowcam_ns.video.video_file import HELD_PER_BUDGET

Slide = Callable[..., list[np.ndarray]]
Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mp4", "libx264", "yuv420p"),
        ("clip.mov", "libx264", "yuv420p10le"),
        ("clip.mkv", "ffv1", "yuv420p10le"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.gif", "gif", "rgb8"),
        ("clip.mp4", "libsvtav1", "yuv420p10le"),
        ("clip.ts", "mpeg2video", "yuv420p"),
    ],
)
def test_reads_containers_and_codecs(slide: Slide, write_video: Write, name: str, codec: str, pixels: str):
    pictures = slide(range(0, 60, 5))
    frames = load_frames(write_video(name, pictures, codec, pixels))
    assert frames.name == "clip"
    assert frames.images.shape == (12, 96, 160, 3)
    assert frames.sources == [str(i) for i in range(12)]
    assert np.allclose(frames.timestamps, np.arange(12) / 25, atol=0.002)
    error = np.abs(frames.images.astype(int) - np.stack(pictures)).mean()
    assert error < (25 if codec == "gif" else 8)


@pytest.mark.parametrize(
    ("rotation", "undo"),
    [(90, lambda p: np.rot90(p)), (-90, lambda p: np.rot90(p, -1)), (180, lambda p: np.rot90(p, 2))],
)
def test_rotation_metadata_is_applied(slide: Slide, write_video: Write, rotation: int, undo: Callable):
    pictures = slide(range(0, 40, 5))
    frames = load_frames(write_video("phone.mp4", pictures, rotation=rotation))
    expected = np.stack([undo(p) for p in pictures])
    assert frames.images.shape == expected.shape
    assert np.abs(frames.images.astype(int) - expected).mean() < 5


def test_varying_frame_rate_gives_true_times(slide: Slide, write_video: Write):
    times = [0, 40, 80, 200, 520, 560, 1000]
    frames = load_frames(write_video("vfr.mkv", slide(range(0, 35, 5)), times=times))
    assert np.allclose(frames.timestamps, np.array(times) / 1000, atol=0.002)


def test_odd_sizes(slide: Slide, write_video: Write):
    pictures = slide(range(0, 40, 5), size=(161, 97))
    frames = load_frames(write_video("odd.mp4", pictures, pixels="yuv444p"))
    assert (frames.width, frames.height) == (161, 97)
    assert np.abs(frames.images.astype(int) - np.stack(pictures)).mean() < 5


def test_long_side_is_limited_and_focal_length_scaled(slide: Slide, write_video: Write):
    path = write_video("clip.mp4", slide(range(0, 40, 5)))
    frames = load_frames(path, FrameOptions(max_size=80, focal=120.0))
    assert (frames.width, frames.height) == (80, 48)
    assert frames.camera is not None
    assert (frames.camera.fx, frames.camera.cx, frames.camera.width) == (60.0, 40.0, 80)


def test_start_and_end_in_seconds_or_frames(slide: Slide, write_video: Write):
    path = write_video("clip.mp4", slide(range(0, 100, 5)))
    by_time = load_frames(path, FrameOptions(start=0.2, end=0.4))
    by_number = load_frames(path, FrameOptions(start_frame=5, end_frame=10))
    assert by_time.sources == by_number.sources == ["5", "6", "7", "8", "9", "10"]
    assert np.array_equal(by_time.images, by_number.images)
    assert by_time.timestamps[0] == pytest.approx(0.2)


def test_the_limit_of_frames_counts_from_the_start_of_the_range(
    slide: Slide, write_video: Write, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decode, "MAX_DECODED", 5)
    path = write_video("clip.mp4", slide(range(0, 100, 5)))
    late = load_frames(path, FrameOptions(start=0.4))
    assert late.sources == ["10", "11", "12", "13", "14"]
    assert any("only the first 5 frames of the range" in warning for warning in late.warnings)
    assert load_frames(path, FrameOptions(start_frame=10, end_frame=14)).warnings == []


def test_what_was_noticed_while_reading_is_told_with_the_error(slide: Slide, write_video: Write):
    path = write_video("clip.mp4", slide(np.arange(80) * 5.0), movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(FlowCamError, match=r"no frames in the range.*cut short") as error:
        load_frames(path, FrameOptions(start_frame=75))
    assert "\n" not in str(error.value)


def test_a_second_pass_gives_the_same_pictures(slide: Slide, write_video: Write):
    """More frames than are held in memory are decoded twice; the pictures must be those of one pass."""
    path = write_video("clip.mp4", slide(np.arange(60) * 4.0))
    budget = 20
    assert HELD_PER_BUDGET * budget < 60
    thinned = load_frames(path, FrameOptions(max_frames=budget))
    everything = load_frames(path)
    assert 2 <= len(thinned) <= budget
    assert thinned.thinned == 60 - len(thinned)
    assert np.array_equal(thinned.images, everything.images[[int(s) for s in thinned.sources]])


def test_truncated_video_gives_what_can_be_decoded_and_says_so(slide: Slide, write_video: Write):
    path = write_video("clip.mkv", slide(np.arange(80) * 5.0), codec="mjpeg", pixels="yuvj420p")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = load_frames(path)
    assert 20 < len(frames) < 60
    assert any("cut short" in w or "damaged" in w for w in frames.warnings)


def test_truncated_web_mp4_gives_what_can_be_decoded_and_says_so(slide: Slide, write_video: Write):
    """Its table of contents stands first, so half a file can be opened."""
    path = write_video("clip.mp4", slide(np.arange(80) * 5.0), movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames = load_frames(path)
    assert 20 < len(frames) < 70
    assert any("cut short" in warning for warning in frames.warnings)


def test_garbage_inside_a_video_is_survived(slide: Slide, write_video: Write):
    path = write_video("clip.avi", slide(np.arange(40) * 5.0), codec="mjpeg", pixels="yuvj420p")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(bytes(content))
    assert len(load_frames(path)) >= 15


def test_half_written_mp4_is_refused(slide: Slide, write_video: Write):
    path = write_video("clip.mp4", slide(np.arange(40) * 5.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FlowCamError, match="not a video that can be read"):
        load_frames(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"Dear diary, this is not a video.\n" * 50, "not a video"),
        (b"#EXTM3U\n#EXTINF:10,\n/etc/hostname\n#EXT-X-ENDLIST\n", "not a video"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "not a video"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(FlowCamError, match=message) as error:
        load_frames(path)
    assert "\n" not in str(error.value)


def test_sound_without_picture_is_refused(tmp_path: Path):
    path = tmp_path / "voice.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(FlowCamError, match="no video stream"):
        load_frames(path)


def test_one_frame_is_refused(slide: Slide, write_video: Write):
    with pytest.raises(FlowCamError, match="1 frame in the range"):
        load_frames(write_video("one.mp4", slide([0])))


def test_giant_frames_are_refused_before_they_are_decoded(tmp_path: Path):
    path = tmp_path / "bomb.gif"
    side = (60000).to_bytes(2, "little")
    header = b"GIF89a" + side + side + b"\xf0\x00\x00" + bytes(6)
    path.write_bytes(header + b"\x2c" + bytes(4) + side + side + b"\x00\x02\x02\x4c\x01\x00\x3b")
    with pytest.raises(FlowCamError, match="bomb"):
        load_frames(path)


def test_progress_is_reported(slide: Slide, write_video: Write):
    seen: list[tuple[int, int | None]] = []
    load_frames(
        write_video("clip.mp4", slide(range(0, 40, 5))), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(i, 8) for i in range(1, 9)]
