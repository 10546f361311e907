"""Gaussian splats on estimated cameras: nerfstudio's pipeline, plus what a run leaves behind and how it is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE

from flowcam_ns.alignment.result import Alignment
from flowcam_ns.console import one_line_errors
from flowcam_ns.data.run_files import loaded_alignment, summary, write_run_files
from flowcam_ns.data.splat_datamanager import FlowCamSplatDataManager, FlowCamSplatDataManagerConfig
from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.splat_model import FlowCamSplatModel, FlowCamSplatModelConfig

STORED = "datamanager.estimated."
"""Where the checkpoint holds the cameras."""


@dataclass
class FlowCamSplatPipelineConfig(VanillaPipelineConfig):
    """Poses and points from flow, then Gaussian splats."""

    _target: type = field(default_factory=lambda: FlowCamSplatPipeline)
    """target class to instantiate"""
    datamanager: FlowCamSplatDataManagerConfig = field(default_factory=FlowCamSplatDataManagerConfig)
    """specifies the datamanager config"""
    model: FlowCamSplatModelConfig = field(default_factory=FlowCamSplatModelConfig)
    """specifies the model config"""


class FlowCamSplatPipeline(VanillaPipeline):
    """nerfstudio's pipeline; the datamanager has solved the poses by the time the model asks for seed points."""

    config: FlowCamSplatPipelineConfig
    datamanager: FlowCamSplatDataManager

    def __init__(
        self,
        config: FlowCamSplatPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        **kwargs: Any,
    ) -> None:
        with one_line_errors():
            super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        solved = self.datamanager.reconstruction
        self._alignment: Alignment | None = None if solved is None else solved.alignment

    @property
    def splats(self) -> FlowCamSplatModel:
        """The model, with its own type."""
        return cast(FlowCamSplatModel, self.model)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint; its cameras come first, because the model has a correction for each that trains."""
        with one_line_errors():
            stored = {key.removeprefix(STORED): value for key, value in loaded_state.items() if key.startswith(STORED)}
            count = len(self.datamanager.frames)
            if len(stored["c2w"]) != count:
                raise FlowCamError(
                    f"the checkpoint holds {len(stored['c2w'])} frames but the input now gives {count}: "
                    "the video or the frame options have changed since it was trained"
                )
            self.datamanager.estimated.load_state_dict(stored)
            cameras = self.datamanager.estimated.cameras()
            self.datamanager.adopt(cameras)
            if self._alignment is None or not _same(self._alignment, cameras):
                nothing = torch.zeros(count, 1, 1)
                self._alignment = loaded_alignment(cameras, nothing, nothing)
            trained = len(self.datamanager.train_dataset)
            if trained != self.splats.camera_optimizer.num_cameras:
                if self.test_mode == "val":
                    raise FlowCamError("poses came out differently from those in the checkpoint: start a new run")
                optimizer = self.config.model.camera_optimizer.setup(num_cameras=trained, device="cpu")
                self.splats.camera_optimizer = optimizer.to(self.device)
                self.splats.num_train_data = trained
            super().load_pipeline(loaded_state, step)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio's callbacks. The run's folder is known from here on: what was solved is written into it."""
        trainer, alignment = training_callback_attributes.trainer, self._alignment
        if alignment is not None:
            for line in summary(alignment, self.datamanager.frames.sources):
                CONSOLE.log(line)
            if trainer is not None:
                with one_line_errors():
                    write_run_files(trainer.base_dir, self.datamanager.frames, alignment)
        return super().get_training_callbacks(training_callback_attributes)

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Means over the held-out frames."""
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _same(alignment: Alignment, cameras: EstimatedCameras) -> bool:
    """Whether a solve came to these very cameras, so that its points and figures belong to them."""
    return (
        torch.equal(alignment.posed, cameras.posed)
        and torch.allclose(alignment.c2w.double(), cameras.c2w.double(), atol=1e-6)
        and alignment.camera == cameras.camera
    )
