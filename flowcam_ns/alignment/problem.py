"""The measurements and the unknowns of the flow bundle adjustment, laid out as dense tensors.

Every *row* is a source frame with `points` pixels, and has up to `slots` *targets*: the frames that its flow leads to.
The layout [rows, slots, 2, points] keeps all the arithmetic in large batched operations, and every inverse depth in one
row, which is what makes its elimination (the Schur complement) a batched matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class FlowProblem:
    """Flow measurements. Pixels are centred: relative to the image's middle, in units of its long side."""

    sources: Int[Tensor, "rows"]
    """Index of each row's frame."""
    points: Float[Tensor, "rows 2 points"]
    neighbours: Int[Tensor, "rows slots"]
    """Index of the target frame in each slot; the source itself where the slot is empty."""
    targets: Float[Tensor, "rows slots 2 points"]
    """Where the flow takes each point."""
    confidence: Float[Tensor, "rows slots points"]
    """Weight in [0, 1] of each measurement, proportional to 1 / variance; 0 in empty slots."""

    def rows(self, which: Int[Tensor, "chosen"], slots: Int[Tensor, "chosen few"] | None = None) -> FlowProblem:
        """The measurements of some rows alone, and of some slots of each."""
        problem = FlowProblem(
            self.sources[which], self.points[which], self.neighbours[which], self.targets[which], self.confidence[which]
        )
        if slots is None:
            return problem
        row = torch.arange(len(which), device=which.device)[:, None]
        return FlowProblem(
            problem.sources,
            problem.points,
            problem.neighbours[row, slots],
            problem.targets[row, slots],
            problem.confidence[row, slots],
        )

    def part(self, rows: slice, slots: int) -> FlowProblem:
        """Neighbouring rows and their first slots alone; nothing is copied."""
        return FlowProblem(
            self.sources[rows],
            self.points[rows],
            self.neighbours[rows, :slots],
            self.targets[rows, :slots],
            self.confidence[rows, :slots],
        )

    def slots_used(self) -> Int[Tensor, "rows"]:
        """Up to which of its slots each row has a target."""
        used = self.neighbours != self.sources[:, None]
        return (used * torch.arange(1, used.shape[1] + 1, device=used.device)).amax(1)

    def weight(self) -> Float[Tensor, "rows slots points"]:
        """Confidence of what was measured; 0 in empty slots, whatever stands there."""
        return self.confidence * (self.neighbours != self.sources[:, None])[..., None]

    def window(self, start: int, stop: int) -> FlowProblem:
        """The problem of the frames [start, stop) alone, renumbered from 0, for a problem with one row a frame."""
        frames = torch.arange(start, stop, device=self.sources.device)
        return self.rows(frames).renumbered(frames)

    def renumbered(self, frames: Int[Tensor, "few"]) -> FlowProblem:
        """The same rows with the poses renumbered: frame `frames[k]` becomes k. All sources must be among `frames`;
        flow into other frames is left out, and the slots move together.
        """
        place = torch.full((int(torch.cat([frames, self.neighbours.flatten()]).max()) + 1,), -1, device=frames.device)
        place[frames] = torch.arange(len(frames), device=frames.device)
        sources, neighbours = place[self.sources], place[self.neighbours]
        known = neighbours >= 0
        neighbours = torch.where(known, neighbours, sources[:, None])
        compact = FlowProblem(sources, self.points, neighbours, self.targets, self.confidence * known[..., None])
        used = known & (neighbours != sources[:, None])
        order = torch.argsort((~used).byte(), dim=1, stable=True)[:, : max(1, int(used.sum(1).max()))]
        return compact.rows(torch.arange(len(sources), device=order.device), order)

    def with_rows(self, other: FlowProblem) -> FlowProblem:
        """The rows of both, with as many slots as either needs; both speak of the same poses, with as many points."""
        slots = max(self.neighbours.shape[1], other.neighbours.shape[1])
        a, b = self._with_slots(slots), other._with_slots(slots)
        return FlowProblem(
            torch.cat([a.sources, b.sources]),
            torch.cat([a.points, b.points]),
            torch.cat([a.neighbours, b.neighbours]),
            torch.cat([a.targets, b.targets]),
            torch.cat([a.confidence, b.confidence]),
        )

    def _with_slots(self, slots: int) -> FlowProblem:
        rows, have, _, points = self.targets.shape
        neighbours = self.sources[:, None].expand(rows, slots).clone()
        neighbours[:, :have] = self.neighbours
        targets = self.targets.new_zeros(rows, slots, 2, points)
        targets[:, :have] = self.targets
        confidence = self.confidence.new_zeros(rows, slots, points)
        confidence[:, :have] = self.confidence
        return FlowProblem(self.sources, self.points, neighbours, targets, confidence)

    def thinned(self, keep: Int[Tensor, "few"]) -> FlowProblem:
        """The same problem with some of the points of every row."""
        return FlowProblem(
            self.sources, self.points[..., keep], self.neighbours, self.targets[..., keep], self.confidence[..., keep]
        )


@dataclass(frozen=True)
class FlowState:
    """The unknowns: OpenCV camera-to-world poses, inverse depths (1/z) of every row's points, and the lens."""

    c2w: Float[Tensor, "frames 4 4"]
    inverse_depth: Float[Tensor, "rows points"]
    lens: Float[Tensor, "lens"]

    def window(self, start: int, stop: int) -> FlowState:
        """The unknowns of the frames [start, stop), for a problem with one row a frame."""
        return FlowState(self.c2w[start:stop], self.inverse_depth[start:stop], self.lens)


@dataclass(frozen=True)
class Free:
    """Which unknowns a solve may change."""

    poses: Bool[Tensor, "frames"]
    depths: Bool[Tensor, "rows"]
    lens: Bool[Tensor, "lens"]


@dataclass(frozen=True)
class Solved:
    """A solution, and what it was solved from."""

    problem: FlowProblem
    """The flow at all points, one row a frame."""
    state: FlowState
    """Poses, lens and the depths of those points."""
    cameras: FlowProblem
    """The measurements that poses and lens were solved from: flow at few points, and features."""
    cameras_state: FlowState
    """Poses, lens and the depths of those."""
