#!/usr/bin/env python3
"""Measure the project's figures and write them as a Markdown table and JSON.

python scripts/benchmark.py --data ../shared/data
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from _benchmark.machine import describe_machine
from _benchmark.startup import startup_section
from _benchmark.tables import Section, write_report
from _benchmark.views import views_section
from flowcam_ns.synthetic.motions import BENCHMARK_MOTIONS

SectionName = Literal["synthetic", "recorded", "views", "startup", "first-picture"]


@dataclass
class BenchmarkOptions:
    """What to measure, and where to put it."""

    sections: tuple[SectionName, ...] = ("synthetic", "recorded", "views", "startup", "first-picture")
    """Which tables to make."""
    output_dir: Path = Path("outputs/benchmark")
    """Folder for benchmark.md, benchmark.json and the trained run."""
    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences, each a dataset folder with transforms.json."""
    motions: tuple[str, ...] = BENCHMARK_MOTIONS
    """Synthetic motions."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of the synthetic scenes; every motion is filmed in each."""
    sequences: tuple[str, ...] = ("flip_phone_desk", "kitti06_street")
    """Recorded sequences whose poses are scored."""
    views: str = "flip_phone_desk"
    """Recorded sequence that a field is trained on."""


def main(options: BenchmarkOptions) -> None:
    """Measure section by section; what is measured is on disk before the next one starts."""
    machine, done = describe_machine(), list[Section]()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flowcam-benchmark-") as scratch:
        for name in options.sections:
            # An empty cache for each, so that the time for flow counts, whatever was measured before.
            os.environ["FLOWCAM_CACHE"] = str(Path(scratch) / "cache" / name)
            started = time.monotonic()
            section = _measures(options, Path(scratch))[name]()
            done.append(section)
            write_report(options.output_dir, machine, done)
            print(f"\n{section.markdown()}\n\n({name}: {time.monotonic() - started:.0f} s)", flush=True)
    print(f"\nwritten to {options.output_dir / 'benchmark.md'} and benchmark.json")


def _measures(options: BenchmarkOptions, scratch: Path) -> dict[SectionName, Callable[[], Section]]:
    def synthetic() -> Section:
        from _benchmark.poses import synthetic_section

        return synthetic_section(options.motions, options.seeds, scratch)

    def recorded() -> Section:
        from _benchmark.poses import recorded_section

        return recorded_section(options.data / name for name in options.sequences)

    def views() -> Section:
        run = options.output_dir / time.strftime("run-%Y%m%d-%H%M%S")
        return views_section(options.data / options.views / "images", run)

    def first_picture() -> Section:
        from _benchmark.first_picture import first_picture_section

        return first_picture_section([options.data / name / "images" for name in options.sequences])

    return {
        "synthetic": synthetic,
        "recorded": recorded,
        "views": views,
        "startup": startup_section,
        "first-picture": first_picture,
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(BenchmarkOptions, description=__doc__)))
