"""Where to begin: a few frames whose flow hangs together and that see the scene from clearly different places."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.problem import FlowProblem
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.video.options import MIN_FRAMES

KEYS = 8
"""Frames of the first window."""
LONGEST = 32
"""Most frames from its first to its last: flow further apart has no start to search from."""
WINDOW_SUPPORT = 0.1
"""Least share of trustworthy flow at every step of a first window (unrelated pictures match at a few points too)."""
FIRM_SUPPORT, FIRM_KEYS = 0.3, 5
"""Rather than a full window with a weaker step than this, one of fewer frames, but so many, without such a step."""
GOOD_MOTION = 0.16
"""Apparent motion over the first window (share of the long side) beyond which more is not better."""
REACH = 0.3
"""Frames of the window whose picture has moved further than this (share of the long side) are not compared."""
DISTANCES = (1, 2, 4, KEYS - 1)
"""Which of them are compared, counted in frames of the window: the far ones tell depths, the near ones hold on."""


def first_window(
    motion: Float[np.ndarray, "steps"], support: Float[np.ndarray, "steps"], limits: tuple[int, int]
) -> list[int] | None:
    """The frames to begin with, ascending: well-supported flow throughout, and enough motion for parallax.

    Where the picture moves slowly they lie apart: eight neighbours that differ by a few px have many explanations.
    Fewer than usual where no longer run of frames hangs together; None where not even `MIN_FRAMES` do.

    Args:
        motion: apparent motion between neighbours, share of the long side; infinite where unknown.
        support: share of trustworthy flow between neighbours.
        limits: the frames [low, high) among which to look.
    """
    return _window(motion, support, limits, FIRM_SUPPORT, FIRM_KEYS) or _window(
        motion, support, limits, WINDOW_SUPPORT, MIN_FRAMES
    )


def _window(
    motion: Float[np.ndarray, "steps"],
    support: Float[np.ndarray, "steps"],
    limits: tuple[int, int],
    least_support: float,
    fewest: int,
) -> list[int] | None:
    low, high = limits
    way = measure.travelled(motion)
    breaks = np.nonzero(support < least_support)[0]
    for length in range(min(KEYS, high - low), fewest - 1, -1):
        best, best_score = None, -1.0
        for first in range(low, high - length + 1):
            last = first + length - 1
            if length == KEYS:
                enough = int(np.searchsorted(way, way[first] + GOOD_MOTION))
                holds = int(breaks[breaks >= first].min(initial=high - 1))
                last = max(last, min(enough, first + LONGEST - 1, high - 1, holds))
            weakest = float(support[first:last].min())
            moved = way[last] - way[first]
            # Early windows win ties: the video's first frame is a natural origin.
            score = weakest * min(moved / GOOD_MOTION, 1.0) * (1 - 1e-3 * (first - low) / (high - low))
            if weakest >= least_support and score > best_score:
                best, best_score = (first, last), score
        if best is not None:
            return evenly_moved(way, *best, length)
    return None


def evenly_moved(travelled: Float[np.ndarray, "frames"], first: int, last: int, count: int) -> list[int]:
    """`count` frames from `first` to `last`, about equally far from each other on the way; neighbours where needed."""
    way = travelled[first : last + 1] + 1e-9 * np.arange(last - first + 1)
    wanted = np.linspace(way[0], way[-1], count)
    chosen = np.rint(np.interp(wanted, way, np.arange(len(way)))).astype(int)
    # Two may have met in one frame: each moves on to one that is free, and not so far that those after it lack room.
    for k in range(1, count):
        chosen[k] = max(chosen[k], chosen[k - 1] + 1)
    for k in range(count - 1, -1, -1):
        chosen[k] = min(chosen[k], len(way) - count + k)
    return (first + chosen).tolist()


def window_pairs(keys: list[int], motion: Float[np.ndarray, "steps"]) -> list[measure.Pair]:
    """Pairs of a window's frames that are compared."""
    way = measure.travelled(motion)
    return [
        (keys[a], keys[b])
        for a, b in combinations(range(len(keys)), 2)
        if b - a == 1 or (b - a in DISTANCES and way[keys[b]] - way[keys[a]] <= REACH)
    ]


def window_problem(
    store: FlowStore,
    points: Float[np.ndarray, "frames points 2"],
    texture: Float[np.ndarray, "frames points"],
    few: Int[torch.Tensor, "few"],
    motion: Float[np.ndarray, "steps"],
    keys: list[int],
) -> FlowProblem:
    """Flow between a window's frames, one row for each, at `few` of the points; plain places count for less."""
    measured = measure.measure_pairs(store, points, window_pairs(keys, motion))
    place = {frame: row for row, frame in enumerate(keys)}
    renumbered = measure.Measurements(
        [(place[i], place[j]) for i, j in measured.pairs], measured.targets, measured.confidence
    )
    return measure.where_seen(measure.build_problem(store, points[keys], renumbered), texture[keys]).thinned(few)
