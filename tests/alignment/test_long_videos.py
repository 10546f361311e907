"""What keeps time and memory in proportion to the frames: flow asked for once, overlap only where frames meet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcam_ns.alignment import far_pairs, measure
from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import COLUMNS
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.flow.store import FlowStore

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]
FRAMES = 40
HEIGHT, WIDTH = 32, 64


class CountedFlow:
    """Says that everything moves 1 px to the right from frame to frame, and how often it was asked."""

    name = key = "counted"
    color, max_workers, uses_initial = False, 1, False

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, first: np.ndarray, second: np.ndarray, initial: np.ndarray | None = None) -> np.ndarray:
        i, j = int(first.max()), int(second.max())
        self.asked.append((i, j))
        flow = np.zeros((*first.shape[:2], 2), np.float32)
        flow[..., 0] = j - i
        return flow


def test_flow_is_computed_once_however_little_of_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "AT_ONCE", 4)
    images = np.repeat(np.arange(FRAMES, dtype=np.uint8)[:, None, None, None], 3, axis=3)
    images = np.broadcast_to(images, (FRAMES, HEIGHT, WIDTH, 3)).copy()
    estimator = CountedFlow()
    room_for_four = 4 * 5 * 2 * (HEIGHT // 2) * (WIDTH // 2)
    store = FlowStore(images, estimator, long_side=WIDTH, workers=1, memory_bytes=room_for_four)
    points = np.full((FRAMES, 2, 2), 16.0, np.float32)
    pairs = [(i, i + gap) for gap in (1, 2, 4) for i in range(FRAMES - gap)]
    done: list[int] = []
    found = measure.measure_pairs(store, points, pairs, lambda so_far, total: done.append(so_far * 1000 + total))
    assert sorted(estimator.asked) == sorted([*pairs, *((j, i) for i, j in pairs)])
    assert sorted(found.pairs) == sorted(estimator.asked)
    for (i, j), targets in zip(found.pairs, found.targets, strict=True):
        np.testing.assert_allclose(targets, points[i] + [j - i, 0], atol=0.02)
    assert done == [1000 * (k + 1) + len(pairs) for k in range(len(pairs))]


def test_the_overlap_of_all_frames_is_found_where_few_points_meet(
    exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, state = exact_problem(frames=30, points=120)
    quick = far_pairs.overlaps(problem, state, 3)
    monkeypatch.setattr(far_pairs, "FEW", 1)
    every = far_pairs.overlaps(problem, state, 3)
    seen = every >= far_pairs.MIN_OVERLAP
    assert 3 < int(seen.sum()) < 30
    assert torch.equal(quick[seen], every[seen])
    assert float((quick - every).abs().max()) < far_pairs.MIN_OVERLAP


def test_one_busy_frame_does_not_cost_the_others(exact_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, state = exact_problem(frames=12, gaps=(1,))
    busy = exact_problem(frames=12, gaps=(1, 2, 3, 4))[0]
    wide = FlowProblem(
        problem.sources,
        problem.points,
        problem.sources[:, None].repeat(1, 8),
        busy.targets.clone(),
        torch.zeros_like(busy.confidence),
    )
    wide.neighbours[:, :2], wide.confidence[:, :2] = problem.neighbours, problem.confidence
    wide.neighbours[5], wide.confidence[5] = busy.neighbours[5], busy.confidence[5]
    monkeypatch.setattr("flowcam_ns.alignment.chunks.CHUNK_ELEMENTS", 1)
    slots = over_chunks(wide, state, lambda rows, _: rows.neighbours.shape[1])
    assert slots[5] == 8
    assert max(*slots[:5], *slots[6:]) == 2


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(1, 30))
def test_pieces_hold_all_rows_in_order_and_no_more_slots_than_fit(used: list[int], most: int) -> None:
    rows, slots, points = len(used), 8, 2
    sources = torch.arange(rows)
    neighbours = torch.where(torch.arange(slots) < torch.tensor(used)[:, None], rows, sources[:, None])
    targets = torch.zeros(rows, slots, 2, points)
    problem = FlowProblem(sources, targets[:, 0], neighbours, targets, targets[:, :, 0])
    state = FlowState(
        torch.eye(4).expand(rows + 1, 4, 4), torch.arange(rows)[:, None].expand(rows, points), torch.zeros(LENS_SIZE)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowcam_ns.alignment.chunks.CHUNK_ELEMENTS", most * COLUMNS * 2 * points)
        pieces = over_chunks(problem, state, lambda part, states: (part, states.inverse_depth))
    assert torch.cat([part.sources for part, _ in pieces]).tolist() == list(range(rows))
    assert torch.cat([depth for _, depth in pieces])[:, 0].tolist() == list(range(rows))
    for part, _ in pieces:
        assert len(part.sources) == 1 or part.confidence[..., 0].numel() <= most
        assert int((part.neighbours == rows).sum()) == sum(used[int(row)] for row in part.sources)
