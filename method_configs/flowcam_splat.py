"""`ns-train flowcam-splat`: Gaussian splats (nerfstudio's splatfacto) on the cameras and points that flow gives."""

from __future__ import annotations

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.data.dataparser import FlowCamDataParserConfig
from flowcam_ns.data.splat_datamanager import FlowCamSplatDataManagerConfig
from flowcam_ns.model.adam import adam
from flowcam_ns.model.decay import PlainDecayConfig
from flowcam_ns.model.splat_model import FlowCamSplatModelConfig
from flowcam_ns.splat_pipeline import FlowCamSplatPipelineConfig
from flowcam_ns.startup import ensure_ffmpeg
from flowcam_ns.trainer import FlowCamSplatTrainerConfig

ensure_ffmpeg()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 30_000
EPS = 1e-15


def _warmed(final: float) -> PlainDecayConfig:
    return PlainDecayConfig(lr_final=final, max_steps=STEPS, warmup_steps=1_000, lr_pre_warmup=0)


flowcam_splat_method = MethodSpecification(
    config=FlowCamSplatTrainerConfig(
        method_name="flowcam-splat",
        max_num_iterations=STEPS,
        steps_per_save=2_000,
        steps_per_eval_image=100,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=1_000,
        mixed_precision=False,
        machine=MachineConfig(device_type=DEVICE),
        logging=LoggingConfig(profiler="none"),
        pipeline=FlowCamSplatPipelineConfig(
            datamanager=FlowCamSplatDataManagerConfig(
                dataparser=FlowCamDataParserConfig(train_long_side=1600),
                alignment=AlignmentOptions(device=DEVICE),
            ),
            model=FlowCamSplatModelConfig(camera_optimizer=CameraOptimizerConfig(mode="SO3xR3")),
        ),
        # splatfacto's own rates; its schedules in plain numbers (see flowcam_ns/model/decay.py).
        optimizers={
            "means": adam(1.6e-4, PlainDecayConfig(lr_final=1.6e-6, max_steps=STEPS), EPS),
            "features_dc": adam(2.5e-3, eps=EPS),
            "features_rest": adam(2.5e-3 / 20, eps=EPS),
            "opacities": adam(5e-2, eps=EPS),
            "scales": adam(5e-3, eps=EPS),
            "quats": adam(1e-3, eps=EPS),
            "camera_opt": adam(1e-4, _warmed(5e-7), EPS),
            "bilateral_grid": adam(2e-3, _warmed(1e-4), EPS),
        },
        viewer=ViewerConfig(
            websocket_host="127.0.0.1",
            num_rays_per_chunk=2**15,
            camera_frustum_scale=0.2,
            default_composite_depth=False,
        ),
        vis="viewer",
    ),
    description="FlowCam's cameras and dense points, rendered by Gaussian splats. Needs a CUDA GPU.",
)
