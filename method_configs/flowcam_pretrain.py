"""`ns-train flowcam-pretrain`: the paper's training on many videos; `-small`: a network for a CPU, our losses."""

from __future__ import annotations

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from flowcam_ns.data.pretrain_clips import PretrainClipsConfig
from flowcam_ns.data.pretrain_datamanager import PretrainDataManagerConfig
from flowcam_ns.model.losses import NetworkLossConfig
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.pretrain_model import PretrainModelConfig
from flowcam_ns.model.warm_cosine import WarmCosineConfig
from flowcam_ns.pretrain_pipeline import PretrainPipelineConfig
from flowcam_ns.pretrain_trainer import PretrainTrainerConfig

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SMALL_STEPS = 20_000

flowcam_pretrain_method = MethodSpecification(
    config=PretrainTrainerConfig(
        method_name="flowcam-pretrain",
        max_num_iterations=500_000,
        steps_per_save=2_000,
        steps_per_eval_batch=500,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5_000,
        mixed_precision=CUDA,
        machine=MachineConfig(device_type=DEVICE),
        logging=LoggingConfig(profiler="none"),
        pipeline=PretrainPipelineConfig(
            datamanager=PretrainDataManagerConfig(clips=PretrainClipsConfig(flow="raft-small" if CUDA else "dis")),
            model=PretrainModelConfig(layers=NetworkConfig(), losses=NetworkLossConfig.published()),
        ),
        optimizers={"network": {"optimizer": AdamOptimizerConfig(lr=1e-4, eps=1e-8), "scheduler": None}},
        viewer=ViewerConfig(quit_on_train_completion=True),
        vis="tensorboard",
    ),
    description="FlowCam's network, trained on many unposed videos, as published.",
)

flowcam_pretrain_small_method = MethodSpecification(
    config=PretrainTrainerConfig(
        method_name="flowcam-pretrain-small",
        max_num_iterations=SMALL_STEPS,
        steps_per_save=500,
        steps_per_eval_batch=500,
        steps_per_eval_image=500,
        steps_per_eval_all_images=1_000,
        mixed_precision=CUDA,
        machine=MachineConfig(device_type=DEVICE),
        logging=LoggingConfig(profiler="none"),
        pipeline=PretrainPipelineConfig(
            datamanager=PretrainDataManagerConfig(
                clips=PretrainClipsConfig(
                    height=54,
                    width=96,
                    clip_length=6,
                    clips_per_batch=2,
                    context_rays=192,
                    target_rays=64,
                    reverse=0.5,
                    videos_in_memory=16,
                    flow="raft-small" if CUDA else "dis",
                )
            ),
            model=PretrainModelConfig(layers=small_config(), losses=NetworkLossConfig()),
        ),
        optimizers={
            "network": {
                "optimizer": AdamOptimizerConfig(lr=2e-3, eps=1e-8, max_norm=1.0),
                "scheduler": WarmCosineConfig(max_steps=SMALL_STEPS, warmup_steps=200),
            }
        },
        viewer=ViewerConfig(quit_on_train_completion=True),
        vis="tensorboard",
    ),
    description="A small FlowCam network for many videos, trained in hours on a CPU.",
)
