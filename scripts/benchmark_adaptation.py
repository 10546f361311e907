#!/usr/bin/env python3
"""Whether a trained network adapts to a new video in fewer steps than an untrained one: views of held-out frames by the
network's own field (`ns-train flowcam --pipeline.model.views latent`), from a checkpoint and from nothing.

python scripts/benchmark_adaptation.py --data ../shared/data
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from _benchmark.ablation import Ablation, Size, optimizers_of, recorded_input, step_once
from _benchmark.machine import describe_machine
from _benchmark.sequences import NAMES
from _benchmark.tables import Row, Section, write_report
from flowcam_ns.model.checkpoint import read_checkpoint
from flowcam_ns.model.network_stage import EVERY


@dataclass
class AdaptationOptions:
    """What to measure, and where to put it."""

    checkpoint: Path = Path("small")
    """The trained network; the untrained one has its sizes."""
    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences, none of which the checkpoint may have been trained on."""
    sequences: tuple[str, ...] = NAMES
    """Folders under `data`; ":n" takes only the first n frames."""
    steps: tuple[int, ...] = (0, 25, 50, 100, 200, 400)
    """Training steps after which held-out frames are scored."""
    rays: int = 32**2
    """Rays of a step."""
    long_side: int = 96
    """Long side in px of views: that of the frames which the shipped network sees."""
    seeds: tuple[int, ...] = (0,)
    """Of the untrained weights and of the training."""
    output_dir: Path = Path("outputs/benchmark_adaptation")
    """Folder for benchmark.md and benchmark.json."""


NEAREST = -1
STARTS = FROM_NOTHING, FROM_CHECKPOINT = "from nothing", "from the checkpoint"


def main(options: AdaptationOptions) -> list[Section]:
    """Two rows for each sequence and seed; what is measured is on disk before the next one starts."""
    scores = Section(
        "PSNR of held-out views after so many steps, dB",
        notes=[
            f"Checkpoint {options.checkpoint.name}; cameras by the bundle adjustment, the same for both; "
            f"{options.rays} rays a step, views at {options.long_side} px. Nearest: a copy of the nearest frame."
        ],
    )
    speed = Section(
        "Steps from the checkpoint to what so many steps from nothing reach",
        notes=[f"The first of {', '.join(map(str, options.steps))} steps whose PSNR is as high."],
    )
    with tempfile.TemporaryDirectory(prefix="flowcam-adaptation-") as scratch:
        for name in options.sequences:
            source = recorded_input(options.data, name)
            ablation = Ablation(source, Path(scratch), "cuda" if torch.cuda.is_available() else "cpu", warm_up=False)
            for seed in options.seeds:
                nothing, trained = (dict(curve(ablation, options, seed, start)) for start in STARTS)
                for start, row in zip(STARTS, (nothing, trained), strict=True):
                    psnr = {f"{step}": row[step] for step in options.steps}
                    scores.rows.append(
                        {"sequence": name, "seed": seed, "start": start, **psnr, "nearest": row[NEAREST]}
                    )
                speed.rows.append({"sequence": name, "seed": seed, **steps_to_reach(nothing, trained, options.steps)})
                write_report(options.output_dir, describe_machine(), [scores, speed])
    print(scores.markdown(), speed.markdown(), sep="\n\n")
    return [scores, speed]


def steps_to_reach(nothing: dict[int, float], trained: dict[int, float], steps: tuple[int, ...]) -> Row:
    """For every number of steps from nothing: the first from the checkpoint with the same PSNR; None if none has it."""
    return {
        f"{step}": next((after for after in steps if trained[after] >= nothing[step]), None) for step in steps if step
    }


def curve(ablation: Ablation, options: AdaptationOptions, seed: int, start: str) -> Iterator[tuple[int, float]]:
    """PSNR of held-out views after every asked step, and that of a copy of the nearest frame as step `NEAREST`."""
    checkpoint = read_checkpoint(options.checkpoint)
    changes = {
        "model.views": "latent",
        "model.network.layers": checkpoint.layers,
        "model.network.long_side": checkpoint.long_side,
    }
    size = Size(max(options.steps), options.rays, options.long_side, EVERY)
    pipeline, _ = ablation.untrained(changes, size, seed)
    network = pipeline.flowcam.network
    assert network is not None
    if start == FROM_CHECKPOINT:
        network.start_from(checkpoint)
    pipeline.teach_network()
    optimizers = optimizers_of(pipeline)
    for step in range(max(options.steps) + 1):
        if step > 0:
            step_once(pipeline.train(), optimizers, step)
        if step in options.steps:
            scores = pipeline.eval().get_average_eval_image_metrics()
            print(f"{ablation.source.name}, {start}: {step} steps, {scores['psnr']:.2f} dB", flush=True)
            yield step, scores["psnr"]
            yield NEAREST, scores["nearest_psnr"]


if __name__ == "__main__":
    main(tyro.cli(AdaptationOptions, description=__doc__))
