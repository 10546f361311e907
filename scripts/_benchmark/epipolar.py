"""A judge that needs no truth: how well poses and lens explain feature matches that no method was given.

A match of pixel a in frame i with pixel b in frame j says where b lies, but for the depth of a: on a line. The Sampson
error is the distance, to first order, by which both pixels must move for the match to fit the poses exactly
(Hartley and Zisserman, Multiple View Geometry, section 11.4.3). For unit-depth rays x_a, x_b and E = [t]x R of the
motion from i to j,

    x_b^T E x_a / sqrt((E x_a)_1^2 + (E x_a)_2^2 + (E^T x_b)_1^2 + (E^T x_b)_2^2)

times the focal length, in px. It says nothing about scale or far-off drift, but it is blind to who made the poses:
SIFT matches of OpenCV judge the dataset's own poses as well as estimated ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from flowcam_ns.geometry.camera import Camera, from_opencv_pixels
from flowcam_ns.geometry.se3 import inverse, skew

GAPS = (1, 4, 12, 30)
"""How far apart the matched frames lie."""
PAIRS_PER_GAP = 16
MAX_FEATURES = 4000
MAX_RATIO = 0.7
"""Of the distances to the best and the second-best feature (Lowe's test)."""
EXPLAINED_PX = 5.0
"""A match that none of the candidates explains this well is a mismatch."""
FEWEST_MATCHES = 20
NO_BASELINE = 1e-9

Pair = tuple[int, int]
Matches = tuple[Float64[np.ndarray, "matches 2"], Float64[np.ndarray, "matches 2"]]


@dataclass(frozen=True)
class Candidate:
    """Poses and lens to be judged; NaN where a frame has no pose."""

    c2w: Float[Tensor, "frames 4 4"]
    camera: Camera

    def poses(self, pair: Pair) -> bool:
        """Whether both frames have a pose."""
        return bool(torch.isfinite(self.c2w[list(pair)]).all())


def match_features(images: UInt8[np.ndarray, "frames height width 3"]) -> dict[Pair, Matches]:
    """SIFT matches, px, of up to `PAIRS_PER_GAP` pairs of frames for each of the `GAPS`; no pairs with too few."""
    pairs = [pair for gap in GAPS for pair in spread_pairs(len(images), gap)]
    sift = cv2.SIFT.create(MAX_FEATURES)
    matcher = cv2.BFMatcher()
    pixels, descriptors = {}, {}
    for frame in sorted({frame for pair in pairs for frame in pair}):
        gray = cv2.cvtColor(images[frame], cv2.COLOR_RGB2GRAY)
        keypoints, found = sift.detectAndCompute(gray, np.full(gray.shape, 255, np.uint8))
        pixels[frame] = from_opencv_pixels(torch.tensor([point.pt for point in keypoints]).reshape(-1, 2)).numpy()
        descriptors[frame] = found
    matches = {}
    for i, j in pairs:
        if min(len(pixels[i]), len(pixels[j])) < FEWEST_MATCHES:
            continue
        nearest = matcher.knnMatch(descriptors[i], descriptors[j], k=2)
        kept = [best for best, second in nearest if best.distance < MAX_RATIO * second.distance]
        if len(kept) >= FEWEST_MATCHES:
            a, b = (match.queryIdx for match in kept), (match.trainIdx for match in kept)
            matches[i, j] = pixels[i][list(a)].astype(np.float64), pixels[j][list(b)].astype(np.float64)
    return matches


def spread_pairs(frames: int, gap: int) -> list[Pair]:
    """Up to `PAIRS_PER_GAP` pairs of frames `gap` apart, evenly spread over the sequence, its ends included."""
    starts = np.unique(np.linspace(0, frames - gap - 1, PAIRS_PER_GAP).round().astype(int)) if frames > gap else []
    return [(int(start), int(start) + gap) for start in starts]


def sampson_error(candidate: Candidate, pair: Pair, matches: Matches) -> Float[Tensor, "matches"]:
    """Sampson error of every match, px; without a baseline, the distance from where the rotation puts it."""
    i, j = pair
    camera = candidate.camera
    x_i, x_j = (camera.unproject(torch.as_tensor(pixels, dtype=torch.float64)) for pixels in matches)
    T_j_i = inverse(candidate.c2w[j].double()) @ candidate.c2w[i].double()
    R, t = T_j_i[:3, :3], T_j_i[:3, 3]
    focal = 0.5 * (camera.fx + camera.fy)
    if t.norm() < NO_BASELINE:
        turned = x_i @ R.T
        distance = (turned[:, :2] / turned[:, 2:] - x_j[:, :2]).norm(dim=-1) * focal
        return torch.where(turned[:, 2] > 0, distance, torch.inf)
    E = skew(t / t.norm()) @ R
    line_j, line_i = x_i @ E.T, x_j @ E
    slope = line_j[:, :2].square().sum(-1) + line_i[:, :2].square().sum(-1)
    return (x_j * line_j).sum(-1).abs() / slope.clamp(min=1e-24).sqrt() * focal


@dataclass(frozen=True)
class Verdict:
    """Median Sampson errors of one pair of frames, on the same matches for every candidate that poses it."""

    pair: Pair
    matches: int
    median_px: dict[str, float]


def judge(matches: Mapping[Pair, Matches], candidates: Mapping[str, Candidate]) -> list[Verdict]:
    """Judge all pairs; only matches count that at least one of the candidates explains within `EXPLAINED_PX`."""
    verdicts = []
    for pair, (a, b) in matches.items():
        posing = {name: candidate for name, candidate in candidates.items() if candidate.poses(pair)}
        if not posing:
            continue
        errors = {name: sampson_error(candidate, pair, (a, b)) for name, candidate in posing.items()}
        explained = torch.stack(list(errors.values())).amin(0) < EXPLAINED_PX
        if int(explained.sum()) >= FEWEST_MATCHES:
            medians = {name: float(error[explained].median()) for name, error in errors.items()}
            verdicts.append(Verdict(pair, int(explained.sum()), medians))
    return verdicts


def mean_of(verdicts: Sequence[Verdict], name: str, gap: int | None = None) -> float:
    """Mean over the pairs (of one gap) that a candidate poses; NaN where it poses none."""
    chosen = [v for v in verdicts if name in v.median_px and gap in (None, v.pair[1] - v.pair[0])]
    return float(np.mean([v.median_px[name] for v in chosen])) if chosen else float("nan")
