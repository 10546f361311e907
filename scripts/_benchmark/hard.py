"""The recorded sequences made harder, in ways that people's videos are: few frames a second, pictures cut out of larger
ones, short pieces. The truth is known as well as that of the whole sequence.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from _benchmark.sequences import RecordedSequence

THIRD = 3
CUT = 0.2
"""Share of the long side that is cut away, so that the lens no longer looks through the middle of the picture."""
VARIANTS = ("every third frame", "one side cut off", "first third", "middle third")


def harder(sequence: RecordedSequence, variant: str, folder: Path) -> RecordedSequence:
    """The sequence made harder; images that are not files yet are written into `folder`."""
    if variant == "one side cut off":
        return _cut(sequence, folder)
    count = len(sequence.files)
    start, stop, step = {
        "every third frame": (0, count, THIRD),
        "first third": (0, count // THIRD, 1),
        "middle third": (count // THIRD, 2 * (count // THIRD), 1),
    }[variant]
    kept = list(range(start, stop, step))
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
    folder.mkdir(parents=True)
    files = [folder / f"{index:06}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        cv2.imwrite(str(file), image[..., ::-1])
    # The upper left corner stays, so the principal point stays at the same pixel.
    camera = None if truth.camera is None else replace(truth.camera, width=width, height=height)
    return RecordedSequence(
        f"{sequence.name}, one side cut off",
        replace(frames, images=images, masks=None, ground_truth=replace(truth, camera=camera)),
        files,
    )
