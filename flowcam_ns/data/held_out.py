"""Which frames are kept for scoring: they never train the field, nor lend it colour or depth."""

from __future__ import annotations

FIRST = 4
STEP = 8


def held_out_frames(count: int) -> list[int]:
    """Indices of held-out frames of a clip of `count` frames, in order.

    Every eighth frame from the fifth on, never an end frame (its field of view lies outside the trajectory). Clips too
    short for two of those hold out one or two frames from inside; of one or two frames, none can be spared.
    """
    regular = list(range(FIRST, count - 1, STEP))
    if len(regular) >= 2:
        return regular
    if count >= 6:
        return [count // 3, 2 * count // 3]
    return [count // 2] if count >= 3 else []
