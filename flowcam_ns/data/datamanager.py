"""Rays of posed frames, one frame a batch, and every copy of the cameras that nerfstudio keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from flowcam_ns.data.camera_copies import write_cameras
from flowcam_ns.data.dataparser import FlowCamDataParser, FlowCamDataParserConfig
from flowcam_ns.data.dataset import FlowCamDataset
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.video.frames import Frames


@dataclass
class FlowCamDataManagerConfig(VanillaDataManagerConfig):
    """Frames in memory; a batch is rays of one frame, because the field picks its context frames by that view."""

    _target: type = field(default_factory=lambda: FlowCamDataManager)
    """Target class to instantiate."""
    dataparser: FlowCamDataParserConfig = field(default_factory=FlowCamDataParserConfig)
    """The input and which of its frames to use."""


class FlowCamDataManager(VanillaDataManager[FlowCamDataset]):
    """nerfstudio's datamanager over decoded frames, with `set_cameras` to move all cameras at once."""

    config: FlowCamDataManagerConfig
    dataparser: FlowCamDataParser

    def __init__(
        self,
        config: FlowCamDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        **kwargs: Any,
    ) -> None:
        super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        # `ns-render dataset` builds a second datamanager from the same config object, after loading the checkpoint.
        estimated = getattr(config, "_estimated_cameras", None)
        if estimated is not None:
            self.drop_unposed(estimated)

    @property
    def frames(self) -> Frames:
        """All selected frames, at the size at which poses are solved."""
        return self.dataparser.shared.frames

    @torch.no_grad()
    def set_cameras(self, estimated: EstimatedCameras) -> None:
        """Move every copy of the cameras, in place: datasets, their dataparser outputs, ray generators, eval loaders.

        On CUDA these copies do not share memory; a tool reads whichever it likes.
        """
        self.config._estimated_cameras = estimated  # type: ignore[attr-defined]
        for cameras in self.camera_copies():
            assert cameras.metadata is not None
            write_cameras(cameras, cameras.metadata["frame_index"][:, 0], estimated)
        if hasattr(self, "fixed_indices_eval_dataloader"):
            indices = self.eval_dataset.metadata["frame_index"].tolist()
            posed = [row for row, frame in enumerate(indices) if estimated.posed[frame]]
            self.fixed_indices_eval_dataloader.image_indices = posed or [0]

    def set_scene_box(self, box: Float[Tensor, "2 3"]) -> None:
        """Tell tools where the scene lies: what `ns-export tsdf --use-bounding-box False` fuses."""
        self.train_dataparser_outputs.scene_box.aabb.copy_(box)
        for dataset in (self.train_dataset, self.eval_dataset):
            dataset.scene_box.aabb.copy_(box)
            dataset._dataparser_outputs.scene_box.aabb.copy_(box)

    def leave_out(self, foreign: Bool[Tensor, "frames h w"] | None) -> None:
        """Train nothing where frames show what is not of the still scene; scores count it all the same."""
        self.dataparser.foreign = self.train_dataset.metadata["foreign"] = foreign

    def camera_copies(self) -> Iterator[Cameras]:
        """All `Cameras` objects that exist now."""
        for dataset in (self.train_dataset, self.eval_dataset):
            yield dataset.cameras
            yield dataset._dataparser_outputs.cameras
        yield self.train_dataparser_outputs.cameras
        holders = ("train_ray_generator", "eval_ray_generator", "fixed_indices_eval_dataloader", "eval_dataloader")
        for name in holders:
            if hasattr(self, name):
                yield getattr(self, name).cameras

    def drop_unposed(self, estimated: EstimatedCameras) -> None:
        """Adopt final cameras and rebuild both datasets without the frames that could not be posed."""
        self.dataparser.cameras = estimated
        self.train_dataparser_outputs = self.dataparser.get_dataparser_outputs(split="train")
        self.train_dataset = self.create_train_dataset()
        self.eval_dataset = self.create_eval_dataset()
        if hasattr(self, "train_ray_generator"):
            self.setup_train()
        if hasattr(self, "eval_ray_generator"):
            self.setup_eval()
        self.set_cameras(estimated)

    def setup_train(self) -> None:
        """Prepare ray sampling; frames are in memory already, so nothing is cached a second time."""
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, self.config.train_num_rays_per_batch)
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device)).to(self.device)

    def setup_eval(self) -> None:
        """Prepare held-out frames."""
        self.eval_pixel_sampler = self._get_pixel_sampler(self.eval_dataset, self.config.eval_num_rays_per_batch)
        self.eval_ray_generator = RayGenerator(self.eval_dataset.cameras.to(self.device)).to(self.device)
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(self.eval_dataset, device=self.device)
        self.eval_dataloader = RandIndicesEvalDataloader(self.eval_dataset, device=self.device)

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Tensor]]:
        """The rays and colours of a random window of a random posed training frame."""
        self.train_count += 1
        return self._random_window(self.train_dataset, self.train_ray_generator, self.get_train_rays_per_batch())

    def next_eval(self, step: int) -> tuple[RayBundle, dict[str, Tensor]]:
        """The rays and colours of a random window of a random posed held-out frame."""
        self.eval_count += 1
        return self._random_window(self.eval_dataset, self.eval_ray_generator, self.get_eval_rays_per_batch())

    def _random_window(
        self, dataset: FlowCamDataset, generator: RayGenerator, count: int
    ) -> tuple[RayBundle, dict[str, Tensor]]:
        """About `count` rays of a window as square as the image allows; bundle and batch have its shape (h, w)."""
        rows = self._posed_rows(dataset)
        row = int(rows[torch.randint(len(rows), ())])
        item = dataset.get_data(row, image_type="uint8")
        image: Tensor = item["image"]
        side = math.isqrt(count)
        height, width = min(side, image.shape[0]), min(side, image.shape[1])
        top = int(torch.randint(image.shape[0] - height + 1, ()))
        left = int(torch.randint(image.shape[1] - width + 1, ()))
        window = slice(top, top + height), slice(left, left + width)
        y, x = torch.meshgrid(torch.arange(top, top + height), torch.arange(left, left + width), indexing="ij")
        indices = torch.stack([torch.full_like(x, row), y, x], dim=-1)
        batch = {"indices": indices, "image": (image[window].float() / 255).to(self.device)}
        if "mask" in item:
            batch["mask"] = item["mask"][window].to(self.device)
        bundle = generator(indices.reshape(-1, 3).to(self.device))
        return bundle.reshape((height, width)), batch

    def _posed_rows(self, dataset: FlowCamDataset) -> Int[Tensor, "rows"]:
        estimated: EstimatedCameras | None = getattr(self.config, "_estimated_cameras", None)
        if estimated is None:
            return torch.arange(len(dataset))
        rows = estimated.posed[dataset.metadata["frame_index"]].nonzero()[:, 0]
        return rows if len(rows) else torch.zeros(1, dtype=torch.long)
