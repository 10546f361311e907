"""Batches of clips out of many videos: a pure function of the step, so that runs resume and ranks share the work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.data.network_lens import estimate_lens, guessed_lens
from flowcam_ns.data.pretrain_sources import Source
from flowcam_ns.data.pretrain_video import PretrainVideo
from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.estimator import EstimatorName, FlowEstimator, make_estimator
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.clip import Clip
from flowcam_ns.video.frames import Frames

TRIES = 20
"""Unusable videos met one after the other before it is said that none can be used."""
LOADED_OVER_NETWORK = 4
"""Frames are decoded at this many times the network's size, so that cropping leaves enough for the flow."""


@dataclass
class PretrainClipsConfig:
    """How clips are cut from the videos."""

    height: int = 128
    """Height in px of the frames that the network sees; other shapes are cropped about their middle."""
    width: int = 128
    """Width in px."""
    keep_shape: bool = False
    """Show each video whole, in its own shape, with the larger of height and width as its long side: as videos are
    shown to a network that is used. Then a batch holds one clip."""
    clip_length: int = 8
    """Frames in a clip."""
    clips_per_batch: int = 2
    """Clips in a batch of one process; every further process adds as many of its own."""
    frame_skip: tuple[int, int] = (1, 3)
    """Least and largest distance between neighbouring frames of a clip, drawn for each clip."""
    reverse: float = 0.0
    """Share of the clips that are played backwards."""
    context_rays: int = 1024
    """Pixels of each frame where surfaces, poses and flow are computed."""
    target_rays: int = 1024
    """Pixels of each frame that are re-rendered from other frames; 0 leaves re-rendering out."""
    frames_per_visit: int = 64
    """Frames of a video that are read at once; clips are cut from them."""
    videos_in_memory: int = 8
    """Videos that clips are cut from in turn."""
    clips_per_visit: int = 32
    """Clips cut from a video before another one takes its place."""
    flow: EstimatorName = "auto"
    """Optical flow: RAFT on a GPU, OpenCV's DIS without one; `raft-small` is what the authors trained with."""
    lens: Literal["estimate", "typical"] = "estimate"
    """Where a video comes without a lens: estimate it from a few frames, once, or assume a typical phone's."""
    validation_share: float = 0.1
    """Share of the videos that are kept for validation."""
    validation_clips: int = 16
    """Clips of those that are scored, always the same ones."""
    seed: int = 0
    """What clips and pixels are drawn by."""


@dataclass
class PretrainBatch:
    """What one step sees."""

    clip: Clip
    context_rays: Int[Tensor, "context_rays"]
    target_rays: Int[Tensor, "target_rays"]
    c2w: Float[Tensor, "batch frames 4 4"]
    """True poses, for scores alone; NaN where unknown."""

    def to(self, device: torch.device | str) -> PretrainBatch:
        """The batch on a device."""
        present = {name: value for name, value in vars(self.clip).items() if value is not None}
        moved: dict[str, Any] = {name: value.to(device) for name, value in present.items()}
        rays = self.context_rays.to(device), self.target_rays.to(device)
        return PretrainBatch(Clip(**moved), *rays, self.c2w.to(device))


@dataclass
class PretrainClips:
    """Cuts clips from sources; several calls at once are safe."""

    sources: Sequence[Source]
    config: PretrainClipsConfig
    device: str = "cpu"
    """Where flow networks run."""
    rank: int = 0
    world_size: int = 1
    estimator: FlowEstimator = field(init=False)

    def __post_init__(self) -> None:
        self.estimator = make_estimator(self.config.flow, self.device)
        self._visits: OrderedDict[tuple[int, int], PretrainVideo] = OrderedDict()
        self._lenses: dict[str, tuple[float, float, float, float]] = {}
        self._unusable: set[str] = set()
        self._lock = threading.RLock()

    def batch(self, step: int) -> PretrainBatch:
        """The clips of a step. Clips are numbered through over all ranks: more ranks mean more of them a step."""
        own = self.config.clips_per_batch
        first = (step * self.world_size + self.rank) * own
        return collated([self._clip(first + k) for k in range(own)], self.config, step)

    def validation_batch(self, number: int) -> PretrainBatch:
        """Clip `number` (of `validation_clips`), the same in every run: from the middle of a video, skip 1."""
        video = self._visit(number, 0, np.random.default_rng([self.config.seed, 3, number]), number)
        length = min(self.config.clip_length, len(video))
        start = (len(video) - length) // 2
        return collated([video.clip(range(start, start + length))], self.config, number)

    def _clip(self, number: int) -> tuple[Clip, Float[Tensor, "frames 4 4"]]:
        config = self.config
        random = np.random.default_rng([config.seed, 1, number])
        slot, generation = (
            number % config.videos_in_memory,
            number // (config.videos_in_memory * config.clips_per_visit),
        )
        seen = np.random.default_rng([config.seed, 2, slot, generation])
        video = self._visit(slot, generation, seen, int(seen.integers(len(self.sources))))
        skip = int(random.integers(config.frame_skip[0], config.frame_skip[1] + 1))
        skip = max(min(skip, (len(video) - 1) // (config.clip_length - 1)), 1)
        reach = skip * (config.clip_length - 1)
        start = int(random.integers(len(video) - reach))
        indices = list(range(start, start + reach + 1, skip))
        return video.clip(indices[::-1] if random.random() < config.reverse else indices)

    def _visit(self, slot: int, generation: int, random: np.random.Generator, which: int) -> PretrainVideo:
        """The piece of a video that a slot holds in a generation: read when first asked for."""
        with self._lock:
            if (slot, generation) not in self._visits:
                self._visits[slot, generation] = self._read(random, which)
                while len(self._visits) > max(self.config.videos_in_memory, self.config.validation_clips):
                    self._visits.popitem(last=False)
            self._visits.move_to_end((slot, generation))
            return self._visits[slot, generation]

    def _read(self, random: np.random.Generator, which: int) -> PretrainVideo:
        """A piece of source `which`, or of the next one that can be used."""
        reason = "named above"
        for attempt in range(TRIES):
            source = self.sources[(which + attempt) % len(self.sources)]
            if source.name in self._unusable:
                continue
            try:
                video = self._piece(source, random)
            except FlowCamError as error:
                reason = str(error)
            else:
                if len(video) >= self.config.clip_length:
                    return video
                reason = f"{source.name} has {len(video)} frames; a clip takes {self.config.clip_length}"
            self._unusable.add(source.name)
            print(f"Left out of the training: {source.name} ({reason})")
        raise FlowCamError(f"{TRIES} videos one after the other cannot be used; the last one: {reason}")

    def _piece(self, source: Source, random: np.random.Generator) -> PretrainVideo:
        config = self.config
        spare = max(source.count() - config.frames_per_visit, 0)
        side = LOADED_OVER_NETWORK * max(config.height, config.width)
        frames = self._load(source, int(random.integers(spare + 1)), side)
        size = config.height, config.width
        if config.keep_shape:
            scale = max(size) / max(frames.height, frames.width)
            size = max(round(frames.height * scale), 8), max(round(frames.width * scale), 8)
        return PretrainVideo(frames, self._lens(source, frames), size, self.estimator)

    def _load(self, source: Source, first: int, side: int) -> Frames:
        """The frames from `first` on, or from nearer the start: a container may promise more than there are."""
        while True:
            try:
                frames = source.load(first, self.config.frames_per_visit, side)
            except FlowCamError:
                if first == 0:
                    raise
            else:
                if first == 0 or len(frames) >= self.config.clip_length:
                    return frames
            first //= 2

    def _lens(self, source: Source, frames: Frames) -> Camera:
        """The source's own lens, or the one estimated (or assumed) the first time that it is read."""
        truth, width, height = frames.ground_truth, frames.width, frames.height
        if truth is not None and truth.camera is not None:
            return truth.camera
        if source.name not in self._lenses:
            lens = guessed_lens(frames)
            if self.config.lens == "estimate":
                lens, _, _ = estimate_lens(frames, AlignmentOptions(cache=False, refine_distortion=False))
            self._lenses[source.name] = (lens.fx / width, lens.fy / height, lens.cx / width, lens.cy / height)
        fx, fy, cx, cy = self._lenses[source.name]
        return Camera(width, height, fx * width, fy * height, cx * width, cy * height)


def collated(
    clips: Sequence[tuple[Clip, Float[Tensor, "frames 4 4"]]], config: PretrainClipsConfig, step: int
) -> PretrainBatch:
    """Clips as one batch, with the pixels of a step: the same for all of them, and on every rank."""
    parts = [clip for clip, _ in clips]
    joined = {each.name: torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Clip)}
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    height, width = joined["images"].shape[-2:]
    pixels = height * width
    rays = [torch.randperm(pixels, generator=generator)[:n] for n in (config.context_rays, config.target_rays)]
    return PretrainBatch(Clip(**joined), rays[0], rays[1], torch.stack([c2w for _, c2w in clips]))


class Prefetched:
    """Batches computed one step ahead, in a thread of their own, while the network trains."""

    def __init__(self, compute: Callable[[int], PretrainBatch], ahead: int = 2) -> None:
        self._compute, self._ahead = compute, ahead
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="clips")
        self._waiting: dict[int, Future[PretrainBatch]] = {}

    def __call__(self, step: int) -> PretrainBatch:
        """The batch of a step; the following ones are begun."""
        for wanted in range(step, step + self._ahead + 1):
            if wanted not in self._waiting:
                self._waiting[wanted] = self._pool.submit(self._compute, wanted)
        for old in [number for number in self._waiting if number < step or number > step + self._ahead]:
            self._waiting.pop(old).cancel()
        return self._waiting.pop(step).result()

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
