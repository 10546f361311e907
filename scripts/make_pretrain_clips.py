"""Film a folder of procedural clips for `ns-train flowcam-pretrain --data FOLDER`: images, true poses and lens."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rich.progress import track

from flowcam_ns.data.pretrain_synthetic import synthetic_frames
from flowcam_ns.errors import FlowCamError
from flowcam_ns.formats.atomic import write_json
from flowcam_ns.formats.transforms_json import PosedFrame, transforms_dict
from flowcam_ns.video.write import write_images


@dataclass
class MakePretrainClips:
    """Film a folder of procedural clips; those that are there already are kept."""

    output_dir: Path
    """Folder to write into: one dataset folder (images/, transforms.json) a clip."""
    count: int = 300
    """How many clips."""
    first: int = 0
    """Number of the first clip; every number is a scene of its own."""
    frames: int = 24
    """Frames of each clip."""
    width: int = 192
    """Width in px, even; the long side of clutter, which comes in any shape."""
    height: int = 108
    """Height in px, even, of the tidy scenes (every fourth clip)."""
    processes: int = 1
    """Clips that are filmed at once."""


def film(options: MakePretrainClips, number: int) -> None:
    """Write one clip, its transforms.json last: a folder that has one is whole."""
    folder = options.output_dir / f"clip_{number:05d}"
    if (folder / "transforms.json").exists():
        return
    frames = synthetic_frames(number, options.frames, options.width, options.height)
    images = write_images(frames, folder / "images")
    truth = frames.ground_truth
    assert truth is not None
    assert truth.camera is not None
    posed = [
        PosedFrame(path.relative_to(folder).as_posix(), c2w, source, float(time))
        for path, c2w, source, time in zip(images, truth.c2w, frames.sources, frames.timestamps, strict=True)
    ]
    write_json(folder / "transforms.json", transforms_dict(truth.camera, posed))


def main(options: MakePretrainClips) -> None:
    """Film all clips."""
    numbers = range(options.first, options.first + options.count)
    one = partial(film, options)
    if options.processes > 1:
        with ProcessPoolExecutor(options.processes) as pool:
            done = pool.map(one, numbers)
            for _ in track(done, "Filming", total=options.count):
                pass
    else:
        for number in track(numbers, "Filming"):
            one(number)
    print(f"{options.count} clips of {options.frames} frames are in {options.output_dir}")


if __name__ == "__main__":
    try:
        main(tyro.cli(MakePretrainClips, description=MakePretrainClips.__doc__))
    except FlowCamError as error:
        raise SystemExit(str(error)) from None
