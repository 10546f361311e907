"""Reading one image file, of any bit depth and orientation, as 8-bit RGB at the size asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.exif import focal_in_pixels
from flowcam_ns.video.orientation import UPRIGHT, Orientation

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}
MAX_PIXELS = 150_000_000
"""Larger images are refused before they are decoded."""
ORIENTATION_TAG = 274
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file tells without being decoded."""

    path: Path
    width: int
    """px, upright, at full size; so is the height."""
    height: int
    orientation: Orientation
    focal: float | None
    """EXIF's focal length in px of the upright image at full size."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return self.width, self.height


def natural_key(path: PurePath) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [_number_key(part) if part.isdecimal() else (0, 0, part) for part in parts], path.as_posix()


def _number_key(digits: str) -> tuple[int, int, str]:
    """Sorts like the number; Python refuses to make one of thousands of digits."""
    significant = digits.lstrip("0")
    return 1, len(significant), significant


def image_files(folder: Path) -> list[Path]:
    """The image files directly in `folder`, in natural order of their names."""
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
        return sorted((p for p in files if p.is_file()), key=lambda p: natural_key(PurePath(p.name)))
    except PermissionError as error:
        raise FlowCamError(f"No permission to read the folder {folder}.") from error


def read_header(path: Path, upright: bool = True) -> ImageHeader:
    """Size, orientation and focal length of an image; `upright` = False ignores its EXIF orientation."""
    with _opened(path) as image:
        exif = image.getexif()
        orientation = Orientation.from_exif(exif.get(ORIENTATION_TAG, 1)) if upright else UPRIGHT
        width, height = orientation.size(*image.size)
        return ImageHeader(path, width, height, orientation, focal_in_pixels(exif, image.width, image.height))


def read_rgb(header: ImageHeader, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The image upright, scaled to `size` (width, height). Transparent parts become black."""
    with _opened(header.path) as image:
        stored_size = header.orientation.size(*size)
        image.draft(None, stored_size)
        pixels = _to_rgb8(image)
    if (pixels.shape[1], pixels.shape[0]) != stored_size:
        pixels = cv2.resize(pixels, stored_size, interpolation=cv2.INTER_AREA)
    return header.orientation.apply(pixels)


def read_grey(path: Path) -> UInt8[np.ndarray, "height width"]:
    """The image as grey levels at its full size."""
    with _opened(path) as image:
        return np.asarray(image.convert("L"))


def _to_rgb8(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode == "F":
        raise FlowCamError(f"{getattr(image, 'filename', 'An image')} holds floating point: save it with 8 or 16 bits.")
    if image.mode.startswith("I"):
        grey = (np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] // 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image, checked for its size; whatever goes wrong while it is in use is a FlowCamError."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise FlowCamError(f"{path} is {image.width}x{image.height} px; at most {MAX_PIXELS:,} px can be read.")
            yield image
    except PermissionError as error:
        raise FlowCamError(f"No permission to read {path}.") from error
    except FileNotFoundError as error:
        raise FlowCamError(f"{path} does not exist.") from error
    except READ_ERRORS as error:
        raise FlowCamError(f"{path} cannot be read as an image ({error}): remove or replace it.") from error
