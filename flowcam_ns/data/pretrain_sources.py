"""Many videos to train on: what a folder holds, in any mix, and a piece of one of them as frames."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flowcam_ns.data.pretrain_layouts import read_annotation
from flowcam_ns.data.pretrain_synthetic import synthetic_frames
from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.container import frame_count
from flowcam_ns.video.dataset import FILE_NAME, read_dataset
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.image_file import image_files
from flowcam_ns.video.load import VIDEO_SUFFIXES, load_frames
from flowcam_ns.video.options import MIN_FRAMES, SMALLEST_SIDE, FrameOptions
from flowcam_ns.video.piece import load_piece

SYNTHETIC = "synthetic"
"""What `--data` says for procedural clips."""
SYNTHETIC_COUNT = 2000
MAX_DEPTH = 8
MAX_FOLDERS = 500_000
MAX_TEXT_FILES = 1_000_000
IGNORED = {"masks", "depths", "depth", "depth_masks", "mask", "colmap"}
"""Folders of images that are no photographs."""


@dataclass(frozen=True)
class Source:
    """One video."""

    name: str
    kind: Literal["video", "images", "dataset", "synthetic"]
    path: Path
    number: int = 0
    """Of a procedural clip."""
    text: Path | None = None
    """The text file of the same name, which may hold poses and lens; it is read with the frames."""

    def count(self) -> int:
        """How many frames there seem to be; 0 where that is not known without decoding."""
        if self.kind == "images":
            return len(image_files(self.path))
        if self.kind == "dataset":
            return len(read_dataset(self.path))
        if self.kind == "video":
            try:
                return frame_count(self.path)
            except FlowCamError:
                return 0
        return 0

    def load(self, first: int, frames: int, max_size: int) -> Frames:
        """`frames` neighbouring frames from number `first` on, none left out, long side at most `max_size` px.

        Poses and lens stand in `ground_truth` where the source has them. A procedural clip is given whole. Raises
        FlowCamError where nothing can be read there.
        """
        if self.kind == "synthetic":
            return synthetic_frames(self.number)
        max_size = max(max_size, SMALLEST_SIDE)
        if self.kind == "video":
            return load_piece(self.path, first, frames, max_size)
        options = FrameOptions(
            start_frame=first,
            end_frame=first + frames - 1,
            max_frames=max(frames, MIN_FRAMES),
            thin=False,
            max_size=max_size,
        )
        loaded = load_frames(self.path, options)
        annotation = read_annotation(self.path, self.text) if self.kind == "images" else None
        if annotation is not None:
            truth = annotation.truth(loaded.sources, loaded.width, loaded.height)
            loaded = replace(loaded, ground_truth=truth or loaded.ground_truth)
        return loaded


def find_sources(data: Path) -> list[Source]:
    """All videos, image folders and datasets below `data` (or in it), sorted by name; or procedural clips.

    Understood, in any mix: video files; folders of images; folders with transforms.json; RealEstate10K, CO3D and KITTI
    (see `pretrain_layouts`). Raises FlowCamError where there is nothing.
    """
    if data.name == SYNTHETIC and not data.exists():
        return [Source(f"{SYNTHETIC}_{k:05d}", "synthetic", Path(), k) for k in range(SYNTHETIC_COUNT)]
    if not data.exists():
        raise FlowCamError(f"{data} does not exist: give --data a folder of videos or image folders, or `synthetic`")
    if data.is_file():
        raise FlowCamError(f"{data} is one file: give --data a folder of many videos or image folders")
    sources: list[Source] = []
    texts: dict[str, Path] = {}
    for here, files in _folders(data):
        name = here.relative_to(data).as_posix()
        if FILE_NAME in files:
            sources.append(Source(name, "dataset", here))
        elif len(image_files(here)) >= MIN_FRAMES:
            sources.append(Source(name, "images", here))
        for file in sorted(files):
            suffix = Path(file).suffix.lower()
            if suffix in VIDEO_SUFFIXES and not file.startswith("."):
                sources.append(Source((here / file).relative_to(data).as_posix(), "video", here / file))
            elif suffix == ".txt" and len(texts) < MAX_TEXT_FILES:
                texts.setdefault(Path(file).stem, here / file)
    if not sources:
        raise FlowCamError(f"{data} holds no videos and no folders of at least {MIN_FRAMES} images")
    sources = [replace(each, text=texts.get(each.path.name)) if each.kind == "images" else each for each in sources]
    return sorted(sources, key=lambda source: source.name)


def _folders(data: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders below `data` and their files; links are followed, but each folder is visited once."""
    visited: set[Path] = set()
    for folder, subfolders, files in os.walk(data, followlinks=True):
        here = Path(folder)
        place = here.resolve()
        if place in visited:
            subfolders.clear()
            continue
        visited.add(place)
        if len(visited) > MAX_FOLDERS:
            raise FlowCamError(f"{data} holds more than {MAX_FOLDERS:,} folders: give a smaller part of it")
        deep = len(here.relative_to(data).parts) >= MAX_DEPTH or FILE_NAME in files
        subfolders[:] = [] if deep else sorted(n for n in subfolders if not n.startswith(".") and n not in IGNORED)
        yield here, files


def held_out_sources(sources: list[Source], share: float) -> tuple[list[Source], list[Source]]:
    """Train and validation videos. A video's name decides, so that adding others moves none; at least one each."""

    def rank(source: Source) -> float:
        digest = hashlib.sha256(source.name.encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    if len(sources) < 2:
        raise FlowCamError("one video is not enough: one more is needed to validate on")
    ranked = sorted(sources, key=rank)
    chosen = [source for source in ranked if rank(source) < share][: len(ranked) - 1] or ranked[:1]
    names = {source.name for source in chosen}
    return [source for source in sources if source.name not in names], chosen
