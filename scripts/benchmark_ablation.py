#!/usr/bin/env python3
"""What each part of the default method adds: the same run with one part left out at a time, in small.

python scripts/benchmark_ablation.py --data ../shared/data
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch
import tyro

from _benchmark.ablation import PARTS, Ablation, Input, Size, flags, recorded_input
from _benchmark.machine import describe_machine
from _benchmark.tables import Section, write_report
from flowcam_ns.synthetic.clip import plan_clip
from flowcam_ns.synthetic.exact_flow import rows_of
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions


@dataclass
class Options:
    """What to measure, and where to put it."""

    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences."""
    sequences: tuple[str, ...] = ("flip_phone_desk:30", "kitti06_street:30", "redkitchen_a:30")
    """Folders under `data`; ":n" takes only the first n frames."""
    motions: tuple[str, ...] = ("orbit", "walk")
    """Synthetic motions, 480x270 through H.264."""
    seed: int = 1
    """Of the synthetic scenes."""
    checkpoint: Optional[Path] = None  # noqa: UP045
    """A trained network; adds a run whose solve starts from it."""
    parts: tuple[str, ...] = ()
    """Rows of the table to make; all of them if none is named."""
    steps: int = 240
    """Steps of the field."""
    every: int = 3
    """The network is trained in every so many of them (the method: in every tenth of more steps)."""
    frames: int = 30
    """Frames of a synthetic clip."""
    rays: int = 16**2
    """Rays of a step."""
    long_side: int = 160
    """Long side in px of views."""
    cost_steps: int = 40
    """Steps at the method's own sizes, on the first input, that tell what the network costs; 0 leaves that out."""
    output_dir: Path = Path("outputs/benchmark_ablation")
    """Folder for benchmark.md and benchmark.json."""


def main(options: Options) -> None:
    """One row for each input and part; what is measured is on disk before the next one starts."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = dict(PARTS)
    if options.checkpoint is not None:
        parts["solve starts from a network"] = {"model.checkpoint": options.checkpoint}
    parts = {name: parts[name] for name in options.parts or parts}
    section = Section("What each part adds", notes=[*notes(options), *legend(parts)])
    with tempfile.TemporaryDirectory(prefix="flowcam-ablation-") as scratch:
        cache = Path(scratch) / "cache"
        for source in inputs(options, Path(scratch)):
            ablation = Ablation(source, cache, device)
            size = Size(options.steps, options.rays, options.long_side, options.every)
            runs = [(name, changes, 0) for name, changes in parts.items()]
            if not section.rows and not options.parts:  # once, to see what chance alone does
                runs.insert(1, ("default, another seed", {}, 1))
            for name, changes, seed in runs:
                section.rows.append(ablation.run(name, changes, size, seed))
                write_report(options.output_dir, describe_machine(), [section])
                print(section.markdown().splitlines()[len(section.rows) + 3], flush=True)
            if options.cost_steps > 0 and len(section.rows) == len(runs):
                section.notes.append(ablation.cost(options.cost_steps))
    write_report(options.output_dir, describe_machine(), [section])
    print(f"\n{section.markdown()}")


def inputs(options: Options, scratch: Path) -> Iterator[Input]:
    """Procedural clips, then recorded sequences."""
    for motion in options.motions:
        plan = plan_clip(motion, options.seed, options.frames)
        path = scratch / f"{motion}.mp4"
        write_video(path, (plan.view(index)[0] for index in range(len(plan))))
        rows = rows_of(load_frames(path, FrameOptions()))
        yield Input(motion, path, torch.from_numpy(plan.c2w[rows]), FrameOptions())
    yield from (recorded_input(options.data, name) for name in options.sequences)


def notes(options: Options) -> list[str]:
    """What was reduced, and how to read the figures."""
    return [
        f"Made small: {options.steps} steps of {options.rays} rays, views at {options.long_side} px, the network "
        f"trained in one step of {options.every} (alone: {options.steps // options.every * 2} steps); all else is the "
        "method's default. Rows that differ after the solve share one. ATE after a Sim(3) fit, in % of the "
        "trajectory's RMS radius; AUC@5 over all pairs of frames; mean rotation error after one rotation of the world. "
        "The network's own poses: chained over the frames that it is trained on. Views: held-out frames. Seconds: "
        "processor time of all threads, flow between neighbours cached."
    ]


def legend(parts: dict[str, dict[str, object]]) -> list[str]:
    """How a user leaves a part out."""
    return ["\n".join(f"- {name}: `{flags(changes)}`" for name, changes in parts.items() if changes)]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
