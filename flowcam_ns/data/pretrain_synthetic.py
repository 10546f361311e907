"""An endless supply of procedural clips: number k is always the same one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flowcam_ns.errors import FlowCamError
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.clutter import clutter_clip
from flowcam_ns.video.frames import Frames

MOTIONS = ("orbit", "forward", "sideways", "walk", "turn", "walk", "orbit", "long_walk")
"""What clips 0, 1, 2, ... show, over and over."""
FIRST_SEED = 10_000
"""Seeds of scenes from here on: the project's own figures and tests stand on smaller ones."""
CLUTTER_EVERY = 4
TRIES = 8


def synthetic_frames(number: int, frames: int = 24, width: int = 192, height: int = 108) -> Frames:
    """Procedural clip `number`: a piece of a motion at a random place, with its true poses and lens.

    Every number is a scene of its own. Three in four are clutter, of any shape with a long side of `width`; the others
    are `width` x `height` and show the tidy scenes, whose room motions run at one to two times their normal speed.
    """
    if number % CLUTTER_EVERY:
        return _clutter(number, frames, width)
    number //= CLUTTER_EVERY
    motion = MOTIONS[number % len(MOTIONS)]
    random = np.random.default_rng([number, 9])
    speed = int(random.integers(1, 3)) if motion != "long_walk" else 1
    for attempt in range(TRIES):
        try:
            clip = make_clip(
                motion,
                FIRST_SEED + TRIES * number + attempt,
                min(frames * speed, 60) if speed > 1 else frames,
                width,
                height,
                start=float(random.uniform(0, 0.7)),
            )
        except FlowCamError:
            continue  # this scene leaves no room for the motion
        whole = clip.to_frames()
        kept = slice(0, frames * speed, speed)
        assert whole.ground_truth is not None
        truth = replace(whole.ground_truth, c2w=whole.ground_truth.c2w[kept])
        return replace(
            whole,
            images=whole.images[kept],
            sources=whole.sources[kept],
            timestamps=whole.timestamps[kept],
            name=f"synthetic_{number:05d}_{motion}",
            ground_truth=truth,
        )
    raise FlowCamError(f"no scene for the procedural clip {number} was found")


def _clutter(number: int, frames: int, long_side: int) -> Frames:
    for attempt in range(TRIES):
        try:
            clip = clutter_clip(FIRST_SEED + TRIES * number + attempt, frames, long_side)
        except FlowCamError:
            continue
        return replace(clip.to_frames(), name=f"synthetic_{number:05d}_clutter")
    raise FlowCamError(f"no scene for the procedural clip {number} was found")
