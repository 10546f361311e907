"""What the plugin adds to every nerfstudio command: `ns-train --help` with and without it, taken in turns."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from _benchmark.tables import Row, Section

REPEATS = 5

HELP = """
import importlib.metadata, sys
found = importlib.metadata.entry_points
def without_flowcam(**wanted):
    return importlib.metadata.EntryPoints(point for point in found(**wanted) if point.name != "flowcam")
if sys.argv.pop(1) == "without":
    importlib.metadata.entry_points = without_flowcam
from nerfstudio.scripts.train import entrypoint
sys.argv = ["ns-train", "--help"]
entrypoint()
"""


def startup_section() -> Section:
    """Median and smallest wall-clock time of both."""
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(REPEATS + 1):
        for plugin, seconds in times.items():
            seconds.append(_help_seconds(plugin))
    for seconds in times.values():
        del seconds[0]  # The first run of each warms the disk cache.
    rows: list[Row] = [
        {"ns-train --help": f"{plugin} the plugin", "median, s": statistics.median(s), "least, s": min(s)}
        for plugin, s in times.items()
    ]
    added = statistics.median(times["with"]) - statistics.median(times["without"])
    least = min(times["with"]) - min(times["without"])
    rows.append({"ns-train --help": "added by the plugin", "median, s": added, "least, s": least})
    return Section("Start-up", rows, [f"Wall-clock of {REPEATS} runs of each, taken in turns."])


def _help_seconds(plugin: str) -> float:
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", HELP, plugin], capture_output=True, text=True, check=False)
    if run.returncode != 0 or ("flowcam" in run.stdout) != (plugin == "with"):
        raise RuntimeError(f"ns-train --help {plugin} the plugin did not show what it should:\n{run.stderr[-2000:]}")
    return time.monotonic() - started
