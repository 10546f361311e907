"""The eight ways a stored picture may have to be turned or mirrored to stand upright (video metadata and EXIF)."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np


@dataclass(frozen=True)
class Orientation:
    """Transpose the stored picture first, then mirror it."""

    transpose: bool = False
    flip_x: bool = False
    """Mirror left and right."""
    flip_y: bool = False
    """Mirror top and bottom."""

    @classmethod
    def from_exif(cls, value: int) -> Orientation:
        """From EXIF tag 274; anything but 1-8 counts as upright."""
        return EXIF_ORIENTATIONS.get(value, UPRIGHT)

    @classmethod
    def from_matrix(cls, a: float, b: float, c: float, d: float) -> Orientation:
        """From a display matrix that takes a stored (x, y) to (a x + c y, b x + d y), y pointing down."""
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, flip_x=c < 0, flip_y=b < 0)
        return cls(False, flip_x=a < 0, flip_y=d < 0)

    @classmethod
    def of_frame(cls, picture: av.VideoFrame) -> Orientation:
        """From the display matrix that a decoded video frame carries, if any."""
        matrix = side_data(picture, "DISPLAYMATRIX")
        if matrix is None:
            return UPRIGHT
        a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
        return cls.from_matrix(a, b, c, d)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Upright (width, height) of a stored picture, or the other way round."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The upright picture, [height, width, ...]."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.flip_x:
            picture = picture[:, ::-1]
        if self.flip_y:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)


def side_data(picture: av.VideoFrame, name: str) -> bytes | None:
    """What the container says about a decoded frame under FFmpeg's side data type `name`."""
    return next((bytes(data) for data in picture.side_data if data.type.name == name), None)  # type: ignore[union-attr]


UPRIGHT = Orientation()
EXIF_ORIENTATIONS = {
    2: Orientation(flip_x=True),
    3: Orientation(flip_x=True, flip_y=True),
    4: Orientation(flip_y=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_x=True),
    7: Orientation(transpose=True, flip_x=True, flip_y=True),
    8: Orientation(transpose=True, flip_y=True),
}
