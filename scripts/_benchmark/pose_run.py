"""One method on one input in a process of its own: `python -m _benchmark.pose_run METHOD INPUT RESULT CORES [LENS]`.

LENS is a camera's fields as JSON; the lens is estimated where there is none. Only what the method needs is imported,
before the clock starts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _benchmark.estimate import Estimate

if TYPE_CHECKING:
    from flowcam_ns.geometry.camera import Camera


def main(method: str, source: Path, result: Path, cores: int, lens: Camera | None) -> None:
    """Estimate the poses of `source` on so many cores, under a lens where one is given; leave them in `result`."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        estimate = _imported(method, Path(scratch), lens)
        before = time.process_time()
        found = estimate(source)
        found.processor_seconds = time.process_time() - before
    found.write(result)


def _imported(method: str, scratch: Path, lens: Camera | None) -> Callable[[Path], Estimate]:
    if method == "ours":
        from _benchmark.ours import solve

        return partial(solve, camera=lens)
    from _benchmark.colmap import reconstruct

    return partial(reconstruct, scratch=scratch, global_mapper=method == "colmap-global", lens=lens)


def _given(lens: list[str]) -> Camera | None:
    if not lens:
        return None
    from flowcam_ns.geometry.camera import Camera

    return Camera(**json.loads(lens[0]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), _given(sys.argv[5:]))
