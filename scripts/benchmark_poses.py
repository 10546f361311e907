#!/usr/bin/env python3
"""Race our pose estimation against COLMAP on recorded sequences, as they are and made harder, and check what ours says
about its own errors, whether it says the same of the same video given in other ways, and what a long video costs.

The race needs pycolmap: pip install ".[benchmark]"

python scripts/benchmark_poses.py --data ../shared/data --sequences flip_phone_desk fox:23
python scripts/benchmark_poses.py --data ../shared/data --sections stability
python scripts/benchmark_poses.py --sections long
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import tyro

from _benchmark.calibration_table import INDEPENDENT, Case, calibration_section, synthetic_cases
from _benchmark.comparison import Race, accuracy_section, cost_section, total_times
from _benchmark.hard import VARIANTS, Variant, harder
from _benchmark.judge_table import judge_rows, judge_section
from _benchmark.long import long_section
from _benchmark.machine import describe_machine
from _benchmark.methods import Method, installed, run_method
from _benchmark.sequences import RecordedSequence, all_names, load_sequence
from _benchmark.stability import stability_section
from _benchmark.tables import Section, write_report
from flowcam_ns.errors import FlowCamError
from flowcam_ns.synthetic.motions import BENCHMARK_MOTIONS

SectionName = Literal["race", "uncertainty", "hard", "stability", "long"]


@dataclass
class BenchmarkOptions:
    """What to compare, and where to put it."""

    sections: tuple[SectionName, ...] = ("race", "uncertainty", "hard", "stability", "long")
    """Which tables to make."""

    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences, each a dataset folder with transforms.json."""
    sequences: tuple[str, ...] = ()
    """Folders below `data`; ":23" after a name takes only its first 23 frames. Every folder if none is named."""
    methods: tuple[Method, ...] = ("ours", "colmap", "colmap-global")
    """Who takes part. The global mapper is left out where the installed pycolmap has none."""
    output_dir: Path = Path("outputs/benchmark_poses")
    """Folder for benchmark.md, benchmark.json, and every method's poses and log."""
    cores: int = 2
    """Processor cores that each method may use."""
    time_limit: float = 3600
    """Seconds after which a method counts as failed on a sequence."""
    known_lens: bool = False
    """Give every method of the race the dataset's own lens, which is held: what remains is not the lens's doing."""
    judge: bool = True
    """Whether poses are also judged by feature matches, which needs no truth."""
    motions: tuple[str, ...] = BENCHMARK_MOTIONS
    """Synthetic motions on which the reported uncertainty is checked, beside the recorded sequences."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of the synthetic scenes; every motion is filmed in each."""
    hard_methods: tuple[Method, ...] = ("ours", "colmap")
    """Who takes part where the sequences are made harder."""
    variants: tuple[Variant, ...] = VARIANTS
    """In which ways they are."""
    stable: tuple[str, ...] = ("flip_phone_desk", "redkitchen_a", "box_realsense")
    """Sequences that are also given reversed, smaller, and with frames left out, unless `sequences` names others."""
    long_frames: tuple[int, ...] = (250, 500, 1000)
    """Of the long walk, so many frames from its start are posed; the longest decides how far apart they are."""
    long_size: tuple[int, int] = (854, 480)
    """Width and height of the long walk, px."""
    independent: tuple[str, ...] = ("kitti06_street", "box_realsense")
    """Sequences whose truth was not made from their images: the reported uncertainty of these is pooled apart."""


def main(options: BenchmarkOptions) -> None:
    """Section by section and sequence by sequence; what is measured is on disk before the next one starts."""
    methods = installed(options.methods) if "race" in options.sections else ("ours",)
    hard_methods = installed(options.hard_methods) if "hard" in options.sections else ("ours",)
    machine = describe_machine()
    if {*methods, *hard_methods} != {"ours"}:
        machine["pycolmap"] = version("pycolmap")
    machine["load average at the start"] = os.getloadavg()[1]
    done: list[Section] = []

    def write(*sections: Section) -> None:
        write_report(options.output_dir, machine, [*done, *sections])

    if {"race", "uncertainty"} & set(options.sections):
        races: list[Race] = []
        judged = judge_section()
        for sequence in load_sequences(options, options.sequences or all_names(options.data)):
            races.append(run_race(sequence, methods, options))
            if options.judge and "race" in options.sections:
                judged.rows.extend(judge_rows(races[-1]))
            write(*race_sections(races, judged))
        done += race_sections(races, judged)
        print(total_times(races), flush=True)
        if "uncertainty" in options.sections and "ours" in methods:
            done.append(calibration_section(calibration_cases(races, options)))
    if "hard" in options.sections:
        done.append(hard_section(options, hard_methods))
        write()
    if "stability" in options.sections:
        recorded = load_sequences(options, options.sequences or options.stable)
        runs = options.output_dir / "stability"
        done.append(stability_section(recorded, runs, options.cores, options.time_limit))
        write()
    if "long" in options.sections:
        runs = options.output_dir / "long"
        done.append(long_section(options.long_frames, options.long_size, 1, runs, options.cores, options.time_limit))
    write()
    print("\n" + "\n\n".join(section.markdown() for section in done))
    print(f"\nwritten to {options.output_dir / 'benchmark.md'} and benchmark.json")


def load_sequences(options: BenchmarkOptions, names: Iterable[str]) -> list[RecordedSequence]:
    """The named sequences; a name that is not there is reported before anything is measured."""
    return [load_sequence(options.data, name) for name in names]


def hard_section(options: BenchmarkOptions, methods: tuple[Method, ...]) -> Section:
    """The sequences made harder, one row for each method."""
    races = []
    for sequence in load_sequences(options, options.sequences or all_names(options.data)):
        for variant in options.variants:
            with tempfile.TemporaryDirectory(prefix="flowcam-benchmark-") as scratch:
                races.append(run_race(harder(sequence, variant, Path(scratch) / "cut"), methods, options))
    section = accuracy_section(races)
    section.title = "Harder versions of the sequences"
    return section


def race_sections(races: list[Race], judged: Section) -> list[Section]:
    """Tables of the race."""
    return [accuracy_section(races), cost_section(races), *([judged] if judged.rows else [])]


def run_race(sequence: RecordedSequence, methods: tuple[Method, ...], options: BenchmarkOptions) -> Race:
    """Every method in turn on the same frames."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="flowcam-benchmark-") as scratch:
        images = sequence.link_images(Path(scratch) / "frames")
        for method in methods:
            result = options.output_dir / "runs" / f"{re.sub('[^A-Za-z0-9]+', '_', sequence.name)}-{method}.json"
            outcome = run_method(
                method,
                images,
                len(sequence.frames),
                result,
                cores=options.cores,
                time_limit=options.time_limit,
                lens=sequence.truth.camera if options.known_lens else None,
            )
            posed = int(outcome.estimate.posed.sum())
            print(f"{sequence.name}: {outcome.title}: {posed} posed in {outcome.seconds:.1f} s", flush=True)
            outcomes.append(outcome)
    return Race(sequence, outcomes)


def calibration_cases(races: list[Race], options: BenchmarkOptions) -> Iterable[Case]:
    """The recorded sequences as they were solved, then the synthetic motions."""
    for race in races:
        ours, truth = race.ours(), race.sequence.truth
        folder = race.sequence.name.partition(":")[0]
        group = INDEPENDENT if folder in options.independent else "recorded, truth from images"
        if ours is not None:
            yield Case(race.sequence.name, group, ours, truth.c2w, truth.camera)
    yield from synthetic_cases(options.motions, options.seeds, options.output_dir / "synthetic", options.cores)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(BenchmarkOptions, description=__doc__)))
    except FlowCamError as error:
        raise SystemExit(f"error: {error}") from None
