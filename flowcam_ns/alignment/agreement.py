"""How much of the flow a solution explains exactly: over the whole video, and across each place where it could break.

A robust solve pays little for flow that it disregards, so its cost does not tell a wrong solution; how much it had to
disregard does. Where only a joint between two parts is wrong, the whole hardly shows it, the flow across that joint
does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.linearize import reproduced
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Solved

EXACT = PIXEL
"""Within this flow counts as explained exactly."""


@dataclass(frozen=True)
class Links:
    """The flow from one frame to another each, summed over its points."""

    sources: Int[Tensor, "links"]
    targets: Int[Tensor, "links"]
    weight: Float[Tensor, "links"]
    explained: Float[Tensor, "links"]
    """How much of the weight is explained."""


def explained_links(problem: FlowProblem, state: FlowState, within: float) -> Links:
    """How much of every link's flow lands within a distance (long sides) of its target; any number of rows a frame."""

    def weigh(chunk: FlowProblem, part: FlowState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight = chunk.weight()
        near = weight * reproduced(chunk, part, within)
        sources = chunk.sources[:, None].expand_as(chunk.neighbours)
        return sources.flatten(), chunk.neighbours.flatten(), weight.sum(-1).flatten(), near.sum(-1).flatten()

    return Links(*(torch.cat(parts) for parts in zip(*over_chunks(problem, state, weigh), strict=True)))


@dataclass(frozen=True)
class Agreement:
    """Shares (of the weight) of a solution's flow that it explains exactly."""

    whole: float
    across: Float[Tensor, "frames_less_1"]
    """Of the flow between any frame up to the k-th and any after it; 1 where there is none."""

    @property
    def weakest(self) -> float:
        """The least share across any place."""
        return float(self.across.min())


def agreement(solved: Solved) -> Agreement:
    """Of a solution with its own flow."""
    links = explained_links(solved.problem, solved.state, EXACT)
    weight, explained = links.weight.double(), links.explained.double()
    first, last = torch.minimum(links.sources, links.targets), torch.maximum(links.sources, links.targets)
    frames = len(solved.state.c2w)

    def over_places(values: Float[Tensor, "flows"]) -> Float[Tensor, "frames_less_1"]:
        """Sums of the values of all flow that crosses each place: it sets in at its first frame, ends at its last."""
        change = values.new_zeros(frames).index_add_(0, first, values).index_add_(0, last, values, alpha=-1)
        return change.cumsum(0)[:-1]

    there, agreed = over_places(weight), over_places(explained)
    across = torch.where(there > 1e-6, agreed / there.clamp(min=1e-6), 1.0)
    return Agreement(float(explained.sum() / weight.sum().clamp(min=1e-9)), across)
