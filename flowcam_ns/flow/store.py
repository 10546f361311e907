"""Flow between any two frames of a video: computed when asked for, kept compactly, sampled at points."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from copy import copy

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from flowcam_ns.flow.cache import FlowCache, cache_key
from flowcam_ns.flow.chain import join
from flowcam_ns.flow.confidence import pixel_grid
from flowcam_ns.flow.corners import points_in_cells
from flowcam_ns.flow.estimator import FlowEstimator, make_estimator
from flowcam_ns.flow.features import Features
from flowcam_ns.flow.flow_images import FlowImages
from flowcam_ns.flow.gather import BilinearGather
from flowcam_ns.flow.lead import followed
from flowcam_ns.flow.overlay import without_overlay
from flowcam_ns.flow.pair import STEPS_PER_PX, FlowPair
from flowcam_ns.flow.texture import texture_share
from flowcam_ns.flow.threads import one_library_thread

Pair = tuple[int, int]
Progress = Callable[[int, int], None]
"""Called with (pairs done, pairs in all)."""

DEFAULT_MEMORY_BYTES = 256 * 2**20
DEFAULT_CHAIN = 32
"""Largest gap between frames whose flow starts from the flows in between."""
SAMPLED_AT_ONCE = 256
"""Directed pairs sampled in one batch; bounds the memory of a call."""


class FlowStore:
    """Optical flow of a video. Points and targets are in px of the original frames, centres at +0.5.

    Flow is estimated on small images (`FlowImages`, which also takes `masks` and `long_side`), both ways for each pair,
    by `workers` threads. Up to `memory_bytes` of it stay in memory; what doesn't fit comes from `cache` again, or is
    recomputed. Several threads may use one store at once.

    Between frames up to `chain` apart the search starts from the neighbours' flows joined together (where the estimator
    can start anywhere): on real video DIS then finds 1.5 to 2 times as many good points at a gap of 8. Where neighbours
    lie too far apart for the search, matched features lead it (`lead.py`).

    Where `overlay` is True all frames show what is not of the scene; there they are masked.

    Unless `use_confidence`, all flow that stays inside the image and off the masks has confidence 1.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "frames height width 3"],
        estimator: FlowEstimator | None = None,
        long_side: int = 512,
        masks: Bool[np.ndarray, "frames height width"] | None = None,
        cache: FlowCache | None = None,
        workers: int = 2,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        chain: int = DEFAULT_CHAIN,
        use_confidence: bool = True,
        overlay: Bool[np.ndarray, "height width"] | None = None,
    ) -> None:
        self.estimator = make_estimator() if estimator is None else estimator
        self.long_side, self.overlay = long_side, overlay
        self._given = masks
        masks = masks if overlay is None else without_overlay(masks, overlay, len(images))
        self._small = FlowImages(images, masks, long_side, self.estimator.color)
        self.height, self.width, self.scale = self._small.height, self._small.width, self._small.scale
        self.flow_height, self.flow_width = self._small.flow_height, self._small.flow_width
        self.images, self.masks = images, self._small.masks
        self.cache = cache
        self.workers = max(1, min(workers, self.estimator.max_workers))
        self.memory_bytes = memory_bytes
        self.use_confidence = use_confidence
        self.chain = chain if self.estimator.uses_initial else 0
        self.features = Features(images, self.masks, self.workers)
        self._at_size: dict[int, FlowStore] = {long_side: self}
        self._pairs: OrderedDict[Pair, FlowPair] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.images)

    def compute(self, pairs: Iterable[Pair], progress: Progress | None = None) -> None:
        """Make sure that the flow of `pairs` (in both directions) is at hand.

        On Ctrl-C the flows in the making are finished or dropped whole, and what is in the cache stays good.
        """
        wanted = list(dict.fromkeys(ordered(pair) for pair in pairs))
        with closing(self._stream(wanted)) as stream:
            for done, _ in enumerate(stream, start=1):
                if progress is not None:
                    progress(done, len(wanted))

    def sample(
        self,
        pairs: Sequence[Pair],
        points: Float32[np.ndarray, "frames points 2"] | Float32[np.ndarray, "pairs points 2"],
        per_pair: bool = False,
        progress: Progress | None = None,
    ) -> tuple[Float32[np.ndarray, "pairs points 2"], Float32[np.ndarray, "pairs points"]]:
        """Where the points of frame i lie in frame j, for pairs (i, j), and the confidence of that in [0, 1].

        `points` holds a row for each frame, or for each pair where `per_pair` is set. Confidence is 0 where a point or
        its target lies outside the image or under a mask. Pairs not computed yet are computed.
        """
        points = np.asarray(points, dtype=np.float32)
        expected = len(pairs) if per_pair else len(self)
        if points.ndim != 3 or points.shape[0] != expected or points.shape[2] != 2:
            raise ValueError(f"points must have shape ({expected}, points, 2), not {points.shape}")
        targets = np.empty((len(pairs), points.shape[1], 2), np.float32)
        confidence = np.empty(targets.shape[:2], np.float32)
        for start in range(0, len(pairs), SAMPLED_AT_ONCE):
            part = slice(start, min(start + SAMPLED_AT_ONCE, len(pairs)))
            directed = np.asarray(pairs[part], dtype=np.int64).reshape(-1, 2)
            sources = points[part] if per_pair else points[directed[:, 0]]
            targets[part], confidence[part] = self._sample_batch(directed, sources)
            if progress is not None:
                progress(part.stop, len(pairs))
        return targets, confidence

    def dense(
        self, i: int, j: int
    ) -> tuple[Float32[np.ndarray, "half_h half_w 2"], Float32[np.ndarray, "half_h half_w"]]:
        """Flow from frame i to j on a grid of half the flow image's size, and its confidence in [0, 1].

        The flow is a fraction of the image's width (x) and height (y), so it holds at any size: multiply by those of
        the image at hand.
        """
        pair = self._pair(ordered((i, j)))
        side = 0 if i < j else 1
        flow = pair.flow[side] / np.array([self.flow_width, self.flow_height], np.float32) / np.float32(STEPS_PER_PX)
        confidence = pair.confidence[side] / np.float32(255)
        if not self.use_confidence:
            confidence = confidence * _stays_inside(flow)
        confidence = confidence * self._small.off_masks(i, j, flow)
        return flow.astype(np.float32), confidence.astype(np.float32)

    def good_points(self, spacing_px: float) -> Float32[np.ndarray, "frames points 2"]:
        """One point in each cell of a regular grid with cells of about `spacing_px`: a corner or the middle, in turn.

        Every frame has the same number of points; a cell without texture or under a mask has one too.
        """
        cell = np.maximum(np.round(spacing_px * self.scale).astype(int), 1)
        found = [
            points_in_cells(self._small.grey(frame), int(cell[0]), int(cell[1]), self._small.mask(frame))
            for frame in range(len(self))
        ]
        return (np.stack(found) / self.scale).astype(np.float32)

    def at_size(self, long_side: int) -> FlowStore:
        """The same video's flow on images of another size, kept as well; the features are the same."""
        if long_side not in self._at_size:
            other = self._at_size[long_side] = FlowStore(
                self.images,
                self.estimator,
                long_side,
                self._given,
                self.cache,
                self.workers,
                self.memory_bytes,
                self.chain,
                self.use_confidence,
                self.overlay,
            )
            other.features = self.features
        return self._at_size[long_side]

    def masked(self, masks: Bool[np.ndarray, "frames height width"]) -> FlowStore:
        """The same video with more of it masked (True: may be used); it begins with the flow that is in memory here."""
        other = copy(self)
        other._given = masks if self._given is None else masks & self._given
        everything = other._given if self.overlay is None else without_overlay(other._given, self.overlay, len(self))
        other._small = self._small.masked(everything)
        other.masks = other._small.masks
        other.features = self.features.masked(other.masks)
        with self._lock:
            other._pairs = self._pairs.copy()
        other._lock, other._at_size = threading.Lock(), {}
        other._at_size[self.long_side] = other
        return other

    def release(self) -> None:
        """Let go of the flow in memory: what is asked for once more comes from the cache, or is computed again."""
        with self._lock:
            self._pairs.clear()
            self._bytes = 0

    def flow_image(self, frame: int) -> UInt8[np.ndarray, "h w *rgb"]:
        """The image of a frame on which flow is estimated."""
        return self._small[frame]

    def usable(self, frame: int, points: Float32[np.ndarray, "points 2"]) -> Bool[np.ndarray, "points"]:
        """Whether points (px) lie inside a frame and on an unmasked pixel."""
        return self._small.usable(np.array([frame]), points[None])[0]

    def texture(self, points: Float32[np.ndarray, "frames points 2"]) -> Float32[np.ndarray, "frames points"]:
        """How much of the flow at every frame's points was seen there, in [0, 1] (`texture_share`)."""
        x, y = np.moveaxis((points * self.scale).astype(np.int64), -1, 0)
        x, y = x.clip(0, self.flow_width - 1), y.clip(0, self.flow_height - 1)
        return np.stack([texture_share(self._small.grey(frame))[y[frame], x[frame]] for frame in range(len(self))])

    def weighed(self, pair: FlowPair) -> FlowPair:
        """The pair with the confidence that this store goes by."""
        return pair if self.use_confidence else pair.trusting()

    def _sample_batch(
        self, directed: np.ndarray, sources: Float32[np.ndarray, "pairs points 2"]
    ) -> tuple[Float32[np.ndarray, "pairs points 2"], Float32[np.ndarray, "pairs points"]]:
        gather = BilinearGather(sources * (self.scale / 2), self.flow_height // 2, self.flow_width // 2)
        rows: dict[Pair, list[int]] = {}
        for row, (i, j) in enumerate(directed.tolist()):
            rows.setdefault(ordered((i, j)), []).append(row)
        with closing(self._stream(list(rows))) as stream:
            for key, pair in stream:
                for row in rows[key]:
                    side = int(directed[row, 0] > directed[row, 1])
                    gather.read(row, pair.flow[side], pair.confidence[side])
        flow, confidence = gather.finish()
        targets = sources + flow / (self.scale * np.float32(STEPS_PER_PX))
        confidence = confidence / np.float32(255)
        confidence *= self._small.usable(directed[:, 0], sources) & self._small.usable(directed[:, 1], targets)
        return targets, confidence

    def _pair(self, key: Pair) -> FlowPair:
        with closing(self._stream([key])) as stream:
            return next(stream)[1]

    def _stream(self, keys: Sequence[Pair]) -> Generator[tuple[Pair, FlowPair], None, None]:
        """Every pair of `keys` (i < j, no doubles): those in memory first, then the others in their order."""
        for i, j in keys:
            if not 0 <= i < j < len(self):
                raise ValueError(f"no pair ({i}, {j}) of different frames among {len(self)} frames")
        missing = []
        for key in keys:
            if (pair := self._recall(key)) is None:
                missing.append(key)
            else:
                yield key, pair
        # Chains start from their links, so those are finished first and no two workers estimate the same one.
        links = {link: None for key in missing for link in self._links(key) if self._recall(link) is None}
        wanted = set(missing)
        with closing(self._work(list(links))) as done:
            yield from (item for item in done if item[0] in wanted)
        with closing(self._work([key for key in missing if key not in links])) as done:
            yield from done

    def _work(self, keys: Sequence[Pair]) -> Generator[tuple[Pair, FlowPair], None, None]:
        """The pairs of `keys` in their order, made by the workers and kept in memory."""
        if not keys:
            return
        with one_library_thread(), ThreadPoolExecutor(self.workers, thread_name_prefix="flow") as pool:
            waiting: deque[tuple[Pair, Future[FlowPair]]] = deque()
            todo = iter(keys)
            try:
                while True:
                    while len(waiting) < 4 * self.workers and (key := next(todo, None)) is not None:
                        waiting.append((key, pool.submit(self._estimate, key)))
                    if not waiting:
                        return
                    key, future = waiting.popleft()
                    pair = future.result()
                    self._keep(key, pair)
                    yield key, pair
            finally:
                # Also on Ctrl-C and errors: what has not begun is dropped, what has is a matter of milliseconds.
                for _, future in waiting:
                    future.cancel()

    def _recall(self, key: Pair) -> FlowPair | None:
        with self._lock:
            if (pair := self._pairs.get(key)) is not None:
                self._pairs.move_to_end(key)
            return pair

    def _keep(self, key: Pair, pair: FlowPair) -> None:
        with self._lock:
            if key in self._pairs:
                return
            self._pairs[key] = pair
            self._bytes += pair.nbytes
            while self._bytes > self.memory_bytes and len(self._pairs) > 1:
                _, dropped = self._pairs.popitem(last=False)
                self._bytes -= dropped.nbytes

    def _links(self, key: Pair) -> list[Pair]:
        """The pairs of neighbours whose joined flow is where the search for `key` starts."""
        i, j = key
        return [(k, k + 1) for k in range(i, j)] if 1 < j - i <= self.chain else []

    def _estimate(self, key: Pair) -> FlowPair:
        """From the cache or the estimator; runs in a worker thread."""
        name = ""
        if self.cache is not None:
            frames = range(key[0], key[1] + 1) if self._links(key) else key
            name = cache_key("pair 5", self.estimator.key, *map(self._small.digest, frames))
            cached = FlowPair.from_arrays(self.cache.get(name), self.flow_height, self.flow_width)
            if cached is not None:
                return self.weighed(cached)
        first, second = self._small[key[0]], self._small[key[1]]
        there, back = self._starts(key)
        found = self.estimator(first, second, there)
        pair = FlowPair.from_dense(found, self.estimator(second, first, back))
        if key[1] - key[0] == 1:
            pair = followed(pair, found, self.estimator, (first, second), lambda: self._matched(key))
        if self.cache is not None:
            self.cache.put(name, pair.arrays())
        return self.weighed(pair)

    def _matched(self, key: Pair) -> tuple[Float32[np.ndarray, "n 2"], Float32[np.ndarray, "n 2"]]:
        """Where two frames show the same features, px of their flow images."""
        rows, partners = self.features.match(*key)
        here, there = (self.features.of(frame).points * self.scale for frame in key)
        return here[rows], there[partners]

    def _starts(
        self, key: Pair
    ) -> tuple[Float32[np.ndarray, "h w 2"], Float32[np.ndarray, "h w 2"]] | tuple[None, None]:
        """Where the searches from the first frame of `key` to the second and back begin, in px of the flow image."""
        links = self._links(key)
        if not links:
            return None, None
        pairs = []
        for link in links:
            if (pair := self._recall(link)) is None:  # dropped from memory meanwhile
                pair = self._estimate(link)
                self._keep(link, pair)
            pairs.append(pair)
        joined = join([pair.start(0) for pair in pairs]), join([pair.start(1) for pair in reversed(pairs)])
        size = self.flow_width, self.flow_height
        there, back = (2 * cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR) for flow in joined)
        return there, back


def ordered(pair: Pair) -> Pair:
    """The pair with its smaller frame number first."""
    i, j = int(pair[0]), int(pair[1])
    return (i, j) if i < j else (j, i)


def _stays_inside(flow: Float32[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """Where flow (fractions of the image) ends inside the image."""
    height, width = flow.shape[:2]
    x, y = pixel_grid(height, width)
    ends = np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1) + flow
    return ((ends >= 0) & (ends < 1)).all(-1)
