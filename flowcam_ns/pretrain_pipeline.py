"""Training on many videos as a nerfstudio pipeline: steps, validation, and the checkpoint that others start from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional, cast

import torch
import torch.distributed as dist
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import Pipeline, VanillaPipeline, VanillaPipelineConfig
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.utils import save_image

from flowcam_ns.console import one_line_errors
from flowcam_ns.data.pretrain_datamanager import PretrainDataManager, PretrainDataManagerConfig
from flowcam_ns.flow.raft import RAFTFlow
from flowcam_ns.model.checkpoint import check_fits, read_checkpoint, shapes_of, to_our_names, write_checkpoint
from flowcam_ns.model.pretrain_model import PretrainModel, PretrainModelConfig
from flowcam_ns.video_summary import write_clip_summary

CHECKPOINT_NAME = "flowcam.pt"
"""What a run leaves for others to start from, in the authors' format, beside nerfstudio's own checkpoints."""


@dataclass
class PretrainPipelineConfig(VanillaPipelineConfig):
    """Clips of many videos, and the network that learns from them."""

    _target: type = field(default_factory=lambda: PretrainPipeline)
    """target class to instantiate"""
    datamanager: PretrainDataManagerConfig = field(default_factory=PretrainDataManagerConfig)
    """specifies the datamanager config"""
    model: PretrainModelConfig = field(default_factory=PretrainModelConfig)
    """specifies the model config"""
    start_from: Optional[Path] = None  # noqa: UP045
    """Checkpoint file in the authors' format to start from (theirs, or one of ours). Its sizes replace
    `model.layers`."""

    def adopt_start(self) -> None:
        """Take over the sizes of the network to start from, so that config.yml holds them. Raises FlowCamError."""
        if self.start_from is not None:
            self.start_from = self.start_from.expanduser().absolute()
            self.model.layers = read_checkpoint(self.start_from).layers


class PretrainPipeline(VanillaPipeline):
    """nerfstudio's pipeline, for clips instead of the rays of one scene."""

    config: PretrainPipelineConfig
    datamanager: PretrainDataManager

    def __init__(
        self,
        config: PretrainPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        Pipeline.__init__(self)
        self.config, self.test_mode, self.world_size = config, test_mode, world_size
        rank = dist.get_rank() if world_size > 1 else 0
        with one_line_errors():
            self.datamanager = config.datamanager.setup(
                device=device, test_mode=test_mode, world_size=world_size, rank=rank
            )
            model: PretrainModel = config.model.setup(
                scene_box=None, num_train_data=len(self.datamanager.train_dataset), device=device
            )
            if config.start_from is not None and test_mode == "val":
                trained = read_checkpoint(config.start_from)
                check_fits(trained.network, shapes_of(config.model.layers), str(config.start_from))
                model.network.load_state_dict(to_our_names(trained.network))
        model.to(device)
        self._model = model
        if world_size > 1:
            self._model = cast(Model, self._distributed(model, device))

    def _distributed(self, model: PretrainModel, device: str) -> nn.Module:
        """The model wrapped so that gradients are averaged over all processes."""
        on_cuda = torch.device(device).type == "cuda"
        if on_cuda and self.config.model.sync_batch_norm:
            model.network = cast(Any, nn.SyncBatchNorm.convert_sync_batchnorm(model.network))
        # On a CPU (gloo) there are no device ids to give.
        ids = [torch.device(device)] if on_cuda else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)

    @property
    def pretrain(self) -> PretrainModel:
        """The model, with its own type."""
        return cast(PretrainModel, self.model)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        """The losses of a step."""
        with one_line_errors():
            batch = self.datamanager.train_batch(step)
        losses = self._model(batch.clip, batch.context_rays, batch.target_rays)
        metrics = {"flow_error_px": losses.pop("flow_error_px")}
        return losses, losses, metrics

    @torch.no_grad()
    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The losses of a validation clip."""
        batch = self.datamanager.eval_batch(step)
        self.eval()
        losses = self.pretrain(batch.clip, batch.context_rays, batch.target_rays)
        self.train()
        metrics = {"flow_error_px": losses.pop("flow_error_px")}
        return losses, losses, metrics

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Scores and pictures of one validation clip."""
        scores, pictures = self._score(0)
        height, width = self.config.datamanager.clips.height, self.config.datamanager.clips.width
        write_clip_summary("Eval Clips/re-rendered", pictures.pop("clip"), step)
        return {**scores, "num_rays": height * width * (self.config.datamanager.clips.clip_length - 1)}, pictures

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Means over all validation clips; pose scores over those whose poses are known."""
        collected: dict[str, list[float]] = {}
        with one_line_errors():
            for number in range(self.config.datamanager.clips.validation_clips):
                scores, pictures = self._score(number)
                for name, value in scores.items():
                    collected.setdefault(name, []).append(value)
                if output_path is not None:
                    output_path.mkdir(parents=True, exist_ok=True)
                    save_image(pictures["img"].permute(2, 0, 1).cpu(), output_path / f"eval_img_{number:04d}.png")
        results = {}
        for name, values in collected.items():
            finite = torch.tensor([value for value in values if math.isfinite(value)])
            if len(finite) == 0:
                continue
            results[name] = float(finite.mean())
            if get_std:
                results[f"{name}_std"] = float(finite.std(unbiased=False))
        return results

    def _score(self, number: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        batch = self.datamanager.eval_batch(number)
        self.eval()
        scores, pictures = self.pretrain.score_clip(batch.clip, batch.context_rays, batch.c2w)
        self.train()
        return scores, pictures

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Write the network in the authors' format whenever nerfstudio saves, and at the end."""
        trainer = training_callback_attributes.trainer
        if trainer is None:
            return []
        main = not dist.is_initialized() or dist.get_rank() == 0
        path, every = trainer.base_dir / CHECKPOINT_NAME, trainer.config.steps_per_save

        def export(step: int) -> None:
            if main and (step + 1) % every == 0:
                self.export(path, step)

        def finish(step: int) -> None:
            if main:
                self.export(path, step)
                print(f"Start others from this network with --pipeline.model.checkpoint {path}")
            self.datamanager.close()

        return [
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], export, update_every_num_iters=1),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], finish),
        ]

    def export(self, path: Path, step: int) -> None:
        """Write the network (and its RAFT-small, where it was trained on that) in the authors' format."""
        clips = self.config.datamanager.clips
        estimator = self.datamanager.train_clips.estimator
        raft = estimator.weights() if isinstance(estimator, RAFTFlow) and estimator.small else None
        write_checkpoint(path, self.pretrain.network, step + 1, raft, max(clips.height, clips.width))
