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

from _benchmark.ablation import Ablation, Input, Size, optimizers_of, step_once
from _benchmark.machine import describe_machine
from _benchmark.sequences import load_sequence
from _benchmark.tables import Row, Section, write_report
from flowcam_ns.model.checkpoint import read_checkpoint
from flowcam_ns.model.network_stage import EVERY
from flowcam_ns.video.options import FrameOptions


@dataclass
class AdaptationOptions:
    """What to measure, and where to put it."""

    checkpoint: Path = Path("small")
    """The trained network; the untrained one has its sizes."""
    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences, none of which the checkpoint may have been trained on."""
    sequences: tuple[str, ...] = ("flip_phone_desk", "box_realsense", "redkitchen_a", "fox:23", "kitti06_street")
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
STARTS = ("from nothing", "from the checkpoint")


def main(options: AdaptationOptions) -> Section:
    """Two rows for each sequence and seed; what is measured is on disk before the next one starts."""
    section = Section(
        "PSNR of held-out views after so many steps, dB",
        notes=[
            f"Checkpoint {options.checkpoint.name}; cameras by the bundle adjustment, the same for both; "
            f"{options.rays} rays a step, views at {options.long_side} px. Nearest: a copy of the nearest frame. "
            "Reached after: the first of these steps at which the checkpoint's row has what the untrained network "
            "reaches at its best."
        ],
    )
    with tempfile.TemporaryDirectory(prefix="flowcam-adaptation-") as scratch:
        for name in options.sequences:
            recorded = load_sequence(options.data, name)
            folder, _, count = name.partition(":")
            frames = FrameOptions(end_frame=int(count) - 1 if count else None)
            source = Input(name, options.data / folder, torch.from_numpy(recorded.truth.c2w), frames)
            ablation = Ablation(source, Path(scratch), "cuda" if torch.cuda.is_available() else "cpu", warm_up=False)
            for seed in options.seeds:
                section.rows += adapted(ablation, options, seed)
                write_report(options.output_dir, describe_machine(), [section])
    print(section.markdown())
    return section


def adapted(ablation: Ablation, options: AdaptationOptions, seed: int) -> list[Row]:
    """The same network on the same cameras, untrained and from the checkpoint."""
    curves = [dict(curve(ablation, options, seed, trained)) for trained in (False, True)]
    nearest = [curve.pop(NEAREST) for curve in curves]
    best = max(curves[0].values())
    reached = next((step for step, psnr in curves[1].items() if psnr >= best), None)
    return [
        {
            "sequence": ablation.source.name,
            "start": start,
            **{f"{step}": psnr for step, psnr in scores.items()},
            "nearest": copy,
            "reached after": step,
        }
        for start, scores, copy, step in zip(STARTS, curves, nearest, (None, reached), strict=True)
    ]


def curve(ablation: Ablation, options: AdaptationOptions, seed: int, trained: bool) -> Iterator[tuple[int, float]]:
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
    if trained:
        network.start_from(checkpoint)
    pipeline.teach_network()
    optimizers = optimizers_of(pipeline)
    for step in range(max(options.steps) + 1):
        if step > 0:
            step_once(pipeline.train(), optimizers, step)
        if step in options.steps:
            scores = pipeline.eval().get_average_eval_image_metrics()
            print(f"{ablation.source.name}, {STARTS[trained]}: {step} steps, {scores['psnr']:.2f} dB", flush=True)
            yield step, scores["psnr"]
            yield NEAREST, scores["nearest_psnr"]


if __name__ == "__main__":
    main(tyro.cli(AdaptationOptions, description=__doc__))
