"""Whether reported standard deviations are honest: do they rank the frames by error, and do they cover the errors?

Position: |S(c^_i) - c_i| with S the Sim(3) fit of `frame_errors`, against the reported standard deviation times the
scale of S; both in shares of the true trajectory's RMS radius, so that sequences can be pooled. Rotation: degrees after
one rotation of the world. Both are lengths of 3-vectors, and so are the reported deviations (the root of the trace of
a covariance): an error is covered where it is at most twice the deviation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.stats import rankdata

from _benchmark.estimate import Estimate
from flowcam_ns.geometry.metrics import frame_errors
from flowcam_ns.geometry.trajectory import align_sim3

INTERVAL = 2.0
"""Half width of the interval whose coverage is counted, in standard deviations."""


@dataclass(frozen=True)
class Deviations:
    """Errors, and what they were said to be: one of each for every frame."""

    error: Float64[np.ndarray, "frames"]
    std: Float64[np.ndarray, "frames"]

    @property
    def rank_correlation(self) -> float:
        """Spearman's, -1 to 1; NaN where errors or deviations are all the same."""
        if len(self.error) < 3 or np.ptp(self.error) == 0 or np.ptp(self.std) == 0:
            return float("nan")
        return float(np.corrcoef(rankdata(self.error), rankdata(self.std))[0, 1])

    @property
    def coverage(self) -> float:
        """Share of the errors inside of the interval."""
        return float((self.error <= INTERVAL * self.std).mean()) if len(self.error) else float("nan")

    @property
    def typical_ratio(self) -> float:
        """Root mean square of error / deviation: 1 where the deviations have the right size."""
        return float(np.sqrt(np.mean((self.error / self.std) ** 2))) if len(self.error) else float("nan")


def pool(parts: Iterable[Deviations]) -> Deviations:
    """All frames of several sequences together."""
    parts = list(parts)
    return Deviations(np.concatenate([p.error for p in parts]), np.concatenate([p.std for p in parts]))


def pose_deviations(
    estimate: Estimate, truth_c2w: Float64[np.ndarray, "frames 4 4"]
) -> tuple[Deviations, Deviations] | None:
    """Of positions (shares of the radius) and of rotations (degrees); None where nothing was reported."""
    if estimate.position_std is None or estimate.rotation_std_deg is None or estimate.posed.sum() < 3:
        return None
    c2w, truth = torch.from_numpy(estimate.c2w), torch.from_numpy(truth_c2w)
    errors = frame_errors(c2w, truth)
    scale = float(align_sim3(c2w, truth).scale)
    position_std = np.array(estimate.position_std) * scale / errors.radius
    position, rotation = errors.position.numpy() / errors.radius, errors.rotation_deg.numpy()
    rotation_std = np.array(estimate.rotation_std_deg)
    known = np.isfinite(position)
    return Deviations(position[known], position_std[known]), Deviations(rotation[known], rotation_std[known])
