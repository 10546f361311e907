"""Returns to a place that the solution has drifted away from: found by features, and the drift taken out.

Where drift is small, pairs of distant frames chosen by predicted overlap (`far_pairs.py`) close a loop by themselves;
over a long way the prediction is off, and pictures must say where the camera has been before.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from flowcam_ns.alignment import measure
from flowcam_ns.alignment.bridge import Video
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.pose_graph import Edge, close_loops
from flowcam_ns.alignment.resection import KnownPart, Resection, resect
from flowcam_ns.alignment.tie import scale_seen

LONG = 8.0
"""Revisits are looked for where the picture has moved by this many long sides in all: shorter ways drift too little."""
KEY_STEP = 0.25
"""Motion (long sides) from one compared frame to the next."""
MAX_KEYS = 150
"""Most frames that are compared, however long the video."""
APART = 3.0
"""Frames closer than this (long sides of motion in between) are no revisit of each other."""
LIKENESS = 20
"""Least number of the strongest features that must match for a revisit to be looked into."""
TRIED = 24
"""Most pairs of frames looked into, the most alike first."""
SAME_TURN, SAME_SCALE = np.radians(3.0), 0.2
"""A revisit measured from either side must give the same rotation and (logarithm of) scale, within this."""


def without_drift(video: Video, part: Part, motion: Float[np.ndarray, "steps"]) -> tuple[Part, int]:
    """The part with loops closed, and how many revisits said so.

    Args:
        video: flow and features.
        part: what is posed so far.
        motion: apparent motion between neighbouring frames of the video, long sides.
    """
    travelled = measure.travelled(motion)
    frames = part.frames.tolist()
    if travelled[frames[-1]] - travelled[frames[0]] < LONG:
        return part, 0
    known = KnownPart(video.store, video.features, video.problem, part)
    place = part.place()
    loops = []
    for i, j in candidates(video, key_frames(travelled, frames), travelled):
        edge = measure_revisit(known, i, j)
        if edge is not None:
            loops.append(Edge(place[i], place[j], edge.rotation, edge.translation, edge.log_scale))
    return (close_loops(part, loops), len(loops)) if loops else (part, 0)


def key_frames(travelled: Float[np.ndarray, "frames"], frames: list[int]) -> list[int]:
    """Posed frames about `KEY_STEP` of motion apart."""
    way = travelled[frames]
    step = max(KEY_STEP, float(way[-1] - way[0]) / MAX_KEYS)
    return [frames[int(k)] for k in np.unique(np.searchsorted(way, np.arange(way[0], way[-1], step)))]


def candidates(video: Video, keys: list[int], travelled: Float[np.ndarray, "frames"]) -> list[tuple[int, int]]:
    """Pairs of key frames far apart on the way that look alike, the most alike first, one for each neighbourhood."""
    likeness, way = np.zeros((len(keys), len(keys))), travelled[keys]
    video.features.compute(keys)
    for row, key in enumerate(keys):
        later = np.nonzero(way - way[row] >= APART)[0]
        if len(later):
            likeness[row, later] = video.features.likeness([key], [keys[k] for k in later])[0]
    found = []
    while len(found) < TRIED:
        i, j = np.unravel_index(int(likeness.argmax()), likeness.shape)
        if likeness[i, j] < LIKENESS:
            break
        found.append((keys[int(i)], keys[int(j)]))
        likeness[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = 0
    return found


def measure_revisit(known: KnownPart, i: int, j: int) -> Edge | None:
    """Frame j seen from frame i by what frame i knows, if frame j's own surface says the same."""
    there, back = resect(known, j, i), resect(known, i, j)
    if there is None or back is None:
        return None
    edge, reverse = _edge(known, there), _edge(known, back)
    if edge is None or reverse is None:
        return None
    turn = float(np.arccos(np.clip((np.trace(edge.rotation @ reverse.rotation) - 1) / 2, -1, 1)))
    if turn > SAME_TURN or abs(edge.log_scale + reverse.log_scale) > SAME_SCALE:
        return None
    return edge


def _edge(known: KnownPart, seen: Resection) -> Edge | None:
    scale = scale_seen(known, seen)
    if scale is None:
        return None
    source = known.part.state.c2w[known.part.place()[seen.known]].double().numpy()
    relative = np.linalg.inv(source) @ np.linalg.inv(seen.T_cam_world)
    return Edge(seen.known, seen.frame, relative[:3, :3], relative[:3, 3], float(np.log(scale)))
