"""What a long solve tells about itself: how far it is, how long each stage took, how many steps it made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

Progress = Callable[[str, float, "Tensor | None"], None]
"""Called with the stage's name, the share of it that is done, and the poses so far (OpenCV c2w), if there are any."""


class Stopwatch:
    """Wall-clock of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started


@dataclass
class Effort:
    """Work of a solver, as it does not depend on the machine."""

    steps: int = 0
    """Steps that were tried."""
    frame_steps: int = 0
    """The same, each times the frames that it moved."""


_COUNTING: ContextVar[Effort | None] = ContextVar("effort", default=None)


@contextmanager
def counted_effort() -> Iterator[Effort]:
    """Counts what solves inside the block, in this thread, cost."""
    token = _COUNTING.set(effort := Effort())
    try:
        yield effort
    finally:
        _COUNTING.reset(token)


def count_effort(steps: int, frames: int) -> None:
    """Tell the innermost `counted_effort` block, if there is one, of steps on so many frames."""
    if (effort := _COUNTING.get()) is not None:
        effort.steps += steps
        effort.frame_steps += steps * frames
