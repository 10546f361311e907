"""What every optical flow estimator offers, and the choice between them."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from flowcam_ns.flow.dis import DISFlow
from flowcam_ns.flow.raft import RAFTFlow

EstimatorName = Literal["auto", "dis", "raft", "raft-small"]


class FlowEstimator(Protocol):
    """Dense optical flow between two images of one size; safe to call from several threads at once."""

    @property
    def name(self) -> str:
        """What a user calls it."""
        ...

    @property
    def key(self) -> str:
        """Everything that changes its output, in words: part of the name of a cached flow."""
        ...

    @property
    def color(self) -> bool:
        """Whether it wants RGB images [h w 3]; grey images [h w] otherwise."""
        ...

    @property
    def max_workers(self) -> int:
        """How many threads may usefully call it at once."""
        ...

    @property
    def long_side(self) -> int:
        """Size (px) of the images that it needs for good poses where neighbouring frames lie close together."""
        ...

    @property
    def uses_initial(self) -> bool:
        """Whether `initial` changes the result."""
        ...

    def __call__(
        self,
        first: UInt8[np.ndarray, "h w *rgb"],
        second: UInt8[np.ndarray, "h w *rgb"],
        initial: Float32[np.ndarray, "h w 2"] | None = None,
    ) -> Float32[np.ndarray, "h w 2"]:
        """Flow (x, y) in px that takes each pixel of `first` to `second`, searched from `initial` where it is given."""
        ...


def make_estimator(name: EstimatorName = "auto", device: torch.device | str = "cpu") -> FlowEstimator:
    """The estimator called `name`; `auto` is RAFT on a CUDA device and OpenCV's DIS elsewhere (RAFT is 100 x slower).

    Weights are loaded at the first use, so this never fails; see `RAFTFlow` for what it raises then.
    """
    device = torch.device(device)
    if name == "auto":
        name = "raft" if device.type == "cuda" else "dis"
    if name == "dis":
        return DISFlow()
    return RAFTFlow(small=name == "raft-small", device=device)
