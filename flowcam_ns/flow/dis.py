"""OpenCV's DIS flow (Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016), made for a CPU."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float32, UInt8


@dataclass
class DISFlow:
    """Dense inverse search with variational refinement, of which less is needed where the search has a start.

    The defaults were chosen on real sequences with known poses and on rendered ones with known depth. Without any
    refinement from a start the search is a third quicker and poses of smooth videos are as good, but some frames are
    lost where the camera moves by a tenth of the width at once. `finest_scale` 0 finds finer flow at three times the
    time, 2 coarser in half of it.
    """

    finest_scale: int = 1
    """Finest pyramid level that is searched: 0 is the image's own size, 1 half of it."""
    patch_size: int = 8
    """Side of the matched patches in px."""
    patch_stride: int = 4
    """Step between patches in px."""
    gradient_steps: int = 32
    """Gradient descent steps for each patch."""
    refinement_steps: int = 2
    """Fixed-point steps of the variational refinement on each level."""
    cold_refinement_steps: int = 5
    """The same where the search starts from nothing."""
    smoothness: float = 80.0
    """Weight of smoothness in the refinement, against 5 for equal brightness and 10 for equal gradients."""
    name: str = "dis"
    color: bool = False
    uses_initial: bool = True
    max_workers: int = 64
    long_side: int = 384
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Settings and OpenCV's version."""
        settings = (
            self.finest_scale,
            self.patch_size,
            self.patch_stride,
            self.gradient_steps,
            self.refinement_steps,
            self.cold_refinement_steps,
            self.smoothness,
        )
        return f"dis {settings} opencv {cv2.__version__}"

    def __call__(
        self,
        first: UInt8[np.ndarray, "h w"],
        second: UInt8[np.ndarray, "h w"],
        initial: Float32[np.ndarray, "h w 2"] | None = None,
    ) -> Float32[np.ndarray, "h w 2"]:
        """Flow in px from `first` to `second`, both grey; `initial` is left as it is."""
        # OpenCV searches from a third argument of the right shape and writes into it; an empty one means no start.
        start = np.empty(0, np.float32) if initial is None else np.array(initial, np.float32, order="C")
        return self._search(initial is not None).calc(first, second, start)

    def _search(self, with_start: bool) -> cv2.DISOpticalFlow:
        """This thread's own search: it keeps its buffers between calls, so two threads must never share one.

        Nor may calls with and without a start: OpenCV goes on using the start of an earlier call.
        """
        name = "started" if with_start else "search"
        search = getattr(self._local, name, None)
        if search is None:
            search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            search.setFinestScale(self.finest_scale)
            search.setPatchSize(self.patch_size)
            search.setPatchStride(self.patch_stride)
            search.setGradientDescentIterations(self.gradient_steps)
            search.setVariationalRefinementIterations(
                self.refinement_steps if with_start else self.cold_refinement_steps
            )
            search.setVariationalRefinementAlpha(self.smoothness)
            setattr(self._local, name, search)
        return search
