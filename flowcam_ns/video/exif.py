"""The focal length that a camera wrote into an image file."""

from __future__ import annotations

import math

from PIL import Image

EXIF_IFD = 0x8769
FOCAL_LENGTH = 0x920A
FOCAL_LENGTH_35MM = 0xA405
FOCAL_PLANE_X_RESOLUTION = 0xA20E
FOCAL_PLANE_UNIT = 0xA210
PIXEL_X_DIMENSION = 0xA002
MILLIMETRES_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
DIAGONAL_35MM = math.hypot(36.0, 24.0)
"""CIPA DCG-001: the equivalent focal length compares diagonals, whatever the aspect ratio."""
PLAUSIBLE = 0.2, 40.0
"""Focal length over long side: from a fisheye to a very long telephoto lens."""


def focal_in_pixels(exif: Image.Exif, width: int, height: int) -> float | None:
    """Focal length in px of an image stored at `width` x `height` px, or None where EXIF tells none.

    The 35 mm equivalent comes first: it survives resizing, while the focal plane's resolution needs the size the
    picture was taken at.
    """
    try:
        tags = exif.get_ifd(EXIF_IFD)
        equivalent = _number(tags.get(FOCAL_LENGTH_35MM))
        if equivalent:
            return _plausible(equivalent / DIAGONAL_35MM * math.hypot(width, height), width, height)
        millimetres = _number(tags.get(FOCAL_LENGTH))
        resolution = _number(tags.get(FOCAL_PLANE_X_RESOLUTION))
        unit = MILLIMETRES_PER_UNIT.get(tags.get(FOCAL_PLANE_UNIT, 2))
        if not (millimetres and resolution and unit):
            return None
        taken_width = _number(tags.get(PIXEL_X_DIMENSION)) or width
        return _plausible(millimetres * resolution / unit * width / taken_width, width, height)
    except (ValueError, TypeError, KeyError, ZeroDivisionError, SyntaxError, OSError):
        return None  # A damaged EXIF block is no reason to refuse the picture.


def _number(value: object) -> float:
    """A positive finite number, else 0."""
    number = float(value) if isinstance(value, (int, float)) or hasattr(value, "numerator") else 0.0  # type: ignore[arg-type]
    return number if math.isfinite(number) and number > 0 else 0.0


def _plausible(focal: float, width: int, height: int) -> float | None:
    low, high = PLAUSIBLE
    return focal if low <= focal / max(width, height) <= high else None
