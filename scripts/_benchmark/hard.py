"""The recorded sequences made harder, in ways that people's videos are: few frames a second, pictures cut out of larger
ones, short pieces, night. The truth is known as well as that of the whole sequence.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from _benchmark.pictures import write_pictures
from _benchmark.sequences import RecordedSequence

THIRD = 3
CUT = 0.2
"""Share of the long side that is cut away, so that the lens no longer looks through the middle of the picture."""
DARK = 0.15
"""Share of the brightness that is left of a video taken at night; eight bits keep little of it."""
Variant = Literal[
    "every third frame",
    "one side cut off",
    "first third",
    "middle third",
    "every fourth frame",
    "every third frame backwards",
    "dark",
]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def harder(sequence: RecordedSequence, variant: Variant, folder: Path) -> RecordedSequence:
    """The sequence made harder; images that are not files yet are written into `folder`."""
    if variant == "one side cut off":
        return _cut(sequence, folder)
    if variant == "dark":
        return _darkened(sequence, folder)
    everything = list(range(len(sequence.files)))
    third = len(everything) // THIRD
    kept = {
        "every third frame": everything[::THIRD],
        "first third": everything[:third],
        "middle third": everything[third : 2 * third],
        "every fourth frame": everything[:: THIRD + 1],
        "every third frame backwards": everything[::-THIRD],
    }[variant]
    frames, truth = sequence.frames, sequence.truth
    return RecordedSequence(
        f"{sequence.name}, {variant}",
        replace(
            frames,
            images=frames.images[kept],
            sources=[frames.sources[i] for i in kept],
            timestamps=frames.timestamps[kept],
            masks=None,
            ground_truth=replace(truth, c2w=truth.c2w[kept]),
        ),
        [sequence.files[i] for i in kept],
    )


def _cut(sequence: RecordedSequence, folder: Path) -> RecordedSequence:
    """Without the right side of wide pictures, the lower of tall ones."""
    frames, truth = sequence.frames, sequence.truth
    height, width = frames.images.shape[1:3]
    if width >= height:
        width = int(width * (1 - CUT)) // 2 * 2
    else:
        height = int(height * (1 - CUT)) // 2 * 2
    images = np.ascontiguousarray(frames.images[:, :height, :width])
    # The upper left corner stays, so the principal point stays at the same pixel.
    camera = None if truth.camera is None else replace(truth.camera, width=width, height=height)
    return RecordedSequence(
        f"{sequence.name}, one side cut off",
        replace(frames, images=images, masks=None, ground_truth=replace(truth, camera=camera)),
        _written(images, folder),
    )


def _darkened(sequence: RecordedSequence, folder: Path) -> RecordedSequence:
    images = np.stack([(image * DARK).round().astype(np.uint8) for image in sequence.frames.images])
    frames = replace(sequence.frames, images=images, masks=None)
    return RecordedSequence(f"{sequence.name}, dark", frames, _written(images, folder))


def _written(images: UInt8[np.ndarray, "frames height width 3"], folder: Path) -> list[Path]:
    """The images as files of a new folder, in their order."""
    return sorted(write_pictures(folder, images).iterdir())
