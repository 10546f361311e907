"""The first frames of a video in a process of its own: `python -m _benchmark.long_run VIDEO FRAMES RESULT CORES`.

Leaves an estimate in RESULT and, beside it, the poses as they were before any return to a known place was used.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from torch import Tensor

from _benchmark.ours import solve
from flowcam_ns.video.options import FrameOptions


def main(video: Path, frames: int, result: Path, cores: int) -> None:
    """Pose the first `frames` frames, all of them, on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    open_loop: list[Tensor] = []

    def remember(stage: str, done: float, c2w: Tensor | None) -> None:
        # The one time that "Poses" is complete: neighbours alone have been used, no far pair and no revisit.
        if stage == "Poses" and done == 1.0 and c2w is not None:
            open_loop[:] = [c2w.detach().clone()]

    before = time.process_time()
    found = solve(video, FrameOptions(end_frame=frames - 1, max_frames=frames, thin=False), remember)
    found.processor_seconds = time.process_time() - before
    found.write(result)
    if open_loop:
        np.save(before_path(result), open_loop[0].double().numpy())


def before_path(result: Path) -> Path:
    """Where the poses before loop closure lie."""
    return result.with_suffix(".before.npy")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
