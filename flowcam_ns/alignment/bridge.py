"""Bridges over cuts and jumps: parts and single frames that flow does not tie together, tied by matched features.

Whatever features tie is then measured by flow across the bridge (led by the tie), which confirms it, and holds scale
and pose in the joint solve that follows. Where flow finds nothing, single frames need far more features
(`feature_tie.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32

from flowcam_ns.alignment.bootstrap import LensBelief
from flowcam_ns.alignment.far_pairs import FlowPrediction, measure_far_pairs, overlaps
from flowcam_ns.alignment.feature_tie import tied_firmly
from flowcam_ns.alignment.lens import rays
from flowcam_ns.alignment.measure import Measurements, Pair
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowProblem
from flowcam_ns.alignment.refine import refine_all
from flowcam_ns.alignment.resection import KnownPart, Resection, resect
from flowcam_ns.alignment.tie import tie_frame, tie_part
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.store import FlowStore

KNOWN_KEYS, OTHER_KEYS = 16, 6
"""Most frames of the known part, and of one to be tied, whose features are looked at."""
CANDIDATES = 8
"""Pairs of frames matched in full for one part, those that look most alike."""
FOR_EACH = 3
"""Most of them with the same frame of the part to be tied."""
CROSS_FRAMES, CROSS_PAIRS = 12, 2
"""Frames of a tied part that get flow across the bridge, and with how many frames each (a single frame: twice as many).
"""
CROSS_OVERLAP = 0.25
"""Least share of a frame's points that the frame across the bridge must see."""
CONFIRMED, ENOUGH = 0.3, 4
"""Share of those pairs whose flow must be trustworthy for the tie to be believed; of many pairs, so many do."""
MAX_SINGLE_FRAMES = 64
"""Single frames tried at most, and tries with finer features; a video with more of them is beyond mending."""


@dataclass(frozen=True)
class Video:
    """What bridges are built from."""

    store: FlowStore
    features: Features
    problem: FlowProblem
    """The whole video's measurements at a few points a frame."""
    few: Float32[np.ndarray, "frames few 2"]
    """Those points, px."""
    points: Float32[np.ndarray, "frames points 2"]
    """The points at which flow across bridges is measured, px."""


@dataclass
class Bridged:
    """A part with all that could be tied to it."""

    part: Part
    crossing: Measurements | None = None
    """Flow between frames that features tied together."""
    by_features: dict[int, list[int]] = field(default_factory=dict)
    """Frames whose tie flow does not confirm, and those whose many features tell it."""
    why_not: dict[int, str] = field(default_factory=dict)
    """For frames that could not be tied: what was missing."""
    revisits: int = 0
    """Returns to a known place by which drift was taken out."""


def bridge(video: Video, main: Part, others: list[Part]) -> Bridged:
    """Tie the other parts, then single frames, to the main part; the tied part that is longest in the end.

    Args:
        video: flow and features.
        main: the part to begin with, its lens settled.
        others: the other parts.
    """
    result, left = _tie_all(video, main, others)
    untied = {frame for part in left for frame in part.frames.tolist()} - result.part.place().keys()
    if len(untied) > len(result.part):
        start = _under_lens(video, left[0], main)
        rival, _ = _tie_all(video, start, [main, *left[1:]])
        if len(rival.part) > len(result.part):
            return rival
    return result


def _tie_all(video: Video, main: Part, others: list[Part]) -> tuple[Bridged, list[Part]]:
    """The main part with what could be tied, and the parts that are left."""
    known = KnownPart(video.store, video.features, video.problem, main)
    work = _Ties(video, known)
    left = list(others)
    while (tied := next((part for part in work.by_likeness(left) if work.tie_part(part)), None)) is not None:
        left = [part for part in left if part is not tied]
    while work.tie_some_frame():
        pass
    reasons = {frame: why for frame, why in work.why_not.items() if frame not in work.known.part.place()}
    return Bridged(work.known.part, work.crossing, work.by_features, reasons), left


class _Ties:
    """The known part as it grows over bridges."""

    def __init__(self, video: Video, known: KnownPart) -> None:
        self.video, self.known = video, known
        self.crossing: Measurements | None = None
        self.by_features: dict[int, list[int]] = {}
        self.why_not: dict[int, str] = {}
        self._seen: dict[Pair, Resection | None] = {}
        self._likeness: dict[Pair, int] = {}
        self._failed: dict[tuple[int, ...], int] = {}
        self._finer: KnownPart | None = None
        self._finer_tries = 0

    def by_likeness(self, parts: list[Part]) -> list[Part]:
        """The parts worth a try, those that look most like the known one first."""
        fresh = [part for part in parts if self._failed.get(tuple(part.frames.tolist())) != len(self.known.part)]
        return sorted(fresh, key=lambda part: -self._alike(_keys(part.frames.tolist(), OTHER_KEYS))[0][0])

    def tie_part(self, part: Part) -> bool:
        """Try to join a part."""
        frames = part.frames.tolist()
        self._failed[tuple(frames)] = len(self.known.part)
        seen = self._resections(frames)
        if not seen:
            self._refuse(frames, "no features match those of the other frames")
            return False
        part = self._under_known_lens(part)
        tied = tie_part(self.known, self._known_by(self.video.features, part), seen)
        if tied is None:
            self._refuse(frames, "its matched features agree with no single position")
            return False
        return self._join(tied)

    def tie_some_frame(self) -> bool:
        """Try to join single frames that no part holds; True where one was joined, so that others may follow."""
        known = self.known.part.place()
        loose = [frame for frame in range(len(self.video.points)) if frame not in known]
        joined = False
        for frame in loose[:MAX_SINGLE_FRAMES]:
            if self._failed.get((frame,)) == len(self.known.part):
                continue
            self._failed[(frame,)] = len(self.known.part)
            seen = self._resections([frame])
            if not seen:
                self._refuse([frame], "no features match those of the other frames")
                continue
            joined = self._join(self._tied_frame(seen)) or self._join_by_finer_features(frame) or joined
        return joined

    def _tied_frame(self, seen: list[Resection]) -> Part:
        at = rays(self._centred(seen[0].frame), self.known.part.state.lens).T.numpy()
        return tie_frame(self.known, seen, at)

    def _join_by_finer_features(self, frame: int) -> bool:
        """Join a single frame that features tie and flow does not confirm."""
        if self._finer_tries == MAX_SINGLE_FRAMES:
            return False
        self._finer_tries += 1
        if self._finer is None:
            self._finer = self._known_by(self.video.features.finer(), self.known.part)
        self._finer.grow_to(self.known.part)
        seen = tied_firmly(self._finer, frame, [other for other, _ in self._likely_pairs([frame])])
        if not seen:
            return False
        self.known.grow_to(self.known.part.joined(self._tied_frame(seen)))
        self.by_features[frame] = [resection.known for resection in seen]
        return True

    def _known_by(self, features: Features, part: Part) -> KnownPart:
        return KnownPart(self.video.store, features, self.video.problem, part)

    def _join(self, tied: Part) -> bool:
        """Join a part whose place is roughly known, if flow across the bridge confirms it."""
        joined = self.known.part.joined(tied)
        pairs = self._cross_pairs(joined, tied)
        crossing = None
        if pairs:
            frames = sorted({frame for pair in pairs for frame in pair})
            place = joined.place()
            rows = [place[frame] for frame in frames]
            state = replace(joined.state, c2w=joined.state.c2w[rows], inverse_depth=joined.state.inverse_depth[rows])
            predict = FlowPrediction(self.video.store, self.video.few[frames], frames, state)
            crossing = measure_far_pairs(self.video.store, self.video.points, predict, pairs)
        good = set() if crossing is None else {(min(pair), max(pair)) for pair in crossing.pairs}
        if crossing is None or len(good) < min(max(1, CONFIRMED * len(pairs)), ENOUGH):
            self._refuse(tied.frames.tolist(), "features match those of other frames, but flow does not confirm it")
            return False
        self.crossing = crossing if self.crossing is None else self.crossing + crossing
        self.known.grow_to(joined)
        return True

    def _cross_pairs(self, joined: Part, tied: Part) -> list[Pair]:
        """Pairs of frames on both sides of a bridge that see most of the same."""
        problem, place, new = joined.problem(self.video.problem), joined.place(), set(tied.frames.tolist())
        old = torch.tensor([frame not in new for frame in joined.frames.tolist()])
        pairs: list[Pair] = []
        for frame in _keys(tied.frames.tolist(), CROSS_FRAMES):
            overlap = overlaps(problem, joined.state, place[frame]) * old
            for _ in range(CROSS_PAIRS * (2 if len(tied) == 1 else 1)):
                best = int(overlap.argmax())
                if float(overlap[best]) < CROSS_OVERLAP:
                    break
                other = int(joined.frames[best])
                pairs.append((min(frame, other), max(frame, other)))
                overlap[max(0, best - 1) : best + 2] = 0
        return pairs

    def _resections(self, frames: list[int]) -> list[Resection]:
        """Poses of some of the frames by the known frames that look most like them."""
        found = []
        for known, frame in self._likely_pairs(frames):
            if (known, frame) not in self._seen:
                self._seen[known, frame] = resect(self.known, frame, known)
            if (resection := self._seen[known, frame]) is not None:
                found.append(resection)
        return found

    def _likely_pairs(self, frames: list[int]) -> list[Pair]:
        """(Known frame, one of the frames) that look most alike."""
        pairs: list[Pair] = []
        tried: dict[int, int] = {}
        for _, known, frame in self._alike(_keys(frames, OTHER_KEYS)):
            if tried.get(frame, 0) < FOR_EACH and len(pairs) < CANDIDATES:
                tried[frame] = tried.get(frame, 0) + 1
                pairs.append((known, frame))
        return pairs

    def _alike(self, frames: list[int]) -> list[tuple[int, int, int]]:
        """(likeness, known frame, frame) for key frames of the known part and the given ones, most alike first."""
        beside = [frame + side for frame in (frames[0], frames[-1]) for side in (-1, 1)]
        place = self.known.part.place()
        keys = sorted({*_keys(list(place), KNOWN_KEYS), *(frame for frame in beside if frame in place)})
        missing = [frame for frame in frames if any((known, frame) not in self._likeness for known in keys)]
        if missing:
            counts = self.video.features.likeness(keys, missing)
            for row, known in enumerate(keys):
                for column, frame in enumerate(missing):
                    self._likeness[known, frame] = int(counts[row, column])
        return sorted(((self._likeness[k, frame], k, frame) for k in keys for frame in frames), reverse=True)

    def _under_known_lens(self, part: Part) -> Part:
        return _under_lens(self.video, part, self.known.part)

    def _centred(self, frame: int) -> torch.Tensor:
        return self.video.problem.points[frame].double()

    def _refuse(self, frames: Iterable[int], why: str) -> None:
        self.why_not.update(dict.fromkeys(frames, why))


def _under_lens(video: Video, part: Part, like: Part) -> Part:
    """A part solved again under the lens of another, which is held."""
    lens = like.state.lens
    belief = LensBelief.of_known(lens)
    problem = part.problem(video.problem)
    solved = refine_all(problem, replace(part.state, lens=lens), belief, scales=(8.0, 2.0), iterations=8)
    return Part(part.frames, solved.state)


def _keys(frames: list[int], most: int) -> list[int]:
    """At most so many of the frames, evenly spread, the first and the last among them."""
    return [frames[i] for i in sorted(set(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)))]
