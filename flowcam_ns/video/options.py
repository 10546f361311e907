"""What a user may say about reading frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from flowcam_ns.errors import FlowCamError

Progress = Callable[[int, Optional[int]], None]  # noqa: UP045
"""Called with how many frames are done and, where known, of how many."""

SMALLEST_SIDE = 32
"""Below this many px a side, optical flow has nothing to hold on to."""
LARGEST_SIZE = 8192
MIN_FRAMES = 3
"""Fewest frames that poses can be estimated from: two leave focal length and depth undetermined."""


# tyro reads these annotations at run time, on Python 3.10 too: `Optional`, not `| None`.
@dataclass
class FrameOptions:
    """Which frames of a video or folder are read, and at what size."""

    start: float = 0.0
    """Skip what lies before this time, in seconds (a folder counts as 30 images a second)."""
    end: Optional[float] = None  # noqa: UP045
    """Skip what lies after this time, in seconds; to the end if not given."""
    start_frame: int = 0
    """Skip what lies before this frame number (video) or image number in natural order (folder), from 0."""
    end_frame: Optional[int] = None  # noqa: UP045
    """The last frame or image number to be read; to the end if not given."""
    max_frames: int = 300
    """Budget. A folder with no more images keeps all; a video with no more frames loses only motionless and badly
    blurred ones; anything longer is thinned so that the picture moves evenly from frame to frame."""
    thin: bool = True
    """Whether motion and blur decide what is left out. If not, a video within the budget keeps every frame, and
    anything longer is thinned evenly in number."""
    max_size: int = 960
    """Frames are scaled down so that their long side has at most this many px."""
    focal: Optional[float] = None  # noqa: UP045
    """Known focal length in px of the original input (before it is scaled to max-size); else it is estimated."""
    use_dataset_intrinsics: bool = False
    """Trust the lens given by a dataset's transforms.json instead of estimating it."""
    ground_truth: bool = True
    """Attach the poses of a dataset's transforms.json (in the folder given, or beside a folder named "images"), to
    score the result; they are never used to train or to estimate anything."""
    masks: Optional[Path] = None  # noqa: UP045
    """Masks (white: keep; black: moving things, logos): a folder with one for every image, by the same relative name
    (for a video: by frame number, such as 000012.png), or a single image that holds for all frames. Without it, a
    dataset's own mask_path entries are used."""

    def check(self) -> None:
        """Raise FlowCamError where a value makes no sense."""
        times = [self.start] + ([] if self.end is None else [self.end])
        if not all(math.isfinite(t) and t >= 0 for t in times) or (self.end is not None and self.end <= self.start):
            raise FlowCamError(f"start ({self.start}) and end ({self.end}) are seconds, with 0 <= start < end.")
        if self.start_frame < 0 or (self.end_frame is not None and self.end_frame <= self.start_frame):
            raise FlowCamError(
                f"start-frame ({self.start_frame}) and end-frame ({self.end_frame}) are frame numbers from 0, "
                "the end after the start."
            )
        if self.max_frames < MIN_FRAMES:
            raise FlowCamError(f"max-frames is {self.max_frames}; poses need at least {MIN_FRAMES} frames.")
        if not SMALLEST_SIDE <= self.max_size <= LARGEST_SIZE:
            raise FlowCamError(f"max-size is {self.max_size}; it must lie between {SMALLEST_SIDE} and {LARGEST_SIZE}.")
        if self.focal is not None and not (math.isfinite(self.focal) and self.focal > 0):
            raise FlowCamError(f"focal is {self.focal}; it must be a positive number of px.")
        if self.focal is not None and self.use_dataset_intrinsics:
            raise FlowCamError("Give either focal or use-dataset-intrinsics, not both.")

    def includes(self, number: int, time: float) -> bool:
        """Whether frame `number` at `time` seconds lies in the asked-for range."""
        tolerance = 1e-6
        after = number >= self.start_frame and time >= self.start - tolerance
        return after and not self.is_past(number, time)

    def is_past(self, number: int, time: float) -> bool:
        """Whether frame `number` at `time` seconds, and so all that follow, lies behind the asked-for range."""
        tolerance = 1e-6
        by_number = self.end_frame is not None and number > self.end_frame
        return by_number or (self.end is not None and time > self.end + tolerance)

    def loaded_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in px of frames that were `width` x `height` px in the input."""
        scale = min(1.0, self.max_size / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if min(size) < SMALLEST_SIDE:
            raise FlowCamError(
                f"The frames are {size[0]}x{size[1]} px when loaded; each side needs at least {SMALLEST_SIDE} px."
            )
        return size
