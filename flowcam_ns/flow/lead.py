"""Where a search for flow should begin when the picture has moved too far for it: told by matched features.

Dense flow follows a motion of a few per cent of the picture. Features find their partners anywhere; a smooth field
through those that agree with one motion of the camera leads the search to within its reach.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from scipy.spatial import KDTree

from flowcam_ns.flow.estimator import FlowEstimator
from flowcam_ns.flow.pair import FlowPair
from flowcam_ns.flow.warped import guided_flow

WEAK = 0.6
"""Between frames of which less than this share moves in a way that can be trusted, features lead a second try."""
TRUSTED = 76
"""Confidence (of 255) from which a flow vector counts for that."""

MIN_MATCHES = 12
"""Fewer matches than this, after those that contradict one motion of the camera have gone, lead nowhere."""
NOISE = 1.5
"""Distance in px within which a match agrees with an epipolar line."""
FOLLOWED, MOST = 3.0, 0.8
"""A flow that ends within so many px of this share of the matches has not lost its way: they have nothing to add."""
NEAREST = 10
"""Matches that tell the motion at a place."""
GRID_STEP = 8
"""The motion is worked out for every so many px and interpolated."""
STIFFNESS = 0.05
"""How reluctantly the motion around a place varies: relative weight of a motion that is the same everywhere."""


def followed(
    pair: FlowPair,
    found: Float32[np.ndarray, "h w 2"],
    estimator: FlowEstimator,
    images: tuple[UInt8[np.ndarray, "h w *rgb"], UInt8[np.ndarray, "h w *rgb"]],
    matches: Callable[[], tuple[Float32[np.ndarray, "n 2"], Float32[np.ndarray, "n 2"]]],
) -> FlowPair:
    """The flow of two images, or one that features led, whichever can be trusted more.

    Args:
        pair: the flow there and back that was found without features.
        found: the flow there, px.
        estimator: to search with once more.
        images: between which the flow is.
        matches: asked for points of the first image and their partners in the second (px), where flow is weak.
    """
    if _trusted(pair) >= WEAK:
        return pair
    led = lead(*matches(), found)
    if led is None:
        return pair
    first, second = images
    there, back = guided_flow(estimator, first, second, led[0]), guided_flow(estimator, second, first, led[1])
    return max(pair, FlowPair.from_dense(there, back), key=_trusted)


def _trusted(pair: FlowPair) -> float:
    """Share of a pair's flow that can be trusted, in the direction in which it is less."""
    return float((pair.confidence > TRUSTED).mean(axis=(1, 2)).min())


def lead(
    points: Float32[np.ndarray, "n 2"], targets: Float32[np.ndarray, "n 2"], found: Float32[np.ndarray, "h w 2"]
) -> tuple[Float32[np.ndarray, "h w 2"], Float32[np.ndarray, "h w 2"]] | None:
    """Rough flow there and back through matched points of two images (px of both).

    None where too few of them agree with each other, or most agree with the flow that was `found` without them.
    """
    agree = agreeing(points, targets)
    if agree.sum() < MIN_MATCHES:
        return None
    points, targets = points[agree], targets[agree]
    height, width = found.shape[:2]
    x, y = np.clip(points.astype(int), 0, (width - 1, height - 1)).T
    if np.mean(np.linalg.norm(points + found[y, x] - targets, axis=1) < FOLLOWED) > MOST:
        return None
    return (
        smooth_motion(points, targets - points, height, width),
        smooth_motion(targets, points - targets, height, width),
    )


def agreeing(points: Float32[np.ndarray, "n 2"], targets: Float32[np.ndarray, "n 2"]) -> np.ndarray:
    """Which matches agree with one motion of the camera (any fundamental matrix)."""
    if len(points) < MIN_MATCHES:
        return np.zeros(len(points), bool)
    cv2.setRNGSeed(0)
    try:
        found, inside = cv2.findFundamentalMat(points, targets, cv2.USAC_MAGSAC, NOISE, 0.999, 2000)
    except cv2.error:  # it fails where no sample of the matches makes a model
        return np.zeros(len(points), bool)
    if found is None or inside is None:
        return np.zeros(len(points), bool)
    return np.asarray(inside, bool)[:, 0]


def smooth_motion(
    points: Float32[np.ndarray, "n 2"], motion: Float32[np.ndarray, "n 2"], height: int, width: int
) -> Float32[np.ndarray, "height width 2"]:
    """A smooth field through scattered motions (px): around every place an affine one, from its nearest matches.

    Moving least squares (Schaefer, McPhail and Warren, Image deformation using moving least squares, SIGGRAPH 2006),
    with a ridge on the linear part that keeps few matches from tilting it.
    """
    rows, columns = max(2, round(height / GRID_STEP)), max(2, round(width / GRID_STEP))
    y, x = np.mgrid[:rows, :columns] + 0.5
    cells = np.stack([x * width / columns, y * height / rows], axis=-1).reshape(-1, 2)
    few = min(NEAREST, len(points))
    nearest = np.asarray(KDTree(points).query(cells, k=few)[1]).reshape(-1, few)
    away = points[nearest].astype(np.float64) - cells[:, None]
    squared = np.square(away).sum(-1)
    reach = squared.max(axis=1, keepdims=True) + GRID_STEP**2
    weight = (1 / (squared + 0.05 * reach))[..., None]
    # Affine around each cell: its value there is the constant part.
    basis = np.concatenate([np.ones_like(away[..., :1]), away / np.sqrt(reach)[..., None]], axis=-1)
    normal: Float64[np.ndarray, "cells 3 3"] = basis.transpose(0, 2, 1) @ (weight * basis)
    normal[:, [1, 2], [1, 2]] += STIFFNESS * weight.sum(axis=(1, 2))[:, None]
    right = basis.transpose(0, 2, 1) @ (weight * motion[nearest])
    field = np.linalg.solve(normal, right)[:, 0].reshape(rows, columns, 2).astype(np.float32)
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
