"""The recorded sequences made harder, in ways that people's videos are: few frames a second, pictures cut out of larger
ones, short pieces, night, action cameras, poor compression, a logo, something that moves. The truth is known as well as
that of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from _benchmark.pictures import write_pictures
from _benchmark.sequences import RecordedSequence
from _benchmark.spoiled import (
    Pictures,
    Spoiled,
    compressed,
    crossed_by_thing,
    cut,
    dark,
    through_barrel,
    with_logo,
)
from flowcam_ns.geometry.camera import Camera

THIRD = 3
SMALL_THING, LARGE_THING = 0.05, 0.12
"""Shares of the picture that something of its own motion takes up."""
Variant = Literal[
    "every third frame",
    "one side cut off",
    "first third",
    "middle third",
    "every fourth frame",
    "every third frame backwards",
    "dark",
    "action camera",
    "compressed",
    "logo",
    "small moving thing",
    "large moving thing",
]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
SPOILED: dict[Variant, Callable[[Pictures, Camera | None], Spoiled]] = {
    "one side cut off": cut,
    "dark": dark,
    "action camera": through_barrel,
    "compressed": compressed,
    "logo": with_logo,
    "small moving thing": partial(crossed_by_thing, SMALL_THING),
    "large moving thing": partial(crossed_by_thing, LARGE_THING),
}
"""Versions with other pictures; the others have fewer frames, or another order of them."""


def harder(sequence: RecordedSequence, variant: Variant, folder: Path) -> RecordedSequence:
    """The sequence made harder; images that are not files yet are written into `folder`."""
    if variant in SPOILED:
        return _spoiled(sequence, variant, folder)
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


def _spoiled(sequence: RecordedSequence, variant: Variant, folder: Path) -> RecordedSequence:
    """All frames, their pictures changed."""
    frames, truth = sequence.frames, sequence.truth
    images, camera = SPOILED[variant](frames.images, truth.camera)
    return RecordedSequence(
        f"{sequence.name}, {variant}",
        replace(frames, images=images, masks=None, ground_truth=replace(truth, camera=camera)),
        sorted(write_pictures(folder, images).iterdir()),
    )
