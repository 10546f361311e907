"""`ns-train flowcam-pretrain`: the paper's training on many videos; `-small`: a network for a CPU, our losses."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from flowcam_ns.data.pretrain_clips import PretrainClipsConfig
from flowcam_ns.data.pretrain_datamanager import PretrainDataManagerConfig
from flowcam_ns.model.adam import adam
from flowcam_ns.model.losses import NetworkLossConfig
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.pretrain_model import PretrainModelConfig
from flowcam_ns.model.warm_cosine import WarmCosineConfig
from flowcam_ns.pretrain_pipeline import PretrainPipelineConfig
from flowcam_ns.pretrain_trainer import PretrainTrainerConfig

CUDA = torch.cuda.is_available()
SMALL_STEPS = 20_000


def _method(name: str, description: str, **own: Any) -> MethodSpecification:
    """What both trainings have in common, and what is their own."""
    common: dict[str, Any] = {
        "method_name": name,
        "steps_per_eval_batch": 500,
        "steps_per_eval_image": 500,
        "mixed_precision": CUDA,
        "machine": MachineConfig(device_type="cuda" if CUDA else "cpu"),
        "logging": LoggingConfig(profiler="none"),
        "viewer": ViewerConfig(quit_on_train_completion=True),
        "vis": "tensorboard",
    }
    return MethodSpecification(config=PretrainTrainerConfig(**common, **own), description=description)


def _pipeline(layers: NetworkConfig, losses: NetworkLossConfig, **clips: Any) -> PretrainPipelineConfig:
    flow = "raft-small" if CUDA else "dis"
    return PretrainPipelineConfig(
        datamanager=PretrainDataManagerConfig(clips=PretrainClipsConfig(flow=flow, **clips)),
        model=PretrainModelConfig(layers=layers, losses=losses),
    )


flowcam_pretrain_method = _method(
    "flowcam-pretrain",
    "FlowCam's network, trained on many unposed videos, as published.",
    max_num_iterations=500_000,
    steps_per_save=2_000,
    steps_per_eval_all_images=5_000,
    pipeline=_pipeline(NetworkConfig(), NetworkLossConfig.published()),
    optimizers={"network": adam(1e-4)},
)

flowcam_pretrain_small_method = _method(
    "flowcam-pretrain-small",
    "A small FlowCam network for many videos, trained in hours on a CPU.",
    max_num_iterations=SMALL_STEPS,
    steps_per_save=500,
    steps_per_eval_all_images=1_000,
    pipeline=_pipeline(
        small_config(),
        NetworkLossConfig(),
        height=54,
        width=96,
        keep_shape=True,
        clip_length=6,
        clips_per_batch=1,
        context_rays=192,
        target_rays=64,
        frame_skip=(1, 4),
        reverse=0.5,
        videos_in_memory=16,
        clips_per_visit=10,
    ),
    optimizers={"network": adam(2e-3, WarmCosineConfig(max_steps=SMALL_STEPS, warmup_steps=200), max_norm=1.0)},
)
