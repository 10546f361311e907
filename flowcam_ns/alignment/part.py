"""Frames that are posed in one world: a run of the video, or several runs tied together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from flowcam_ns.alignment.grow import Segment
from flowcam_ns.alignment.problem import FlowProblem, FlowState


@dataclass(frozen=True)
class Part:
    """Posed frames in ascending order, not necessarily neighbours; the state speaks of them alone."""

    frames: Int[Tensor, "posed"]
    state: FlowState

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def of_segment(cls, segment: Segment) -> Part:
        """The frames of a segment."""
        frames = torch.arange(segment.start, segment.stop)
        return cls(frames, segment.state.window(segment.start, segment.stop))

    def problem(self, whole: FlowProblem) -> FlowProblem:
        """The part of the whole video's problem (one row a frame) that lies within these frames, renumbered."""
        frames = self.frames.to(whole.sources.device)
        return whole.rows(frames).renumbered(frames)

    def place(self) -> dict[int, int]:
        """Where each frame of the video stands among these."""
        return {frame: place for place, frame in enumerate(self.frames.tolist())}

    def joined(self, other: Part) -> Part:
        """Both parts, which must be in the same world already; the lens is this one's."""
        frames, order = torch.cat([self.frames, other.frames]).sort()
        c2w = torch.cat([self.state.c2w, other.state.c2w])[order]
        depth = torch.cat([self.state.inverse_depth, other.state.inverse_depth])[order]
        return Part(frames, FlowState(c2w, depth, self.state.lens))

    def runs(self) -> list[tuple[int, int]]:
        """The runs [start, stop) of neighbouring frames."""
        found: list[tuple[int, int]] = []
        for frame in self.frames.tolist():
            if found and found[-1][1] == frame:
                found[-1] = (found[-1][0], frame + 1)
            else:
                found.append((frame, frame + 1))
        return found
