"""A video file, image folder or dataset folder as nerfstudio dataparser outputs; poses arrive later, from flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

import torch
import tyro
from jaxtyping import Bool
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from flowcam_ns.data.camera_copies import write_cameras
from flowcam_ns.data.frame_source import decode_frames
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.video.options import FrameOptions

SCENE_HALF_SIZE = 1.0
"""The world that poses are solved in is centred on the scene and of about this half size."""
GUESSED_FOCAL = 0.85
"""Focal length over width until flow has told: a phone's main lens."""


@dataclass
class FlowCamDataParserConfig(DataParserConfig):
    """Frames of a video, image folder or dataset folder, without poses."""

    _target: type = field(default_factory=lambda: FlowCamDataParser)
    """target class to instantiate"""
    data: Path = Path()
    """Video file, folder of images, or dataset folder with transforms.json (whose poses only score the result)."""
    frames: Annotated[FrameOptions, tyro.conf.arg(prefix_name=False)] = field(default_factory=FrameOptions)
    """Which frames to take and at what size."""
    train_long_side: int = 480
    """Long side in px at which the field is trained and rendered; camera poses are solved at the frames' own size."""
    downscale_factor: float = 1.0
    """Further reduction of the size at which the field is rendered."""


class FlowCamDataParser(DataParser):
    """Decodes the input once and describes its train and held-out frames."""

    config: FlowCamDataParserConfig

    def __init__(self, config: FlowCamDataParserConfig) -> None:
        super().__init__(config)
        # nerfstudio resets this to 1 in its `inference` mode, where our own reduction must stay.
        self.downscale_factor = config.downscale_factor
        self.cameras: EstimatedCameras | None = None
        self.foreign: Bool[Tensor, "frames h w"] | None = None
        """Where frames show what is not of the still scene: nothing is trained there."""
        self.shared = decode_frames(config.data, config.frames)

    def render_size(self) -> tuple[int, int]:
        """(width, height) at which the field works."""
        return self.shared.size_within(self.config.train_long_side, self.config.downscale_factor)

    def frame_indices(self, split: str) -> list[int]:
        """Frames of a split; those that could not be posed are left out once that is known."""
        count = len(self.shared.frames)
        held_out = held_out_frames(count)
        # Of two frames none can be held out; nerfstudio's tools still need something to show.
        others = held_out or list(range(count))
        indices = [i for i in range(count) if i not in held_out] if split == "train" else others
        if self.cameras is None:
            return indices
        posed = [i for i in indices if self.cameras.posed[i]]
        return posed or indices[:1]

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: dict | None) -> DataparserOutputs:
        frames = self.shared.frames
        indices = torch.tensor(self.frame_indices(split), dtype=torch.long)
        count = len(indices)
        width, height = self.render_size()
        blank = torch.ones(count, 1)
        cameras = Cameras(
            camera_to_worlds=torch.eye(4)[:3].repeat(count, 1, 1),
            fx=blank.clone(),
            fy=blank.clone(),
            cx=blank.clone(),
            cy=blank.clone(),
            width=torch.full((count, 1), width),
            height=torch.full((count, 1), height),
            distortion_params=torch.zeros(count, 6),
            camera_type=torch.full((count, 1), CameraType.PERSPECTIVE.value),
            metadata={"frame_index": indices[:, None].clone()},
        )
        write_cameras(cameras, indices, self.cameras or self._unsolved())
        half = SCENE_HALF_SIZE
        return DataparserOutputs(
            image_filenames=[_file_name(frames.sources[i], i) for i in indices.tolist()],
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3])),
            metadata={
                "frames": self.shared,
                "frame_index": indices,
                "frame_count": len(frames),
                "held_out": held_out_frames(len(frames)),
                "render_size": (width, height),
                "foreign": self.foreign if split == "train" else None,
            },
        )

    def _unsolved(self) -> EstimatedCameras:
        """Identity poses and a guessed (or given) lens: what stands in the cameras before the solve."""
        frames = self.shared.frames
        count = len(frames)
        focal = frames.focal_prior or GUESSED_FOCAL * max(frames.width, frames.height)
        camera = frames.camera or Camera.from_focal(frames.width, frames.height, focal)
        pose = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
        return EstimatedCameras(pose, camera, torch.zeros(count, dtype=torch.bool))


def _file_name(source: str, index: int) -> Path:
    """A virtual file name: nerfstudio names its renders by it; nothing is read from it."""
    if source.isdigit():
        return Path("frames", f"frame_{int(source):05d}.png")
    # Folders stay, because images of two folders may have the same name; what leads out of ours goes.
    parts = [part for part in PurePosixPath(source).parts if part not in ("/", "..")]
    folder, name = Path("frames", *parts[:-1]), parts[-1]
    return folder / (name if Path(name).suffix else f"{index:05d}_{name}.png")
