"""One method on one input in a process of its own: `python -m _benchmark.pose_run METHOD INPUT RESULT CORES`.

Only what the method needs is imported, before the clock starts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _benchmark.estimate import Estimate


def main(method: str, source: Path, result: Path, cores: int) -> None:
    """Estimate the poses of `source` on so many cores and leave them in `result`."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        estimate = _imported(method, Path(scratch))
        before = time.process_time()
        found = estimate(source)
        found.processor_seconds = time.process_time() - before
    found.write(result)


def _imported(method: str, scratch: Path) -> Callable[[Path], Estimate]:
    if method == "ours":
        from _benchmark.ours import solve

        return solve
    from _benchmark.colmap import reconstruct

    return partial(reconstruct, scratch=scratch, global_mapper=method == "colmap-global")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
