"""`ns-train flowcam`: sizes and device picked so that no flag is needed with or without CUDA."""

from __future__ import annotations

import importlib.util

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.data.datamanager import FlowCamDataManagerConfig
from flowcam_ns.data.dataparser import FlowCamDataParserConfig
from flowcam_ns.model.adam import adam
from flowcam_ns.model.blend_field import BlendFieldConfig
from flowcam_ns.model.flowcam_model import FlowCamModelConfig
from flowcam_ns.pipeline import FlowCamPipelineConfig
from flowcam_ns.startup import ensure_ffmpeg
from flowcam_ns.trainer import FlowCamTrainerConfig

ensure_ffmpeg()
CUDA = torch.cuda.is_available()
TCNN = CUDA and importlib.util.find_spec("tinycudann") is not None

flowcam_method = MethodSpecification(
    config=FlowCamTrainerConfig(
        method_name="flowcam",
        max_num_iterations=20_000 if CUDA else 2_000,
        steps_per_save=2_000 if CUDA else 500,
        steps_per_eval_batch=500,
        steps_per_eval_image=500,
        steps_per_eval_all_images=100_000,
        mixed_precision=False,
        machine=MachineConfig(device_type="cuda" if CUDA else "cpu"),
        logging=LoggingConfig(profiler="none"),
        pipeline=FlowCamPipelineConfig(
            alignment=AlignmentOptions(device="cuda" if CUDA else "cpu"),
            train_seconds=600.0 if CUDA else 120.0,
            datamanager=FlowCamDataManagerConfig(
                dataparser=FlowCamDataParserConfig(train_long_side=960 if CUDA else 480),
                train_num_rays_per_batch=128**2 if CUDA else 64**2,
                eval_num_rays_per_batch=64**2,
            ),
            model=FlowCamModelConfig(
                eval_num_rays_per_chunk=2**18 if CUDA else 2**17,
                blend=BlendFieldConfig(width=32, implementation="tcnn") if TCNN else BlendFieldConfig(),
            ),
        ),
        # No scheduler: nerfstudio's put NumPy numbers into checkpoints, which torch >= 2.6 refuses to load.
        optimizers={"fields": adam(1e-3), "network": adam(1e-3, max_norm=1.0)},
        viewer=ViewerConfig(
            websocket_host="127.0.0.1",
            num_rays_per_chunk=2**18 if CUDA else 2**17,
            camera_frustum_scale=0.2,
            default_composite_depth=False,
        ),
        vis="viewer",
    ),
    description="FlowCam: camera poses and a radiance field from an ordinary video, by optical flow.",
)
