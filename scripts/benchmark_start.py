#!/usr/bin/env python3
"""How many steps the bundle adjustment needs from a network's poses, and how many from nothing.

python scripts/benchmark_start.py --data ../shared/data
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro

from _benchmark.machine import describe_machine
from _benchmark.sequences import NAMES, RecordedSequence, load_sequence
from _benchmark.tables import Row, Section, write_report
from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.alignment.watch import counted_effort
from flowcam_ns.data.network_poses import network_alignment
from flowcam_ns.geometry.metrics import score_trajectory


@dataclass
class StartOptions:
    """What to measure, and where to put it."""

    checkpoint: Path = Path("small")
    """The network whose poses are started from."""
    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences."""
    sequences: tuple[str, ...] = NAMES
    """Folders under `data`; ":n" takes only the first n frames."""
    output_dir: Path = Path("outputs/benchmark_start")
    """Folder for benchmark.md and benchmark.json."""


def solved(recorded: RecordedSequence, solve: Callable[[], Alignment], start: str, lens: str) -> Row:
    """One solve: its steps, seconds and errors."""
    began = time.monotonic()
    with counted_effort() as effort:
        found = solve()
    seconds = time.monotonic() - began
    score = score_trajectory(found.c2w, torch.from_numpy(recorded.truth.c2w), found.posed)
    return {
        "sequence": recorded.frames.name,
        "lens": lens,
        "start": start,
        "steps": effort.steps,
        "steps x frames": effort.frame_steps,
        "ATE, %": 100 * score.ate_relative,
        "AUC@5": score.auc_5,
        "seconds": seconds,
    }


def main(options: StartOptions) -> Section:
    """Four rows for each sequence; what is measured is on disk before the next one starts."""
    section = Section(
        "Steps of the bundle adjustment",
        notes=["Where the lens is not given, the network gets a guess of it."],
    )
    alignment = AlignmentOptions(cache=False)
    for name in options.sequences:
        recorded = load_sequence(options.data, name)
        frames, true_camera = recorded.frames, recorded.truth.camera
        assert true_camera is not None
        given = true_camera.scaled_to(frames.width, frames.height)
        for lens, camera in (("unknown", None), ("given", given)):
            ways: dict[str, Callable[[], Alignment]] = {
                "nothing": partial(estimate_poses, frames, camera, alignment),
                options.checkpoint.name: partial(
                    network_alignment, frames, options.checkpoint, camera, alignment, refine=True
                ),
            }
            for start, solve in ways.items():
                section.rows.append(solved(recorded, solve, start, lens))
                write_report(options.output_dir, describe_machine(), [section])
    print(section.markdown())
    return section


if __name__ == "__main__":
    main(tyro.cli(StartOptions, description=__doc__))
