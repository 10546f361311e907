"""From a video's flow to the measurements of the solver: which pairs of frames, at which points."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from flowcam_ns.alignment.lens import centred_pixels
from flowcam_ns.alignment.problem import FlowProblem
from flowcam_ns.flow.store import FlowStore

Pair = tuple[int, int]

REACH = 0.22
"""How far (share of the long side) the picture may move between two frames for their flow to be worth computing."""
LEVELS = (2, 4, 8, 16, 32)
"""Frame distances tried beyond the neighbour, as far as `REACH` allows."""
WANTED_GAPS = 2
"""How many distances each frame gets: where the camera is slow the longer ones replace the shorter."""
BEST_NOISE, WORST_NOISE, WORTHLESS = 0.12, 1.02, 0.05
"""Standard deviation of flow (px of a 512 px image) at full and at no confidence; below `WORTHLESS` it is not used."""
AT_ONCE = 128
"""Pairs whose dense flow is in memory together."""
COARSE_SHARE, COARSE_POINTS = 4, 16000
"""Neighbouring flow vectors err together: one of so many points tells the cameras about as much as all do. A short
video uses more, up to so many in all its frames: there they cost little."""
GUESSED = 0.051
"""Weight that flow keeps where nothing of it was seen: still trustworthy to those who ask whether it is there at all
(`TRUSTED`, .05 at most)."""
GOOD = 0.3
"""Confidence from which a flow vector counts as measured."""


def neighbour_motion(
    store: FlowStore, points: Float32[np.ndarray, "frames points 2"], progress: Callable[[int, int], None] | None = None
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Median apparent motion (share of the long side) and share of trustworthy flow, for each pair of neighbours."""
    pairs = [(i, i + 1) for i in range(len(store) - 1)]
    store.compute(pairs, progress)
    targets, confidence = store.sample(pairs, points)
    length = np.linalg.norm(targets - points[:-1], axis=-1) / max(store.width, store.height)
    good = confidence > GOOD
    motion = np.array([np.median(row[ok]) if ok.any() else np.inf for row, ok in zip(length, good, strict=True)])
    return motion, good.mean(axis=1)


def travelled(motion: Float[np.ndarray, "steps"], unknown: float = 0.0) -> Float[np.ndarray, "frames"]:
    """How far the picture has moved up to each frame; a step of which nothing is known counts as `unknown`."""
    return np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(motion), motion, unknown))])


def choose_pairs(motion: Float[np.ndarray, "steps"], every: int = 1) -> list[Pair]:
    """Frame pairs (i < j) whose flow is worth having: every neighbour, and of one in `every` frames longer ones as far
    as the motion allows.
    """
    frames = len(motion) + 1
    way = travelled(motion, unknown=10 * REACH)
    pairs = [(i, i + 1) for i in range(frames - 1)]
    for i in range(0, frames, every):
        reachable = [g for g in LEVELS if i + g < frames and way[i + g] - way[i] <= REACH]
        # The longest distances carry the most parallax; the shortest ones add little where motion is slow.
        pairs += [(i, i + g) for g in reachable[-(WANTED_GAPS - 1) :]]
    return pairs


@dataclass(frozen=True)
class Measurements:
    """Flow at points, for pairs of frames (both directions of a pair stand apart)."""

    pairs: list[Pair]
    targets: Float32[np.ndarray, "pairs points 2"]
    confidence: Float32[np.ndarray, "pairs points"]

    def __add__(self, other: Measurements) -> Measurements:
        """Both together."""
        return Measurements(
            self.pairs + other.pairs,
            np.concatenate([self.targets, other.targets]),
            np.concatenate([self.confidence, other.confidence]),
        )

    def without(self, pairs: Collection[Pair]) -> Measurements:
        """All but some pairs."""
        if not pairs:
            return self
        kept = [row for row, pair in enumerate(self.pairs) if pair not in pairs]
        return Measurements([self.pairs[row] for row in kept], self.targets[kept], self.confidence[kept])


def measure_pairs(
    store: FlowStore,
    points: Float32[np.ndarray, "frames points 2"],
    pairs: Sequence[Pair],
    progress: Callable[[int, int], None] | None = None,
) -> Measurements:
    """Compute the flow of `pairs` and sample it, both ways, at every frame's points.

    A few pairs at a time, along the video: dense flow is let go of before the next ones are computed, and none is
    needed a second time.
    """
    ordered, directed = sorted(pairs), list[Pair]()
    sampled = []
    for start in range(0, len(ordered), AT_ONCE):
        part = ordered[start : start + AT_ONCE]
        if progress is None:
            store.compute(part)
        else:
            store.compute(part, lambda done, _, before=start: progress(before + done, len(ordered)))
        both_ways = [*part, *((j, i) for i, j in part)]
        directed += both_ways
        sampled.append(store.sample(both_ways, points))
    targets, confidence = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
    return Measurements(directed, targets, confidence)


def flow_weight(confidence: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Weight of a flow vector, from its confidence: proportional to 1 / variance, 1 at full confidence.

    Against true poses the error's standard deviation grows evenly from 0.12 px at confidence 1 to 1 px at 0.
    """
    sigma = WORST_NOISE - (WORST_NOISE - BEST_NOISE) * confidence
    return np.where(confidence > WORTHLESS, (BEST_NOISE / sigma) ** 2, 0).astype(np.float32)


def build_problem(
    store: FlowStore,
    points: Float32[np.ndarray, "frames points 2"],
    measured: Measurements,
    dtype: torch.dtype = torch.float32,
) -> FlowProblem:
    """Lay measurements out for the solver: one row a frame, as many slots as the busiest frame has pairs."""
    frames, count, _ = points.shape
    degree = np.bincount([i for i, _ in measured.pairs], minlength=frames)
    slots = max(int(degree.max()), 1)
    neighbours = np.repeat(np.arange(frames)[:, None], slots, axis=1)
    targets = np.repeat(points[:, None], slots, axis=1)
    weights = np.zeros((frames, slots, count), np.float32)
    used = np.zeros(frames, np.int64)
    order = sorted(range(len(measured.pairs)), key=measured.pairs.__getitem__)
    for row in order:
        i, j = measured.pairs[row]
        slot = used[i]
        used[i] += 1
        neighbours[i, slot] = j
        targets[i, slot], weights[i, slot] = measured.targets[row], flow_weight(measured.confidence[row])
    return FlowProblem(
        sources=torch.arange(frames),
        points=centred_points(points, store, dtype),
        neighbours=torch.as_tensor(neighbours),
        targets=centred_points(targets, store, dtype),
        confidence=torch.as_tensor(weights).to(dtype),
    )


def where_seen(problem: FlowProblem, texture: Float32[np.ndarray, "rows points"]) -> FlowProblem:
    """The same flow, of which what was guessed from its surroundings counts for less (`FlowStore.texture`).

    For the search for poses: plain parts of a picture err together, and where there is little parallax they may lead to
    a wrong valley. Once poses are about right a robust kernel deals with those of them that are wrong.
    """
    weight = problem.confidence
    seen = weight * torch.from_numpy(texture).to(weight)[:, None]
    return replace(problem, confidence=torch.maximum(seen, weight.clamp(max=GUESSED)))


def few_points(points: int, frames: int) -> Int[torch.Tensor, "few"]:
    """Indices of the points from which cameras are solved, spread at random but the same each time."""
    kept = max(points // COARSE_SHARE, min(points, COARSE_POINTS // frames))
    return torch.randperm(points, generator=torch.Generator().manual_seed(0))[:kept].sort().values


def centred_points(pixels: np.ndarray, store: FlowStore, dtype: torch.dtype) -> torch.Tensor:
    """Pixels as the solver wants them: centred, coordinates before points."""
    centred = centred_pixels(torch.as_tensor(pixels).to(dtype), store.width, store.height)
    return centred.transpose(-1, -2).contiguous()
