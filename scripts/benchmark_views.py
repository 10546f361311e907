#!/usr/bin/env python3
"""Score views of held-out frames of recorded sequences: ours, nerfacto on COLMAP's poses at equal wall-clock, a copy of
the nearest frame, and a depth-warped blend of two frames. With a GPU, Gaussian splats as well.

python scripts/benchmark_views.py --data ../shared/data

What was measured lies in the output folder and is not measured again: a run that was broken off goes on, sequences can
be taken one at a time (`--sequences fox:23`), and once all are there the same command prints the whole table.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from jaxtyping import UInt8

from _benchmark.depths import DEPTH_TITLE, depth_section
from _benchmark.hard import harder
from _benchmark.machine import describe_machine
from _benchmark.pictures import Picture, write_picture, write_pictures
from _benchmark.sequences import load_sequence
from _benchmark.stored import Settings, StoredRows
from _benchmark.tables import Row, Section, write_report
from _benchmark.view_methods import Task, Views, nerfacto, ours, splats
from flowcam_ns.data.frame_source import SharedFrames
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.model.image_scores import ImageScores
from flowcam_ns.video.frames import Frames

NOTE = (
    "All methods start from the same image files and are scored by one program on the same held-out frames (8 bit); "
    "frames that a method could not pose are left out of its means, see the frames column. Seconds: wall-clock from "
    "files to the finished field, poses, imports and writing included. Held-out frames' poses come from their flow "
    "(ours) or their features (COLMAP), as every frame's; nothing else does. Depth warp: our poses and depths, no "
    "training. Splats are scored on frames without lens distortion."
)


@dataclass
class Options:
    """What to measure, and where to put it."""

    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences."""
    sequences: tuple[str, ...] = ("flip_phone_desk", "redkitchen_a", "box_realsense", "kitti06_street", "fox:23")
    """Folders under `data`; ":n" takes only the first n frames. With none, only depths are measured."""
    output_dir: Path = Path("outputs/benchmark_views")
    """Folder for benchmark.md, benchmark.json, pictures and runs."""
    size: int = 480
    """Long side of views, px; poses are estimated at the frames' own size."""
    seconds: float = 300.0
    """Wall-clock that every method gets from files to field."""
    methods: tuple[Literal["ours", "nerfacto", "splats"], ...] = ("ours", "nerfacto", "splats")
    """What to run; "ours" brings the two renderings without training along, "splats" are skipped without CUDA."""
    splat_steps: tuple[int, ...] = (7_000, 30_000)
    """Lengths of the splat runs."""
    motions: tuple[str, ...] = ("orbit", "forward", "walk")
    """Synthetic motions whose dense depth is scored against the truth."""
    spoiled: Literal["no", "logo", "small moving thing", "large moving thing"] = "no"
    """Lay this over the images that the methods get; views are scored against those without it."""
    again: bool = False
    """Measure what is stored once more."""


def main(options: Options) -> None:
    """One row for each sequence and method; what is measured is on disk before the next method starts."""
    stored = StoredRows(options.output_dir / "rows")
    sections = [depths(options, stored)] if options.motions else []
    for section in sections:
        print(section.markdown(), flush=True)
    write_report(options.output_dir, describe_machine(), sections)
    views = Section(f"Held-out views at {options.size} px, {options.seconds:.0f} s from files to field", notes=[NOTE])
    for sequence in options.sequences:
        task: Task | None = None
        for method in options.methods:
            part, settings = f"{name_of(options, sequence)}-{method}", settings_of(method, options)
            rows = None if options.again else stored.find(part, settings)
            if rows is None:
                task = task or make_task(options, sequence)
                rows = [score(task, found) for found in run_method(method, task, options)]
                stored.keep(part, settings, rows)
                print("\n".join(f"{row['sequence']}, {row['method']}: {row['psnr']} dB" for row in rows), flush=True)
            views.rows.extend(rows)
            write_report(options.output_dir, describe_machine(), [*sections, views])
    if views.rows:
        print(views.markdown(), flush=True)


def depths(options: Options, stored: StoredRows) -> Section:
    """How right dense depths are, measured or stored."""
    settings = {"motions": " ".join(options.motions)}
    rows = None if options.again else stored.find("depths", settings)
    if rows is None:
        rows = depth_section(options.motions).rows
        stored.keep("depths", settings, rows)
    return Section(DEPTH_TITLE, list(rows))


def settings_of(method: str, options: Options) -> Settings:
    """What a method's rows depend on."""
    settings = {"size": options.size, "seconds": options.seconds, "gpu": torch.cuda.is_available()}
    return settings if method != "splats" else {**settings, "steps": " ".join(map(str, options.splat_steps))}


def name_of(options: Options, sequence: str) -> str:
    """The sequence, and what was laid over it."""
    return sequence if options.spoiled == "no" else f"{sequence}, {options.spoiled}"


def make_task(options: Options, sequence: str) -> Task:
    """The sequence's own images for all pose estimators, and what is scored."""
    name = name_of(options, sequence)
    folder = options.output_dir / re.sub(r"\W+", "_", name) / time.strftime("%Y%m%d-%H%M%S")
    folder = folder.absolute()
    recorded = load_sequence(options.data, sequence)
    frames = recorded.frames
    truth = shrunk(frames, options.size)
    given = recorded if options.spoiled == "no" else harder(recorded, options.spoiled, folder / "spoiled")
    return Task(
        name=name,
        source=given.link_images(folder / frames.name / "images"),
        images=write_pictures(folder / "small", shrunk(given.frames, options.size)),
        frames=list(truth),
        held_out=held_out_frames(len(frames)),
        folder=folder,
        seconds=options.seconds,
    )


def shrunk(frames: Frames, size: int) -> UInt8[np.ndarray, "frames h w 3"]:
    """All pictures with a long side of at most `size` px."""
    shared = SharedFrames(frames)
    return shared.images(*shared.size_within(size))


def run_method(method: str, task: Task, options: Options) -> list[Views]:
    """What one method (or what comes with it) made of a sequence."""
    if method == "ours":
        return ours(task)
    if method == "nerfacto":
        return nerfacto(task)
    return [v for steps in options.splat_steps for v in splats(task, steps)] if torch.cuda.is_available() else []


def score(task: Task, views: Views) -> Row:
    """Mean scores of one method, and its pictures beside the truth on disk."""
    scores = ImageScores()
    each: list[dict[str, float]] = []
    folder = task.folder / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in views.pictures.items():
        truth = views.truths.get(i, task.frames[i])
        each.append(scores(_unit(picture), _unit(truth)))
        name = views.method.split(" (")[0].replace(" ", "_").replace(",", "").replace("'", "")
        write_picture(folder / f"{name}_{i:03}.png", np.concatenate([truth, picture], axis=1))
    means = {key: float(np.mean([one[key] for one in each])) if each else None for key in ("psnr", "ssim", "lpips")}
    return {
        "sequence": task.name,
        "method": views.method + (f": {views.problem}" if views.problem else ""),
        "frames": f"{len(each)}/{len(task.held_out)}",
        **means,
        "seconds": views.seconds and round(views.seconds),
        "s per view": views.view_seconds,
    }


def _unit(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).float() / 255


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
