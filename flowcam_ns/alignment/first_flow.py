"""What a video's flow tells before any pose is known: how far the picture moves, how well frames overlap, where every
point goes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.measure import Measurements
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.watch import Progress
from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.video.frames import Frames

FINE = 512
"""Long side (px) of the images whose flow is needed where neighbouring frames lie far apart."""
WEAK_SUPPORT, WEAK_SHARE = 0.35, 0.1
"""Frames lie far apart where so large a share of the steps has less trustworthy flow than that. At their full rate,
recorded sequences have .49 and more at that quantile; at a third of it and less, those that finer flow helps .27 and
less."""
FAST = 0.05
"""So they do where the picture moves so far at every other step (share of the long side); at full rate it is .035."""
MANY, STRONG_SUPPORT, EVERY = 48, 0.6, 2
"""Of so many frames whose flow is so strong at nearly every step, one in two begins a longer pair: more add nothing to
the poses. Where flow is weaker they hold growth on its way."""
STILL = 0.0015
"""A video whose picture moves less than this share of its long side between any two frames shows a still camera."""
STILL_SUPPORT = 0.5
"""Share of the flow that must be trustworthy for it to tell a still camera."""


@dataclass(frozen=True)
class VideoFlow:
    """Flow between neighbours, and over longer distances as the motion allows."""

    store: FlowStore
    points: Float32[np.ndarray, "frames points 2"]
    """Px of the frames."""
    measured: Measurements
    motion: Float[np.ndarray, "steps"]
    """Between neighbours, share of the long side; infinite where unknown."""
    support: Float[np.ndarray, "steps"]
    """Share of trustworthy flow between neighbours."""

    def at_spacing(self, spacing: float) -> VideoFlow:
        """The same flow at other points, so many px of the flow images apart."""
        points = _grid(self.store, spacing)
        pairs = [(i, j) for i, j in self.measured.pairs if i < j]
        return replace(self, points=points, measured=measure.measure_pairs(self.store, points, pairs))

    def masked(self, still: Bool[np.ndarray, "frames height width"]) -> VideoFlow:
        """The same without the flow from and to what is not `still`; nothing is computed anew."""
        store = self.store.masked(still)
        confidence = self.measured.confidence.copy()
        for row, (i, j) in enumerate(self.measured.pairs):
            confidence[row] *= store.usable(i, self.points[i]) & store.usable(j, self.measured.targets[row])
        measured = replace(self.measured, confidence=confidence)
        place = {pair: row for row, pair in enumerate(measured.pairs)}
        steps = [place[i, i + 1] for i in range(len(store) - 1)]
        support = (confidence[steps] > measure.GOOD).mean(axis=1)
        return replace(self, store=store, measured=measured, support=support)


def see_video(frames: Frames, store: FlowStore, options: AlignmentOptions, report: Progress) -> VideoFlow:
    """Measure the flow of a video, on finer images than those of `store` where its frames lie far apart.

    Raises:
        FlowCamError: the picture stands still.
    """
    points, motion, support = _neighbours(store, options, report)
    apart = _least(support) < WEAK_SUPPORT or float(np.median(motion)) > FAST
    if options.flow_size is None and store.long_side < FINE and apart:
        store.release()
        store = store.at_size(FINE)
        points, motion, support = _neighbours(store, options, report)
    if float(np.where(np.isfinite(motion), motion, 1.0).sum()) < STILL * max(1, len(motion) // 4) or (
        largest_motion(store, points) < STILL
    ):
        raise FlowCamError(
            f"{frames.name}: the picture stands still; poses need a camera that moves (sideways, around or forward)."
        )
    plenty = len(store) >= MANY and _least(support) > STRONG_SUPPORT
    measured = measure.measure_pairs(
        store,
        points,
        measure.choose_pairs(motion, EVERY if plenty else 1),
        lambda done, total: report("Optical flow", 0.3 + 0.7 * done / total, None),
    )
    return VideoFlow(store, points, measured, motion, support)


def _least(support: Float[np.ndarray, "steps"]) -> float:
    """Support that all but the weakest steps have."""
    return float(np.quantile(support, WEAK_SHARE))


def _neighbours(
    store: FlowStore, options: AlignmentOptions, report: Progress
) -> tuple[Float32[np.ndarray, "frames points 2"], Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Points, and the motion between neighbouring frames and its support."""
    points = _grid(store, options.point_spacing)
    motion, support = measure.neighbour_motion(
        store, points, lambda done, total: report("Optical flow", 0.3 * done / total, None)
    )
    return points, motion, support


def _grid(store: FlowStore, spacing: float) -> Float32[np.ndarray, "frames points 2"]:
    return store.good_points(spacing * max(store.width, store.height) / store.long_side)


def largest_motion(store: FlowStore, points: Float[np.ndarray, "frames points 2"]) -> float:
    """Median motion (share of the long side) between the first frame and a few others, at its largest."""
    last = len(store) - 1
    others = sorted({max(1, round(last * share)) for share in (0.25, 0.5, 0.75, 1.0)})
    targets, confidence = store.sample([(0, j) for j in others], points)
    length = np.linalg.norm(targets - points[0], axis=-1) / max(store.width, store.height)
    # Of a still picture nearly all flow can be trusted. Where most of it is lost, the views have moved apart, and what
    # is left may be fixed to the camera: a bonnet, a gimbal's arm.
    moved = [
        np.median(row[good]) if good.mean() > STILL_SUPPORT else np.inf
        for row, good in zip(length, confidence > measure.GOOD, strict=True)
    ]
    return float(max(moved))
