"""Pictures on disk, in RGB and without loss."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

Picture = UInt8[np.ndarray, "height width 3"]


def write_picture(file: Path, picture: Picture) -> None:
    """Write a PNG file, in place of what was there."""
    cv2.imwrite(str(file), picture[..., ::-1])


def write_pictures(folder: Path, pictures: Iterable[Picture]) -> Path:
    """PNG files named in temporal order, in a folder that is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        write_picture(folder / f"{i:06}.png", picture)
    return folder


def read_picture(file: Path) -> Picture:
    """An image file, which must be one."""
    image = cv2.imread(str(file))
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1])
