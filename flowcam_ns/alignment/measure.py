"""From a video's flow to the measurements of the solver: which pairs of frames, at which points."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32

from flowcam_ns.alignment.lens import centred_pixels
from flowcam_ns.alignment.problem import FlowProblem
from flowcam_ns.flow.store import FlowStore

Pair = tuple[int, int]

REACH = 0.22
"""How far (share of the long side) the picture may move between two frames for their flow to be worth computing."""
LEVELS = (2, 4, 8, 16, 32)
"""Frame distances tried beyond the neighbour, as far as `REACH` allows."""
WANTED_GAPS = 4
"""How many distances each frame gets: where the camera is slow the longer ones replace the shorter."""
GOOD = 0.3
"""Confidence from which a flow vector counts as measured."""


def neighbour_motion(
    store: FlowStore, points: Float32[np.ndarray, "frames points 2"], progress: Callable[[int, int], None] | None = None
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Median apparent motion (share of the long side) and share of trustworthy flow, for each step between neighbours."""
    pairs = [(i, i + 1) for i in range(len(store) - 1)]
    store.compute(pairs, progress)
    targets, confidence = store.sample(pairs, points)
    length = np.linalg.norm(targets - points[:-1], axis=-1) / max(store.width, store.height)
    good = confidence > GOOD
    motion = np.array([np.median(row[ok]) if ok.any() else np.inf for row, ok in zip(length, good, strict=True)])
    return motion, good.mean(axis=1)


def choose_pairs(motion: Float[np.ndarray, "steps"]) -> list[Pair]:
    """Frame pairs (i < j) whose flow is worth having: every neighbour, and longer ones as far as the motion allows."""
    frames = len(motion) + 1
    travelled = np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(motion), motion, 10 * REACH))])
    pairs = [(i, i + 1) for i in range(frames - 1)]
    for i in range(frames):
        reachable = [g for g in LEVELS if i + g < frames and travelled[i + g] - travelled[i] <= REACH]
        # The longest distances carry the most parallax; the shortest ones add little where motion is slow.
        pairs += [(i, i + g) for g in reachable[-(WANTED_GAPS - 1) :]]
    return pairs


def build_problem(
    store: FlowStore,
    points: Float32[np.ndarray, "frames points 2"],
    pairs: Sequence[Pair],
    dtype: torch.dtype = torch.float32,
) -> FlowProblem:
    """Sample the flow of `pairs`, both ways, at every frame's points."""
    frames, count, _ = points.shape
    directed = sorted([(i, j) for i, j in pairs] + [(j, i) for i, j in pairs])
    targets, confidence = store.sample(directed, points)
    degree = np.bincount([i for i, _ in directed], minlength=frames)
    slots = max(int(degree.max()), 1)
    neighbours = np.repeat(np.arange(frames)[:, None], slots, axis=1)
    all_targets = np.repeat(points[:, None], slots, axis=1)
    all_confidence = np.zeros((frames, slots, count), np.float32)
    used = np.zeros(frames, np.int64)
    for row, (i, j) in enumerate(directed):
        slot = used[i]
        used[i] += 1
        neighbours[i, slot] = j
        all_targets[i, slot], all_confidence[i, slot] = targets[row], confidence[row]
    return FlowProblem(
        sources=torch.arange(frames),
        points=_centred(points, store, dtype),
        neighbours=torch.as_tensor(neighbours),
        targets=_centred(all_targets, store, dtype),
        confidence=torch.as_tensor(all_confidence).to(dtype),
    )


def _centred(pixels: np.ndarray, store: FlowStore, dtype: torch.dtype) -> torch.Tensor:
    centred = centred_pixels(torch.as_tensor(pixels).to(dtype), store.width, store.height)
    return centred.transpose(-1, -2).contiguous()
