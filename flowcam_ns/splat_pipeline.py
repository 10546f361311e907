"""Gaussian splats on estimated cameras: nerfstudio's pipeline, plus what a run leaves behind and how it is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE

from flowcam_ns.console import one_line_errors
from flowcam_ns.data.run_files import write_run_files
from flowcam_ns.data.splat_datamanager import FlowCamSplatDataManager, FlowCamSplatDataManagerConfig
from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.splat_model import FlowCamSplatModel, FlowCamSplatModelConfig
from flowcam_ns.pipeline import summary

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
            self.datamanager.adopt(self.datamanager.estimated.cameras())
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
        trainer, solved = training_callback_attributes.trainer, self.datamanager.reconstruction
        if solved is not None:
            for line in summary(solved, self.datamanager.frames.sources):
                CONSOLE.log(line)
            if trainer is not None:
                with one_line_errors():
                    write_run_files(trainer.base_dir, self.datamanager.frames, solved.alignment)
        return super().get_training_callbacks(training_callback_attributes)

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Means over the held-out frames."""
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}
