"""Thinning: which frames to keep, by motion and blur. Deterministic: the same measurements give the same frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from flowcam_ns.video.motion import typical_length

# All motions are shares of the picture's long side.
STILL = 0.001
"""Less motion than this since the last kept frame tells nothing about the camera."""
TARGET_STEP = 0.015
"""Motion between kept frames where there are more than the budget allows; real steps reach about twice this."""
LONGEST_STEP = 0.06
"""What optical flow still bridges."""
BLUR_REACH = 0.04
"""How far away a sharper stand-in may be."""
FEWEST = 60
"""A long video that moves little is thinned to about this many frames, not to a handful."""
STILL_CLIP_FRAMES = 8
"""What is left of a clip in which nothing moves at all: enough for the pose stage to see and name that."""

BLURRED = 0.5
"""A frame is blurred where its sharpness falls below this share of its neighbours' on both sides."""
BLUR_WINDOW = 5
CLEARLY_SHARPER = 1.25


@dataclass(frozen=True)
class Selection:
    """The kept frames, by their position among all."""

    indices: list[int]
    warnings: list[str]


def select_frames(
    displacement: Float32[np.ndarray, "frames cells 2"], sharpness: Float32[np.ndarray, "frames"], budget: int
) -> Selection:
    """Choose at most `budget` frames so that the picture moves evenly and little enough for optical flow.

    Args:
        displacement: where the picture has moved since the first frame, as a share of its long side.
        sharpness: variance of the Laplacian.
        budget: with no more frames than this, only motionless and badly blurred ones go.
    """
    count = len(sharpness)
    blurred = blurred_frames(sharpness)
    warnings = []
    if count <= budget:
        kept = _walk(displacement, sharpness, blurred, STILL)
    else:
        kept, step = _walk_within(displacement, sharpness, blurred, budget)
        if step > LONGEST_STEP:
            warnings.append(
                f"{budget} frames are few for so much motion (about {100 * step:.0f} % of the width from one to the "
                "next): raise max-frames or read a shorter part (start, end)."
            )
    if len(kept) < 2:
        kept = evenly_spaced(count, min(budget, STILL_CLIP_FRAMES))
    return Selection(kept, warnings)


def evenly_spaced(count: int, budget: int) -> list[int]:
    """At most `budget` of `count` frames, evenly in number, with the first and the last."""
    return np.linspace(0, count - 1, min(count, budget)).round().astype(int).tolist()


def blurred_frames(sharpness: Float32[np.ndarray, "frames"]) -> Bool[np.ndarray, "frames"]:
    """Frames much less sharp than the ones before and after them (a blank wall entered slowly is not blur)."""
    blurred = np.zeros(len(sharpness), bool)
    for i, value in enumerate(sharpness):
        sides = [sharpness[max(0, i - BLUR_WINDOW) : i], sharpness[i + 1 : i + 1 + BLUR_WINDOW]]
        blurred[i] = value < BLURRED * min((float(np.median(side)) for side in sides if len(side)), default=0.0)
    return blurred


def _walk_within(
    displacement: np.ndarray, sharpness: np.ndarray, blurred: np.ndarray, budget: int
) -> tuple[list[int], float]:
    """Walk with the step nearest to TARGET_STEP that needs neither more than `budget` nor fewer than FEWEST frames."""
    step = TARGET_STEP
    kept = _walk(displacement, sharpness, blurred, step)
    while len(kept) < min(FEWEST, budget) and step > STILL:
        smaller = max(STILL, 0.8 * step)
        more = _walk(displacement, sharpness, blurred, smaller)
        if len(more) > budget:
            return kept, step
        kept, step = more, smaller
    while len(kept) > budget and step < 1.0:
        # The square root: back-and-forth motion loses frames faster than in proportion to the step.
        step *= max(1.03, math.sqrt(len(kept) / budget))
        kept = _walk(displacement, sharpness, blurred, step)
    if len(kept) > budget:
        kept = [kept[i] for i in evenly_spaced(len(kept), budget)]
    return kept, step


def _walk(displacement: np.ndarray, sharpness: np.ndarray, blurred: np.ndarray, step: float) -> list[int]:
    """From frame to frame, each at least `step` from the last one kept, without overshooting what flow can bridge."""
    count = len(sharpness)
    kept = [_first(displacement, blurred)]
    window = 32
    while kept[-1] < count - 1:
        last = kept[-1]
        ahead = typical_length(displacement[last + 1 : last + 1 + window] - displacement[last])
        reached = np.flatnonzero(ahead >= step)
        if len(reached) == 0:
            if last + 1 + window >= count:
                break
            window *= 2
            continue
        window = 32
        chosen = int(reached[0])
        if ahead[chosen] > max(LONGEST_STEP, step) and chosen > 0:
            chosen -= 1
        kept.append(last + 1 + _sharper(ahead, sharpness[last + 1 :], blurred[last + 1 :], chosen, step))
    return kept


def _first(displacement: np.ndarray, blurred: np.ndarray) -> int:
    """The first frame, or the first one near it that is not blurred."""
    sharp = np.flatnonzero(~blurred)
    if len(sharp) == 0 or typical_length(displacement[sharp[0]] - displacement[0]) > BLUR_REACH:
        return 0
    return int(sharp[0])


def _sharper(ahead: np.ndarray, sharpness: np.ndarray, blurred: np.ndarray, chosen: int, step: float) -> int:
    """A stand-in near `chosen` if that is blurred, or if another one at about the same motion is clearly sharper."""
    far = max(1.3 * step, BLUR_REACH) if blurred[chosen] else 1.3 * step
    too_far = np.flatnonzero(ahead[chosen:] > far)
    end = chosen + int(too_far[0]) if len(too_far) else len(ahead)
    near = np.arange(end)[ahead[:end] >= 0.7 * step]
    if blurred[chosen]:
        good = near[~blurred[near]]
        return int(good[np.argmin(np.abs(good - chosen))]) if len(good) else chosen
    if len(near) == 0:
        return chosen
    best = int(near[np.argmax(sharpness[near])])
    return best if sharpness[best] > CLEARLY_SHARPER * sharpness[chosen] else chosen
