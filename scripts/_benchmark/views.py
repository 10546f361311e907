"""How good rendered views are: `ns-train flowcam` and `ns-eval` as a user runs them, timed and weighed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _benchmark.tables import Row, Section

MIB_PER_RSS_UNIT = 1 / 1024
"""Linux counts the resident set in KiB."""

WEIGH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Runs a command and prints the largest resident set among it and its children. A process of its own, because a child
starts out with its parent's memory on its account: this one has next to none."""


@dataclass(frozen=True)
class Finished:
    """What a command cost."""

    seconds: float
    peak_mib: float
    """Resident memory of its largest process."""


def views_section(images: Path, folder: Path) -> Section:
    """Train with defaults, evaluate the held-out frames."""
    section = Section(f"Views of {images.parent.name}")
    train = ["ns-train", "flowcam", "--data", str(images), "--output-dir", str(folder)]
    trained = run([*train, "--viewer.quit-on-train-completion", "True"], folder / "train.log")
    (config,) = folder.glob("*/flowcam/*/config.yml")
    scores = folder / "scores.json"
    pictures = folder / "eval"
    evaluate = ["ns-eval", "--load-config", str(config), "--output-path", str(scores)]
    evaluated = run([*evaluate, "--render-output-path", str(pictures)], folder / "eval.log")
    section.rows.append(_row(json.loads(scores.read_text())["results"], trained))
    section.notes.append(
        "Time from the command to its end, imports and pose estimation included; memory is the largest resident set. "
        f"ns-eval took {evaluated.seconds:.0f} s. Held-out frames' poses come from their flow, as for every frame; no "
        "colour, depth or seed point comes from them. Copy: the nearest frame in place of a rendering."
    )
    return section


def run(command: Sequence[str], log: Path) -> Finished:
    """Run one of the environment's commands to its end, its output in `log`; raises RuntimeError where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    program = str(Path(sys.executable).with_name(command[0]))
    started = time.monotonic()
    with log.open("wb") as output:
        weighed = [sys.executable, "-S", "-c", WEIGH, program, *command[1:]]
        process = subprocess.run(weighed, stdout=subprocess.PIPE, stderr=output, text=True, check=False)
    seconds = time.monotonic() - started
    if process.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed with exit code {process.returncode}; see {log}")
    return Finished(seconds, int(process.stdout) * MIB_PER_RSS_UNIT)


def _row(scores: dict[str, float], trained: Finished) -> Row:
    """Every score that ns-eval reports, but for its spread over the frames and the rendering speed."""
    named = {name: value for name, value in scores.items() if not name.endswith("_std") and "rays" not in name}
    return {**named, "minutes": trained.seconds / 60, "memory, MiB": trained.peak_mib}
