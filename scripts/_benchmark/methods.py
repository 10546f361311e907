"""The methods that are compared, each started as a process of its own."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from _benchmark.command import run
from _benchmark.estimate import Estimate
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera

Method = Literal["ours", "colmap", "colmap-global"]
TITLES: dict[Method, str] = {"ours": "ours", "colmap": "COLMAP", "colmap-global": "COLMAP, global mapper"}
SCRIPTS = Path(__file__).resolve().parents[1]
OUR_MODULES = {"PYTHONPATH": os.pathsep.join(map(str, (SCRIPTS, SCRIPTS.parent)))}
"""For processes of their own: they import what this one does, installed or not."""


@dataclass(frozen=True)
class Outcome:
    """What a method found on one sequence, and what that cost."""

    method: Method
    estimate: Estimate
    seconds: float
    """Its stages together; the whole process where it broke down."""
    peak_mib: float | None

    @property
    def title(self) -> str:
        """The method's name in tables."""
        return TITLES[self.method]

    @property
    def camera(self) -> Camera | None:
        """The estimated lens."""
        lens = self.estimate.lens
        if not lens:
            return None
        named = {name: value for name, value in lens.items() if name not in ("width", "height")}
        return Camera(int(lens["width"]), int(lens["height"]), **named)


def installed(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    """Those that can be run here: not every release of pycolmap has a global mapper. FlowCamError without pycolmap."""
    if set(methods) == {"ours"}:
        return methods
    if find_spec("pycolmap") is None:
        raise FlowCamError('pycolmap is not installed: pip install ".[benchmark]", or choose --methods ours')
    from _benchmark.colmap import has_global_mapper

    return methods if has_global_mapper() else tuple(method for method in methods if method != "colmap-global")


def run_method(
    method: Method,
    source: Path,
    frames: int,
    result: Path,
    *,
    cores: int = 2,
    time_limit: float = 3600,
    lens: Camera | None = None,
) -> Outcome:
    """Run a method on a video or a folder of images, with an empty flow cache.

    Args:
        method: which one.
        source: its input.
        frames: how many frames the input has.
        result: JSON file to be written, with a log beside it.
        cores: how many processor cores it may use.
        time_limit: seconds after which it counts as failed.
        lens: given to the method; estimated by it where None.
    """
    result.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    log = result.with_suffix(".log")
    command = ["-m", "_benchmark.pose_run", method, str(source.absolute()), str(result.absolute()), str(cores)]
    if lens is not None:
        command.append(json.dumps(asdict(lens)))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flowcam-cache-") as cache:
        environment = {"FLOWCAM_CACHE": cache, "OMP_NUM_THREADS": str(cores), **OUR_MODULES}
        try:
            finished = run(["python", *command], log, environment, time_limit)
        except RuntimeError:
            estimate = Estimate.nothing(frames, f"broke down: {_last_line(log)}")
            return Outcome(method, estimate, time.monotonic() - started, None)
    estimate = Estimate.read(result)
    return Outcome(method, estimate, estimate.seconds, finished.peak_mib)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no word of why")
