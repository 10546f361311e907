"""A learning rate that falls with the time that is left, however it is counted: the last steps settle what was learnt.

A run ends by its steps or by the clock, whichever comes first, so that no schedule over steps alone would fit it.
"""

from __future__ import annotations

import math

STEADY, LEAST = 0.5, 0.02
"""Share of a run before the rate begins to fall, and share of the rate that is left in the end."""


def fading_share(progress: float) -> float:
    """Share of the learning rate that counts when so much of a run (0 to 1) is done: it falls in the second half."""
    late = min(max((progress - STEADY) / (1 - STEADY), 0.0), 1.0)
    return LEAST + (1 - LEAST) * (1 + math.cos(math.pi * late)) / 2
