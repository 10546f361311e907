"""A single frame tied by features alone, where the views differ too much for flow to confirm the tie.

Few features may agree on a wrong place: where textures repeat, two known frames have told the same one, far off. So
several times as many are asked, and two known frames must tell the same in different ways.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float

from flowcam_ns.alignment.feature_rows import epipolar_distance
from flowcam_ns.alignment.grow import TRUSTED
from flowcam_ns.alignment.lens import rays
from flowcam_ns.alignment.measure import Pair
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowProblem
from flowcam_ns.alignment.resection import KnownPart, Resection, resect
from flowcam_ns.geometry import se3

FIRM_MATCHES, FIRM_SHARE = 50, 0.5
"""A pose is firm where so many matches with one known frame agree with it, by the depths there: at least this share."""
BEYOND_DOUBT = 100, 0.8
"""So many matches, and such a share of them, need no second frame: wrong poses had a share of .38 at most."""
ON_LINES = 0.45
"""Share of the matches with another known frame that must lie on the epipolar lines of that pose. Right poses had .46
to .85 with one at least, wrong ones .34 at most."""
LINE = 2 / 512
"""A match lies on an epipolar line within this distance (long sides)."""
FLOW_ON_LINES = 0.8
"""Flow of which a smaller share is on the lines is wrong: right flow had .94 to .99, wrong flow .53 at most."""


def tied_firmly(known: KnownPart, frame: int, others: Iterable[int]) -> list[Resection]:
    """Firm poses of a frame by some `others` of the known part, if another one confirms the best; else none."""
    others = list(others)
    found = [seen for other in others if (seen := resect(known, frame, other)) is not None]
    firm = [seen for seen in found if len(seen.rays) >= FIRM_MATCHES and seen.share >= FIRM_SHARE]
    if not firm:
        return []
    best = max(firm, key=lambda seen: len(seen.rays))
    if len(best.rays) >= BEYOND_DOUBT[0] and best.share >= BEYOND_DOUBT[1]:
        return firm
    confirmed = any(_share_on_lines(known, other, best) >= ON_LINES for other in others if other != best.known)
    return firm if confirmed else []


def refuted(problem: FlowProblem, part: Part, frames: Iterable[int]) -> set[Pair]:
    """Pairs of some frames and others of the part whose flow contradicts where the part has them, both ways.

    Args:
        problem: the whole video's measurements, one row a frame.
        part: holds the frames, at poses that are beyond doubt.
        frames: counted in the video.
    """
    place, lens, c2w = part.place(), part.state.lens.double(), part.state.c2w.double()
    found: set[Pair] = set()
    for frame in frames:
        here = rays(problem.points[frame].double(), lens).T.numpy()
        for slot, other in enumerate(problem.neighbours[frame].tolist()):
            trusted = (problem.confidence[frame, slot] > TRUSTED).numpy()
            if other == frame or other not in place or not trusted.any():
                continue
            there = rays(problem.targets[frame, slot].double(), lens).T.numpy()
            motion = se3.between(c2w[place[other]], c2w[place[frame]]).numpy()
            share = _on_lines(here[trusted], there[trusted], motion, part).mean()
            if share < FLOW_ON_LINES:
                found |= {(frame, other), (other, frame)}
    return found


def _share_on_lines(known: KnownPart, other: int, pose: Resection) -> float:
    """Share of the matches with another known frame on the epipolar lines of a pose; 0 where they are few."""
    there, here = known.features.match(other, pose.frame)
    if len(there) < FIRM_MATCHES:
        return 0.0
    motion = pose.T_cam_world @ known.part.state.c2w[known.part.place()[other]].double().numpy()
    return float(_on_lines(known.rays(other)[there], known.rays(pose.frame)[here], motion, known.part).mean())


def _on_lines(
    here: Float[np.ndarray, "n 2"], there: Float[np.ndarray, "n 2"], T_there_here: Float[np.ndarray, "4 4"], part: Part
) -> Bool[np.ndarray, "n"]:
    return epipolar_distance(here, there, T_there_here) < LINE / float(part.state.lens[0].exp())
