"""Work over the rows of a problem in pieces that fit the processor's cache, on all its cores.

Torch's own threads split every single operation, which costs more than it saves on tensors of this size and stalls
when the machine is busy; whole pieces side by side do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import torch

from flowcam_ns.alignment.linearize import COLUMNS
from flowcam_ns.alignment.problem import FlowProblem, FlowState

CHUNK_ELEMENTS = 1_500_000
"""Numbers that the derivatives of one piece would take, written out: 6 MB in float32."""
GPU_CHUNK_ELEMENTS = 200_000_000
"""On a GPU pieces only bound the memory."""
MAX_WORKERS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def over_chunks(
    problem: FlowProblem, state: FlowState, work: Callable[[FlowProblem, FlowState], Result]
) -> list[Result]:
    """`work` on pieces of some rows each (all poses, the rows' own depths), in order.

    Slots that are empty in all rows of a piece are left out: one busy frame must not cost all the others. So rows that
    fill about as many slots had better follow each other.
    """
    rows, slots, points = problem.confidence.shape
    on_cpu = problem.points.device.type == "cpu"
    most = (CHUNK_ELEMENTS if on_cpu else GPU_CHUNK_ELEMENTS) // max(1, COLUMNS * 2 * points)
    if rows * slots <= most:
        return [work(problem, state)]

    def piece(part: tuple[slice, int]) -> Result:
        which, used = part
        return work(problem.part(which, used), replace(state, inverse_depth=state.inverse_depth[which]))

    return side_by_side(piece, list(_parts(problem.slots_used().tolist(), most)), problem.points.device)


def _parts(used: list[int], most: int) -> Iterator[tuple[slice, int]]:
    """Neighbouring rows, as many as have no more than `most` slots together, and how many slots the busiest fills."""
    first, widest = 0, 1
    for row, slots in enumerate(used):
        wider = max(widest, slots)
        if row > first and (row + 1 - first) * wider > most:
            yield slice(first, row), widest
            first, wider = row, max(1, slots)
        widest = wider
    yield slice(first, len(used)), widest


def side_by_side(work: Callable[[Item], Result], pieces: Sequence[Item], device: torch.device) -> list[Result]:
    """`work` on what `over_chunks` has made of pieces, in order: on a processor's cores at once, on a GPU in turn."""
    if device.type != "cpu" or len(pieces) == 1:
        return [work(piece) for piece in pieces]
    return list(_pool().map(work, pieces))


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Keep torch from splitting operations inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1), thread_name_prefix="solver")
