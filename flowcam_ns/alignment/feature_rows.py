"""Matched features as measurements for the last solve of the cameras.

Flow is dense and finds poses where features fail, but it is smoothed: neighbouring vectors err together, towards each
other, and no number of them averages that away. Features are few and err each by its own. Together in one solve they
give focal lengths and rotations that neither gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from flowcam_ns.alignment.groups import quarters_of
from flowcam_ns.alignment.lens import rays
from flowcam_ns.alignment.measure import Pair, centred_points
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import median_error
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3

GAPS = (1, 3, 8, 16, 32)
"""Frame distances over which features are matched."""
WEIGHT, MAX_WEIGHT = 2.5, 2.5
"""Weight of a matched feature where its error is as large as that of a flow vector, relative to one of full confidence,
and at most: that features err each by its own makes them worth more than flow of the same error."""
STRAY = 6 / 512
"""Distance from the epipolar line (long sides) from which a match is an accident."""
FEWEST = 12
"""Two frames with fewer matches than this are not compared."""


def feature_rows(
    store: FlowStore,
    features: Features,
    like: FlowProblem,
    state: FlowState,
    frames: Int[Tensor, "posed"],
    ties: Sequence[Pair] = (),
    progress: Callable[[int, int], None] | None = None,
) -> FlowProblem | None:
    """One more row a frame for `like`, with as many points: the features that are matched most often; None without any.

    Matches that contradict the cameras are left out: between views that share little most of them are accidents.

    Args:
        store: knows the frames' size.
        features: of all frames of the video.
        like: the flow's rows, one a frame. A feature takes the place of a point in the same quarter of the picture.
        state: the cameras so far.
        frames: the video's frames that the rows of `like` and `state` speak of.
        ties: pairs of rows (i < j) to be matched beyond those that always are.
        progress: called with (pairs done, pairs in all).
    """
    pairs = list(dict.fromkeys([*feature_pairs(len(frames)), *ties]))
    matches = features.match_all([(int(frames[i]), int(frames[j])) for i, j in pairs], progress)
    pixels = [features.of(int(frame)).points for frame in frames]
    ray = [rays(_centred(found, store, like).double(), state.lens).T.cpu().numpy() for found in pixels]
    w2c = se3.inverse(state.c2w)
    noise = STRAY / float(state.lens[0].exp())
    links: dict[Pair, tuple[np.ndarray, np.ndarray]] = {}
    for (i, j), (here, there) in zip(pairs, matches, strict=True):
        motion = (w2c[j] @ state.c2w[i]).cpu().numpy()
        kept = epipolar_distance(ray[i][here], ray[j][there], motion) < noise
        if kept.sum() >= FEWEST:
            here, there = here[kept], there[kept]
            links[i, j], links[j, i] = (here, there), (there, here)
    if not links:
        return None
    places = _places(pixels, links, quarters_of(like.points), store, like.points.shape[-1])
    return _lay_out(pixels, links, places, like, store)


def feature_pairs(frames: int) -> list[Pair]:
    """Pairs of so many frames whose features are matched."""
    return [(i, i + gap) for gap in GAPS for i in range(frames - gap)]


def epipolar_distance(
    here: Float[np.ndarray, "n 2"], there: Float[np.ndarray, "n 2"], T_there_here: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "n"]:
    """How far matched rays (x/z, y/z) are from agreeing with a motion at any depth: Sampson's distance (Hartley and
    Zisserman, Multiple View Geometry, 11.9), in focal lengths; 0 where there is no motion to speak of.
    """
    x, y, z = T_there_here[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T_there_here[:3, :3]
    first, second = (np.concatenate([ray, np.ones_like(ray[:, :1])], axis=1) for ray in (here, there))
    line, line_back = first @ essential.T, second @ essential
    slope = np.square(line[:, :2]).sum(1) + np.square(line_back[:, :2]).sum(1)
    return np.abs((second * line).sum(1)) / np.sqrt(np.maximum(slope, 1e-24))


def weighted(
    matched: FlowProblem,
    matched_state: FlowState,
    flow: FlowProblem,
    flow_state: FlowState,
) -> FlowProblem:
    """The features' rows with the weight that their errors deserve, relative to those of the flow."""
    share = median_error(flow, flow_state) / max(median_error(matched, matched_state), 1e-12)
    return replace(matched, confidence=matched.confidence * min(WEIGHT * share**2, MAX_WEIGHT))


def _places(
    pixels: Sequence[Float32[np.ndarray, "features 2"]],
    links: dict[Pair, tuple[np.ndarray, np.ndarray]],
    quarters: list[Int[Tensor, "some"]],
    store: FlowStore,
    points: int,
) -> Int[np.ndarray, "frames points"]:
    """Which feature each place of each row holds (-1: none): in every quarter those with the most matches."""
    seen = [np.zeros(len(found), np.int64) for found in pixels]
    for (i, _), (here, _) in links.items():
        seen[i][here] += 1
    places = np.full((len(pixels), points), -1, np.int64)
    for row, (found, matches) in enumerate(zip(pixels, seen, strict=True)):
        right, low = found[:, 0] > store.width / 2, found[:, 1] > store.height / 2
        order = np.argsort(-matches, kind="stable")
        order = order[matches[order] > 0]
        for number, quarter in enumerate(quarters):
            best = order[(right == bool(number // 2))[order] & (low == bool(number % 2))[order]][: len(quarter)]
            places[row, quarter[: len(best)].numpy()] = best
    return places


def _lay_out(
    pixels: Sequence[Float32[np.ndarray, "features 2"]],
    links: dict[Pair, tuple[np.ndarray, np.ndarray]],
    places: Int[np.ndarray, "frames points"],
    like: FlowProblem,
    store: FlowStore,
) -> FlowProblem:
    frames, points = places.shape
    slots = int(np.bincount([i for i, _ in links], minlength=frames).max())
    here = like.points.clone()
    neighbours = torch.arange(frames)[:, None].repeat(1, slots)
    targets = like.points[:, None].repeat(1, slots, 1, 1)
    confidence = like.points.new_zeros(frames, slots, points)
    used = np.zeros(frames, np.int64)
    for row, found in enumerate(pixels):
        taken = places[row] >= 0
        here[row][:, torch.from_numpy(taken)] = _centred(found[places[row][taken]], store, like)
    for i, j in sorted(links):
        source, target = links[i, j]
        partner = np.full(len(pixels[i]) + 1, -1, np.int64)
        partner[source] = target
        matched = partner[places[i]]
        which = torch.from_numpy(np.nonzero(matched >= 0)[0])
        slot = used[i]
        used[i] += 1
        neighbours[i, slot] = j
        targets[i, slot][:, which] = _centred(pixels[j][matched[matched >= 0]], store, like)
        confidence[i, slot, which] = 1
    return FlowProblem(torch.arange(frames), here, neighbours, targets, confidence)


def _centred(pixels: Float32[np.ndarray, "n 2"], store: FlowStore, like: FlowProblem) -> Float[Tensor, "2 n"]:
    return centred_points(pixels, store, like.points.dtype)
