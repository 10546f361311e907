"""Whole posed frames and seed points for Gaussian splats; poses are solved when a training run is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import tyro
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from flowcam_ns.alignment.dense_cloud import dense_point_cloud
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.data.dataparser import FlowCamDataParser, FlowCamDataParserConfig
from flowcam_ns.data.dataset import FlowCamDataset
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.data.solve import Reconstruction, reconstruct
from flowcam_ns.model.camera_optimizer import EstimatedCameras, FlowCameraOptimizer, FlowCameraOptimizerConfig
from flowcam_ns.video.frames import Frames


@dataclass
class FlowCamSplatDataManagerConfig(FullImageDatamanagerConfig):
    """Frames in memory with the cameras and points that flow gave them."""

    _target: type = field(default_factory=lambda: FlowCamSplatDataManager)
    """Target class to instantiate."""
    dataparser: FlowCamDataParserConfig = field(default_factory=FlowCamDataParserConfig)
    """The input and which of its frames to use."""
    alignment: Annotated[AlignmentOptions, tyro.conf.arg(prefix_name=False)] = field(default_factory=AlignmentOptions)
    """How camera poses are solved from optical flow."""
    seed_points: int = 200_000
    """Largest number of points that Gaussians start from."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """Type of the images kept in memory."""


class FlowCamSplatDataManager(FullImageDatamanager[FlowCamDataset]):
    """nerfstudio's datamanager of whole images. Its cameras travel in the checkpoint, as buffers of `estimated`."""

    config: FlowCamSplatDataManagerConfig
    dataparser: FlowCamDataParser

    def __init__(
        self,
        config: FlowCamSplatDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        **kwargs: Any,
    ) -> None:
        super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        self.estimated: FlowCameraOptimizer = FlowCameraOptimizerConfig().setup(
            num_cameras=len(self.frames), device="cpu"
        )
        self.reconstruction: Reconstruction | None = None
        # `ns-render dataset` builds a second datamanager from the same config object, after loading the checkpoint.
        known = getattr(config, "_estimated_cameras", None)
        if known is not None:
            self.adopt(known)
        elif test_mode == "val":
            self._solve()

    @property
    def frames(self) -> Frames:
        """All selected frames, at the size at which poses are solved."""
        return self.dataparser.shared.frames

    @torch.no_grad()
    def adopt(self, cameras: EstimatedCameras) -> None:
        """Rebuild both datasets with these cameras, without the frames that could not be posed."""
        self.config._estimated_cameras = cameras  # type: ignore[attr-defined]
        self.estimated.set_cameras(cameras)
        self.dataparser.cameras = cameras
        self.train_dataparser_outputs = self.dataparser.get_dataparser_outputs(split="train")
        self.train_dataset = self.create_train_dataset()
        self.eval_dataset = self.create_eval_dataset()
        for cached in ("cached_train", "cached_eval"):
            self.__dict__.pop(cached, None)
        self.train_unseen_cameras = self.sample_train_cameras()
        self.eval_unseen_cameras = list(range(len(self.eval_dataset)))

    def _solve(self) -> None:
        """Cameras and dense depths of the input, then its seed points."""
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=CONSOLE, transient=True
        ) as bars:
            task = bars.add_task("Camera poses from optical flow", total=1.0)

            def report(stage: str, fraction: float, c2w: Tensor | None) -> None:
                bars.update(task, description=stage, completed=fraction)

            solved = reconstruct(self.frames, held_out_frames(len(self.frames)), self.config.alignment, report)
        self.reconstruction = solved
        foreign = solved.alignment.foreign
        self.dataparser.foreign = foreign
        self.adopt(solved.cameras)
        masks = self.frames.without(None if foreign is None else foreign.numpy()).masks
        xyz, rgb, _ = dense_point_cloud(
            torch.from_numpy(self.frames.images),
            solved.alignment.c2w,
            solved.alignment.camera,
            solved.inverse_depth,
            solved.confidence,
            self.config.seed_points,
            None if masks is None else torch.from_numpy(masks),
        )
        self.train_dataparser_outputs.metadata |= {"points3D_xyz": xyz, "points3D_rgb": rgb}
