"""Matched features: what ties two frames together where flow cannot, at a jump or a return to a known place.

SIFT (Lowe, Distinctive image features from scale-invariant keypoints, IJCV 2004) with the square-root comparison of
Arandjelovic and Zisserman (Three things everyone should know to improve object retrieval, CVPR 2012).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from flowcam_ns.flow.threads import one_library_thread

LONG_SIDE = 512
"""Images are not searched at a larger size than this."""
MOST = 1000
"""Features kept of a frame, the strongest."""
CONTRAST = 0.02
"""SIFT's contrast threshold: half the usual one, so that dull walls have features too."""
RATIO = 0.85
"""A match must be this much closer (of the distance) than the second best."""
STRONGEST = 250
"""Features that take part in the quick comparison of many frames."""
FULL_RANGE, MOST_GAIN = 160.0, 8.0
"""Grey levels that a frame should span, and how much a dark or dull one is stretched to do so: SIFT's contrast
threshold is absolute, and a video taken at night would have next to no features."""
EVERY = 4
"""One of so many rows and columns tells how many levels there are."""
MASK_MARGIN = 4
"""Features keep this far (px of the searched image) from what is masked: its edge is not the scene's."""


@dataclass(frozen=True)
class FrameFeatures:
    """Features of one frame, the strongest first."""

    points: Float32[np.ndarray, "features 2"]
    """In px of the frames, centres at +0.5."""
    descriptors: UInt8[np.ndarray, "features 128"]

    def unit(self, most: int | None = None) -> Float32[np.ndarray, "features 128"]:
        """Square roots of the descriptors, as unit vectors: their products compare histograms."""
        chosen = self.descriptors[:most].astype(np.float32)
        return np.sqrt(chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1))


class Features:
    """SIFT features of a video's frames, found when asked for and kept (about 140 kB a frame)."""

    def __init__(
        self,
        images: UInt8[np.ndarray, "frames height width 3"],
        masks: Bool[np.ndarray, "frames height width"] | None = None,
        workers: int = 2,
        detail: int = 1,
    ) -> None:
        """`masks` are True where a pixel may be used. With `detail` images are searched at so many times the size, and
        as many times as many features kept as that has more pixels.
        """
        self.images, self.masks, self.workers, self.detail = images, masks, workers, detail
        self._finer: Features | None = None
        self._found: dict[int, FrameFeatures] = {}
        self._matched: dict[tuple[int, int], tuple[Int[np.ndarray, "matches"], Int[np.ndarray, "matches"]]] = {}

    def finer(self) -> Features:
        """Features at twice the size, kept as well: for the few frames that these do not tell enough about."""
        if self._finer is None:
            self._finer = Features(self.images, self.masks, self.workers, 2 * self.detail)
        return self._finer

    def masked(self, masks: Bool[np.ndarray, "frames height width"] | None) -> Features:
        """The same with more masked: what is found already stays where it may be used."""
        other = Features(self.images, masks, self.workers, self.detail)
        for frame, found in list(self._found.items()):
            if masks is not None:
                x, y = found.points.astype(np.int64).T
                kept = masks[frame, y.clip(0, masks.shape[1] - 1), x.clip(0, masks.shape[2] - 1)]
                found = FrameFeatures(found.points[kept], found.descriptors[kept])
            other._found[frame] = found
        return other

    @contextmanager
    def found_meanwhile(self, pairs: Sequence[tuple[int, int]] = ()) -> Iterator[None]:
        """Find the features of all frames, then match these pairs, on a thread of its own while the block runs; what it
        has not got to by the end is done when asked for.
        """
        ended = threading.Event()

        def work_through() -> None:
            with one_library_thread():
                for frame in range(len(self.images)):
                    if ended.is_set():
                        return
                    self.of(frame)
                for pair in pairs:
                    if ended.is_set():
                        return
                    self._matched[pair] = self.match(*pair)

        with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:
            work = pool.submit(work_through)
            try:
                yield
            finally:
                ended.set()
            work.result()

    def compute(self, frames: Iterable[int]) -> None:
        """Find the features of several frames, side by side."""
        missing = [frame for frame in dict.fromkeys(frames) if frame not in self._found]
        with one_library_thread(), ThreadPoolExecutor(self.workers, thread_name_prefix="features") as pool:
            for _ in pool.map(self.of, missing):
                pass

    def of(self, frame: int) -> FrameFeatures:
        """The features of one frame, found by the calling thread where they are not at hand."""
        found = self._found.get(frame)
        if found is None:
            # Two threads may search the same frame at once; they find the same.
            found = self._found[frame] = self._find(frame)
        return found

    def match(self, i: int, j: int) -> tuple[Int[np.ndarray, "matches"], Int[np.ndarray, "matches"]]:
        """Features of frames i and j that are each other's best match, and much better than the second best."""
        done = self._matched.get((i, j))
        return match_descriptors(self.of(i).unit(), self.of(j).unit()) if done is None else done

    def match_all(
        self, pairs: Sequence[tuple[int, int]], progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[Int[np.ndarray, "matches"], Int[np.ndarray, "matches"]]]:
        """`match` of many pairs, side by side."""
        self.compute(frame for pair in pairs for frame in pair)
        done = []
        with one_library_thread(), ThreadPoolExecutor(self.workers, thread_name_prefix="features") as pool:
            for matches in pool.map(lambda pair: self.match(*pair), pairs):
                done.append(matches)
                if progress is not None:
                    progress(len(done), len(pairs))
        return done

    def likeness(self, frames: Sequence[int], others: Sequence[int]) -> Int[np.ndarray, "frames others"]:
        """How many of the strongest features match, for many pairs of frames: quick, for a first choice."""
        self.compute([*frames, *others])
        units = {frame: self._found[frame].unit(STRONGEST) for frame in {*frames, *others}}
        return np.array([[len(match_descriptors(units[i], units[j])[0]) for j in others] for i in frames], np.int64)

    def _find(self, frame: int) -> FrameFeatures:
        usable = None if self.masks is None else self.masks[frame]
        grey = cv2.cvtColor(stretched(self.images[frame], usable), cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        factor = min(1.0, self.detail * LONG_SIDE / max(height, width))
        most = MOST * self.detail**2
        size = max(16, round(width * factor)), max(16, round(height * factor))
        if factor < 1:
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        mask = np.full(grey.shape, 255, np.uint8)
        if self.masks is not None:
            mask = cv2.resize(self.masks[frame].astype(np.uint8), grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
            mask = cv2.erode(mask, np.ones((2 * MASK_MARGIN + 1,) * 2, np.uint8))
        # A search of its own for each call: OpenCV's keeps buffers, and threads must not share them.
        # Without the precise upscale every keypoint lies a quarter of a pixel too far to the right and below.
        search = cv2.SIFT.create(nfeatures=most, contrastThreshold=CONTRAST, enable_precise_upscale=True)
        keypoints, descriptors = search.detectAndCompute(grey, mask)
        if descriptors is None or len(keypoints) == 0:
            return FrameFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
        order = sorted(range(len(keypoints)), key=lambda k: (-keypoints[k].response, keypoints[k].pt))[:most]
        points = np.array([keypoints[k].pt for k in order], np.float32) + np.float32(0.5)
        scale = np.array([width / grey.shape[1], height / grey.shape[0]], np.float32)
        return FrameFeatures(points * scale, descriptors[order].clip(0, 255).astype(np.uint8))


def stretched(
    image: UInt8[np.ndarray, "height width 3"], usable: Bool[np.ndarray, "height width"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture of little contrast with more of it; one that spans `FULL_RANGE` levels stays as it is.

    Only `usable` pixels count, and of them not the brightest and the darkest few.
    """
    few = (slice(None, None, EVERY), slice(None, None, EVERY))
    seen = image[few] if usable is None else image[few][usable[few]]
    if seen.size == 0:
        return image
    low, high = np.percentile(seen, (0.5, 99.5))
    gain = min(FULL_RANGE / max(high - low, 1), MOST_GAIN)
    if gain <= 1:
        return image
    return cv2.LUT(image, ((np.arange(256) - low) * gain).clip(0, 255).round().astype(np.uint8))


def match_descriptors(
    first: Float32[np.ndarray, "n 128"], second: Float32[np.ndarray, "m 128"]
) -> tuple[Int[np.ndarray, "matches"], Int[np.ndarray, "matches"]]:
    """Indices of unit vectors that are mutually nearest, with the ratio test in both directions' first one."""
    nothing = np.zeros(0, np.int64)
    if min(len(first), len(second)) < 2:
        return nothing, nothing
    product = first @ second.T
    rows = np.arange(len(first))
    best = product.argmax(axis=1)
    top = product[rows, best]
    mutual = product.max(axis=0)[best] == top
    product[rows, best] = -1
    distance, next_distance = (np.sqrt(np.maximum(2 - 2 * x, 0)) for x in (top, product.max(axis=1)))
    kept = np.nonzero(mutual & (distance < RATIO * next_distance))[0]
    kept = kept[np.sort(np.unique(best[kept], return_index=True)[1])]  # of equal features only one has the partner
    return kept, best[kept]
