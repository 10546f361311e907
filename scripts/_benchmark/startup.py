"""What the plugin adds to every nerfstudio command: `ns-train --help` with and without it, taken in turns."""

from __future__ import annotations

import os
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
    points = found(**wanted)
    if wanted.get("group") != "nerfstudio.method_configs":
        return points
    return importlib.metadata.EntryPoints(point for point in points if not point.name.startswith("flowcam"))
if sys.argv.pop(1) == "without":
    importlib.metadata.entry_points = without_flowcam
from nerfstudio.scripts.train import entrypoint
sys.argv = ["ns-train", "--help"]
entrypoint()
"""


def startup_section() -> Section:
    """Medians of wall-clock and of processor time with and without the plugin, and their difference."""
    times: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for _ in range(REPEATS + 1):
        for plugin, runs in times.items():
            runs.append(_help_seconds(plugin))
    # The first run of each warms the disk cache.
    medians = {
        plugin: [statistics.median(kind) for kind in zip(*runs[1:], strict=True)] for plugin, runs in times.items()
    }
    medians["added by"] = [after - before for before, after in zip(medians["without"], medians["with"], strict=True)]
    rows: list[Row] = [
        {"ns-train --help": f"{name} the plugin", "wall-clock, s": wall, "processor, s": processor}
        for name, (wall, processor) in medians.items()
    ]
    return Section("Start-up", rows, [f"Medians of {REPEATS} runs of each, taken in turns."])


def _help_seconds(plugin: str) -> tuple[float, float]:
    started, before = time.monotonic(), os.times()
    run = subprocess.run([sys.executable, "-c", HELP, plugin], capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - started, os.times()
    if run.returncode != 0 or ("flowcam" in run.stdout) != (plugin == "with"):
        raise RuntimeError(f"ns-train --help {plugin} the plugin did not show what it should:\n{run.stderr[-2000:]}")
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, processor
