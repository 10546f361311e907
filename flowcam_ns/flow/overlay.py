"""What stays at the same place of the picture while everything else moves: logos, captions, bars, a gimbal's arm.

Its flow is exact and says that nothing moves, which to a solver is the most distant thing there is: a tenth of the
picture is enough to turn all poses wrong.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from flowcam_ns.flow.texture import corner_strength

LONG_SIDE = 512
"""Pictures are looked at no larger than this."""
LOOKED_AT, FEWEST = 24, 12
"""Frames that are compared, evenly spread over the video, and how many it takes."""
WINDOW = 5
"""Side of the window of the structure tensor in px."""
PERSISTENT = 0.9
"""Share of a corner's strength that is left in the mean of all frames: .97 and more of an overlay's, .8 and less of
what lies far ahead in a drive or in the middle of an orbit."""
STRONG = 8.0
"""Least strength of such a corner in grey levels a px, the root of the structure tensor's smaller eigenvalue."""
STILL = 4.0
"""Grey levels by which an overlay varies at most, as a standard deviation: compression makes it flicker."""
REACH = 24
"""How far from its corners, in px, an overlay may have plain parts."""
SMALLEST, LARGEST = 0.0005, 0.5
"""Share of the picture that an overlay takes up: one speck says nothing, and of a still picture everything stays."""
CORNERS = 12
"""Fewest px at corners in an overlay."""
BAR_STILL = 2.0
"""Grey levels by which a bar at the picture's side varies at most, from place to place and in time."""


def find_overlay(images: UInt8[np.ndarray, "frames height width 3"]) -> Bool[np.ndarray, "height width"] | None:
    """The pixels (True) that show the same in all frames of a video that moves; None where there are none.

    A line may stay where it is while the camera moves along it (a curb in a drive), a corner may not: an overlay has
    corners in the mean of all frames that are as strong as in the frames themselves. Around them, what does not change
    belongs to it. Bars of one colour at the sides have no corners; they are told by that colour.
    """
    if len(images) < FEWEST:
        return None
    height, width = images.shape[1:3]
    chosen = np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).round().astype(int))
    stack = np.stack([_small(images[index]) for index in chosen])
    mean, spread = stack.mean(0), stack.std(0)
    found = _around_corners(stack, mean, spread) | _bars(mean, spread)
    share = float(found.mean())
    if not SMALLEST <= share <= LARGEST:
        return None
    return cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def without_overlay(
    masks: Bool[np.ndarray, "frames height width"] | None, overlay: Bool[np.ndarray, "height width"], frames: int
) -> Bool[np.ndarray, "frames height width"]:
    """Masks (True: may be used) of so many frames that leave out the overlay too; one for all where there were none."""
    return np.broadcast_to(~overlay, (frames, *overlay.shape)) if masks is None else masks & ~overlay


def _small(image: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "h w"]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    factor = min(1.0, LONG_SIDE / max(grey.shape))
    size = max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _around_corners(
    stack: Float32[np.ndarray, "frames h w"], mean: Float32[np.ndarray, "h w"], spread: Float32[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    usual = np.mean([corner_strength(image, WINDOW) for image in stack], axis=0)
    lasting = corner_strength(mean, WINDOW)
    corners = (lasting > PERSISTENT * usual) & (lasting > STRONG) & (spread < STILL)
    near = cv2.dilate(corners.astype(np.uint8), _disc(REACH))
    # Letters and their background: what lies between pixels that do not change belongs to them.
    still = cv2.morphologyEx((spread < STILL).astype(np.uint8), cv2.MORPH_CLOSE, _disc(3))
    still = cv2.bitwise_and(still, near)
    count, label = cv2.connectedComponents(still)
    label = np.asarray(label, np.int64)
    enough = np.bincount(label[corners], minlength=count) >= CORNERS
    enough[0] = False
    return enough[label]


def _bars(mean: Float32[np.ndarray, "h w"], spread: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Rows at the top and the bottom, columns at both sides, of one colour that never changes."""
    bars = np.zeros(mean.shape, bool)
    for view, means, spreads in ((bars, mean, spread), (bars.T, mean.T, spread.T)):
        plain = (spreads.max(1) < BAR_STILL) & (means.std(1) < BAR_STILL)
        view[: _run(plain)] = True
        view[len(view) - _run(plain[::-1]) :] = True
    return bars


def _run(plain: Bool[np.ndarray, "lines"]) -> int:
    """How many lines are plain before the first that is not."""
    return len(plain) if plain.all() else int(np.argmin(plain))


def _disc(radius: int) -> UInt8[np.ndarray, "side side"]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
