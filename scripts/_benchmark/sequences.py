"""Recorded sequences as every method is given them: a folder of images, the truth kept apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.dataset import FILE_NAME, read_dataset
from flowcam_ns.video.frames import Frames, GroundTruth
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions

NAMES = ("flip_phone_desk", "box_realsense", "redkitchen_a", "fox:23", "kitti06_street")
"""The sequences that figures are given for: folders; ":n" takes only the first n frames."""


@dataclass(frozen=True)
class RecordedSequence:
    """Frames with a known truth."""

    name: str
    frames: Frames
    files: list[Path]
    """The image of every frame."""

    @property
    def truth(self) -> GroundTruth:
        """Poses and lens that came with the dataset."""
        assert self.frames.ground_truth is not None
        return self.frames.ground_truth

    def link_images(self, folder: Path) -> Path:
        """A folder of links to the images alone, named in temporal order: what all methods read, with no truth near."""
        folder.mkdir(parents=True)
        for index, file in enumerate(self.files):
            (folder / f"{index:06}{file.suffix}").symlink_to(file.absolute())
        return folder


def load_sequence(data: Path, name: str) -> RecordedSequence:
    """Read `name`, a dataset folder below `data`; "name:23" means its first 23 frames.

    Raises FlowCamError where it is not there or knows no true poses.
    """
    folder, _, count = name.partition(":")
    if count and not count.isdecimal():
        raise FlowCamError(f"{name}: after the colon stands how many frames are used, such as {folder}:23")
    frames = load_frames(data / folder, FrameOptions(end_frame=int(count) - 1 if count else None))
    if frames.ground_truth is None:
        raise FlowCamError(f"{data / folder} has no true poses to compare with ({FILE_NAME})")
    files = {file.name: file for file in (entry.image for entry in read_dataset(data / folder))}
    if len(files) < len(frames) or not all(source in files for source in frames.sources):
        raise FlowCamError(f"{data / folder}: its images must lie in one folder")
    return RecordedSequence(name, frames, [files[source] for source in frames.sources])


def all_names(data: Path) -> Iterable[str]:
    """Every dataset folder below `data`; FlowCamError where there is none."""
    names = sorted(file.parent.name for file in data.glob(f"*/{FILE_NAME}"))
    if not names:
        raise FlowCamError(f"{data} holds no folder with a {FILE_NAME}; name your recorded sequences with --data")
    return names
