"""Things that move on their own: found where flow contradicts a scene that stands still, and left out of another solve.

A robust solve disregards flow that is far off. A thing that moves along with the picture is not: bent a little, poses
and lens explain some of its flow and most of the scene's, at a lower cost than the truth has. So nothing inside a solve
tells that it is wrong; but little of the flow is explained exactly, and that is the sign here. Two views with a
typical lens leave poses less room to bend: what lies off the epipolar lines that most of a pair's flow agrees on is
what moves. Once poses are nearly right, what they do not explain tells it better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.agreement import EXACT, Agreement, agreement
from flowcam_ns.alignment.attempt import Attempt
from flowcam_ns.alignment.bootstrap import FOCAL_STARTS, PIXEL, LensBelief, with_focal
from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.first_flow import VideoFlow
from flowcam_ns.alignment.lens import rays
from flowcam_ns.alignment.linearize import reproduced
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.refine import retriangulate
from flowcam_ns.alignment.two_view import essential_motion

DOUBTED, TORN = 0.8, 0.5
"""Poses that explain a smaller share of the flow exactly are doubted; so are those that somewhere explain a smaller
share of what crosses there than the second. On recorded sequences, as they are and made harder, true ones explained .83
and more, across any place .56 and more (.75, .41 where strong compression had spoiled the flow); wrong ones explained
.79 at most, or .86 with .09 across a wrong joint."""
BELIEVED, KEPT = 0.85, 0.95
"""Another solve is believed where its poses explain this share of the flow that was left to it, are torn nowhere, and
it poses this share of the frames that the first did."""
SURE, WORTH = 0.9, 0.75
"""With fewer frames it is believed where it explains this share, and this much flow beside all that the first explains:
true poses of some frames explain nearly as much as wrong ones of all, and much less than true ones of all."""
ATTEMPTS = 2
"""Most solves beside the first one: without what two views contradict, then without what those poses contradict."""
EPIPOLAR, FEWEST = 0.75 * PIXEL, 40
"""Flow agrees with a motion from two views within this distance; of so few vectors none is asked for."""
EXPLAINED = 2 * PIXEL
"""Flow agrees with solved poses within this distance."""
CONTRADICTED = 0.5
"""What moves is where more than this share of the flow disagrees."""
SUSPECTED = 0.35
"""What may move, and shall not be seen in other views, is where more than this share disagrees with the final poses. Of
moving things (an oval over a twentieth and an eighth of five recorded sequences) that finds .96 to 1.0, and of what is
still 1 to 2 times as much beside the larger, 1.6 to 3.6 times beside the smaller ones."""
FINELY = 6
"""Distance, in px of the flow images, of the points that vote once there are poses: things are outlined as finely."""
SPREAD = 1.2
"""Neighbouring points vote together: standard deviation, in distances of points."""
SMALLEST = 0.004
"""Share of the picture below which a spot of contradicting flow is not a thing."""
HARDLY = 0.05
"""Where there is less than this share of the usual flow, nothing is said to move."""
EVERY = 8
"""One of so many pairs of frames tells which of the typical focal lengths is nearest."""


@dataclass(frozen=True)
class Votes:
    """How much of the flow at every point disagrees with one still scene, and how much there is."""

    against: Float[np.ndarray, "frames points"]
    of: Float[np.ndarray, "frames points"]


@dataclass(frozen=True)
class Stilled:
    """A video's cameras, what moves left out."""

    attempt: Attempt
    moving: float = 0.0
    """Share of the pictures that was left out as moving."""
    scene: Bool[np.ndarray, "frames height width"] | None = None
    """True where the pictures surely show the still scene, by the final poses; None where nothing was left out."""
    agreed: Agreement | None = None
    """How much of the flow that was not left out the poses explain; None where the camera only turns."""

    @property
    def doubted(self) -> bool:
        """Whether the poses may well be wrong."""
        return self.agreed is not None and (self.agreed.whole < DOUBTED or self.agreed.weakest < TORN)


def without_moving(
    seen: VideoFlow,
    first: Attempt,
    belief: LensBelief,
    solve: Callable[[VideoFlow], Attempt | None],
    attempts: int = ATTEMPTS,
) -> Stilled:
    """The first attempt where its poses explain the flow; else the last that leaves out what moves and is believed.

    It is believed where its poses explain nearly all the flow that is left, everywhere, and hardly a frame is lost over
    it, or not much of the flow that the first explained.

    Args:
        seen: the video's flow.
        first: what came of it.
        belief: about the lens.
        solve: makes another attempt.
        attempts: how many more are made at most.
    """
    if first.turns:
        return Stilled(first)
    best = Stilled(first, agreed=agreement(first.solved))
    if not best.doubted or attempts == 0:
        return best
    found, fine = None, seen.at_spacing(FINELY)
    still = still_pixels(seen, against_epipolar_lines(seen, belief))
    for _ in range(attempts):
        if found is not None:
            still = still_under_poses(fine, found, still)
        found = solve(seen.masked(still))
        if found is None or found.turns:
            break
        agreed = agreement(found.solved)
        if _believed(seen, found, first, agreed):
            best = Stilled(found, 1 - float(still.mean()), agreed=agreed)
    if best.moving == 0:
        return best
    return replace(best, scene=still_under_poses(fine, best.attempt, still, SUSPECTED))


def _believed(seen: VideoFlow, found: Attempt, first: Attempt, agreed: Agreement) -> bool:
    if agreed.weakest < TORN:
        return False
    if len(found.bridged.part) >= KEPT * len(first.bridged.part):
        return agreed.whole >= BELIEVED
    return agreed.whole >= SURE and explained_flow(seen, found) >= WORTH * explained_flow(seen, first)


def against_epipolar_lines(seen: VideoFlow, belief: LensBelief) -> Votes:
    """Votes of the flow between two frames each, under the focal length (of a few) with which most of it agrees."""
    rows = range(len(seen.measured.pairs))
    lenses = [belief.mean] if belief.known else [with_focal(belief.mean, focal) for focal in FOCAL_STARTS]
    best = lenses[0]
    if len(lenses) > 1:
        best = min(lenses, key=lambda lens: float(_two_view_votes(seen, rows[::EVERY], lens).against.sum()))
    return _two_view_votes(seen, rows, best)


def _two_view_votes(seen: VideoFlow, rows: range, lens: Float[torch.Tensor, "lens"]) -> Votes:
    against, of = (np.zeros(seen.points.shape[:2]) for _ in range(2))
    for row in rows:
        (i, _), targets = seen.measured.pairs[row], seen.measured.targets[row]
        good = seen.measured.confidence[row] > measure.GOOD
        if good.sum() < FEWEST:
            continue
        here, there = (_rays(pixels[good], seen, lens) for pixels in (seen.points[i], targets))
        found = essential_motion(here, there, EPIPOLAR / float(lens[0].exp()))
        if found is not None:
            against[i, good] += ~found[1]
            of[i, good] += 1
    return Votes(against, of)


def _rays(
    pixels: Float[np.ndarray, "n 2"], seen: VideoFlow, lens: Float[torch.Tensor, "lens"]
) -> Float[np.ndarray, "n 2"]:
    return rays(measure.centred_points(pixels, seen.store, torch.float64), lens).T.contiguous().numpy()


def against_poses(seen: VideoFlow, found: Attempt, within: float) -> Votes:
    """Votes of all flow of a video: against, where solved poses do not explain it within a distance (long sides)."""
    part = found.bridged.part
    problem = part.problem(measure.build_problem(seen.store, seen.points, seen.measured))

    def weigh(rows: FlowProblem, state: FlowState) -> tuple[torch.Tensor, torch.Tensor]:
        weight = rows.weight()
        return (weight * ~reproduced(rows, state, within)).sum(1), weight.sum(1)

    votes = Votes(*(np.zeros(seen.points.shape[:2]) for _ in range(2)))
    parts = zip(*over_chunks(problem, retriangulate(problem, found.solved.state), weigh), strict=True)
    frames = part.frames.numpy()
    votes.against[frames], votes.of[frames] = (torch.cat(sums).numpy() for sums in parts)
    return votes


def still_under_poses(
    seen: VideoFlow,
    found: Attempt,
    before: Bool[np.ndarray, "frames height width"],
    contradicted: float = CONTRADICTED,
) -> Bool[np.ndarray, "frames height width"]:
    """`still_pixels` by all the flow of the video under solved poses; frames without one stay as they were `before`."""
    still = still_pixels(seen, against_poses(seen, found, EXPLAINED), contradicted)
    unposed = np.setdiff1d(np.arange(len(still)), found.bridged.part.frames.numpy())
    still[unposed] = before[unposed]
    return still


def explained_flow(seen: VideoFlow, found: Attempt) -> float:
    """Weight of the video's flow, what moves and all, that an attempt's poses explain exactly."""
    votes = against_poses(seen, found, EXACT)
    return float(votes.of.sum() - votes.against.sum())


def still_pixels(
    seen: VideoFlow, votes: Votes, contradicted: float = CONTRADICTED
) -> Bool[np.ndarray, "frames height width"]:
    """True where nothing moves on its own, for each frame."""
    width, height = seen.store.width, seen.store.height
    cell = float(np.sqrt(width * height / seen.points.shape[1]))
    columns, rows = max(1, round(width / cell)), max(1, round(height / cell))
    place = (seen.points * [columns / width, rows / height]).astype(np.int64).clip(0, [columns - 1, rows - 1])
    still = np.ones((len(seen.points), height, width), bool)
    for frame, (x, y) in enumerate(np.moveaxis(place, -1, 1)):
        against, of = (_spread(values[frame], y, x, (rows, columns)) for values in (votes.against, votes.of))
        moving = _large_spots((against > contradicted * of) & (of > HARDLY * votes.of[frame].mean()))
        around = cv2.dilate(moving, np.ones((3, 3), np.uint8))
        still[frame] = cv2.resize(around, (width, height), interpolation=cv2.INTER_NEAREST) == 0
    return still


def _spread(
    values: Float[np.ndarray, "points"],
    y: Int[np.ndarray, "points"],
    x: Int[np.ndarray, "points"],
    shape: tuple[int, int],
) -> Float[np.ndarray, "rows columns"]:
    image = np.zeros(shape)
    np.add.at(image, (y, x), values)
    return cv2.GaussianBlur(image, (0, 0), SPREAD)


def _large_spots(moving: Bool[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8))
    large = stats[:, cv2.CC_STAT_AREA] >= SMALLEST * moving.size
    large[0] = False  # the ground
    return large[np.asarray(labels, np.int64)].astype(np.uint8)
