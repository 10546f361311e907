"""Small clips and pictures to read: a camera sliding over a random texture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

SIZE = 160, 96


@pytest.fixture(scope="session")
def texture() -> np.ndarray:
    """A smooth random colour texture, 192 x 1200 px."""
    noise = np.random.default_rng(3).uniform(0, 255, (192, 1200, 3)).astype(np.float32)
    smooth = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 4.0, 9.0))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (255 * smooth).astype(np.uint8)


@pytest.fixture
def slide(texture: np.ndarray) -> Callable[..., list[np.ndarray]]:
    """Pictures of the texture seen from the given horizontal positions, in px."""

    def pictures(positions: Iterable[float], size: tuple[int, int] = SIZE) -> list[np.ndarray]:
        centre_y = texture.shape[0] / 2
        return [cv2.getRectSubPix(texture, size, (x + size[0] / 2, centre_y)) for x in positions]

    return pictures


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """Encode pictures; `times` are frame times in 1/1000 s where the frame rate varies."""

    def write(
        name: str,
        pictures: list[np.ndarray],
        codec: str = "libx264",
        pixels: str = "yuv420p",
        rate: int = 25,
        times: list[int] | None = None,
        rotation: int = 0,
        **container_options: str,
    ) -> Path:
        if codec not in av.codecs_available:
            pytest.skip(f"this build of FFmpeg has no encoder {codec}")
        path = tmp_path / name
        with av.open(str(path), "w", options=container_options) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pixels
            if codec == "libx264":
                stream.options = {"preset": "ultrafast", "crf": "12"}
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            for index, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts = index if times is None else times[index]
                frame.time_base = Fraction(1, rate) if times is None else Fraction(1, 1000)
                container.mux(stream.encode(frame.reformat(format=pixels)))
            container.mux(stream.encode(None))
        return path

    return write
