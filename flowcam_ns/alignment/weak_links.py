"""Links between neighbouring frames that hang on little flow, tested by features before anything is built on them.

Across a jump a tenth of the flow may agree on a wrong motion, and the frames beyond it are posed as firmly as any
others: nothing that comes later can tell, for no other flow crosses the jump. Matched features can.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.grow import INLIER, TRUSTED, Segment
from flowcam_ns.alignment.linearize import reproduced
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.resection import KnownPart, agreement, resect
from flowcam_ns.alignment.segments import segment_problem
from flowcam_ns.alignment.tie import tolerance_under
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.store import FlowStore

WEAK = 0.3
"""A link is tested where no pair of frames across it has so much of its points' flow explained."""
NEAR = 3
"""Frames on either side whose features are compared across a weak link."""
AGREE = 0.5
"""Share of the features that one pose explains which must agree with the one that flow found."""


@dataclass(frozen=True)
class LinkTester:
    """Flow and features of a whole video."""

    store: FlowStore
    features: Features
    problem: FlowProblem
    """The video's measurements, one row a frame."""

    def cut(self, segments: list[Segment]) -> list[Segment]:
        """The segments, cut at weak links that are not believed; longest first. What is cut off may be tied again by
        its features (`bridge.py`).
        """
        found = [piece for segment in segments for piece in self._cut(segment)]
        return sorted(found, key=lambda part: part.start - part.stop)

    def _cut(self, segment: Segment) -> list[Segment]:
        strength = link_strength(*segment_problem(self.problem, segment))
        weak = [segment.start + 1 + int(k) for k in torch.nonzero(strength < WEAK)[:, 0]]
        votes: dict[tuple[int, int], bool] = {}
        for at in weak:
            votes |= self._votes(segment, at)
        edges = [segment.start, *(at for at in weak if _contradicted(votes, at)), segment.stop]
        return [Segment(a, b, segment.state) for a, b in pairwise(edges)]

    def _votes(self, segment: Segment, at: int) -> dict[tuple[int, int], bool]:
        """Whether frames on either side of frame `at`'s link lie where features of those on the other side see them:
        for pairs (seeing, seen) that tell.
        """
        left = range(max(segment.start, at - NEAR), at)
        right = range(at, min(segment.stop, at + NEAR))
        votes: dict[tuple[int, int], bool] = {}
        for seeing, seen, piece in ((left, right, (segment.start, at)), (right, left, (at, segment.stop))):
            # Depths must not come from flow across the link.
            known = KnownPart(self.store, self.features, self.problem, Part.of_segment(Segment(*piece, segment.state)))
            for by in seeing:
                for frame in seen:
                    if (vote := self._agrees(known, segment, frame, by)) is not None:
                        votes[by, frame] = vote
        return votes

    def _agrees(self, known: KnownPart, segment: Segment, frame: int, by: int) -> bool | None:
        """Whether a frame lies where its features see it; None where they do not tell."""
        seen = resect(known, frame, by)
        if seen is None:
            return None
        pose = np.linalg.inv(segment.state.c2w[frame].double().numpy())
        return bool(agreement(seen.points_world, seen.rays, pose, tolerance_under(segment.state.lens)).mean() > AGREE)


def _contradicted(votes: dict[tuple[int, int], bool], at: int) -> bool:
    """Whether most of the pairs across a link say that it is wrong; without any it is believed."""
    crossing = [vote for pair, vote in votes.items() if min(pair) < at <= max(pair)]
    return 2 * sum(crossing) < len(crossing)


def link_strength(problem: FlowProblem, state: FlowState) -> Float[Tensor, "frames-1"]:
    """For each step from a frame to the next: the most that is explained, as a share of a frame's points, of the flow
    between any two frames across it.
    """

    def explain(chunk: FlowProblem, part: FlowState) -> tuple[Tensor, Tensor, Tensor]:
        good = (chunk.confidence > TRUSTED) & reproduced(chunk, part, INLIER)
        return chunk.sources[:, None].expand_as(chunk.neighbours), chunk.neighbours, good.double().mean(-1)

    strength = torch.zeros(len(state.c2w) - 1, dtype=torch.float64)
    for sources, targets, shares in over_chunks(problem, state, explain):
        pairs = (values.flatten().tolist() for values in (sources, targets, shares))
        for i, j, share in zip(*pairs, strict=True):
            step = slice(min(i, j), max(i, j))
            strength[step] = strength[step].clamp(min=share)
    return strength
