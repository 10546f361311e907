"""What of nerfstudio's options cannot work here: said before any work is done, so that none of it is lost."""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.base_config import MachineConfig

from flowcam_ns.data.datamanager import FlowCamDataManagerConfig
from flowcam_ns.data.splat_datamanager import FlowCamSplatDataManagerConfig
from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.flowcam_model import FlowCamModelConfig

IDLE_DATA = (
    "train_num_images_to_sample_from",
    "train_num_times_to_repeat_images",
    "eval_num_images_to_sample_from",
    "eval_num_times_to_repeat_images",
    "patch_size",
)
IDLE_MODEL = ("enable_collider", "collider_params", "loss_coefficients", "prompt")
IDLE_CAMERAS = ("mode", "trans_l2_penalty", "rot_l2_penalty")


def check_one_device(machine: MachineConfig) -> None:
    """Raise FlowCamError where several processes are asked for."""
    if machine.num_devices * machine.num_machines != 1:
        raise FlowCamError(
            "this method runs on one device (each process would pose the video anew and write to the same folder): "
            "set --machine.num-devices 1; flowcam-pretrain is the one that runs on several"
        )


def check_options(datamanager: FlowCamDataManagerConfig | FlowCamSplatDataManagerConfig, model: Any) -> None:
    """Raise FlowCamError where an option of nerfstudio's is set that has no effect, or a wrong one."""
    if datamanager.camera_res_scale_factor != 1.0:
        raise FlowCamError(
            "pipeline.datamanager.camera-res-scale-factor is not for this method: "
            "use --pipeline.datamanager.dataparser.train-long-side"
        )
    if not isinstance(model, FlowCamModelConfig):
        return
    if model.views == "latent" and model.network.paper:
        raise FlowCamError(
            "pipeline.model.views latent and pipeline.model.network.paper exclude each other: as published, the "
            "network is trained on the colours of all frames, so no view of its own field would be held out"
        )
    _check_idle("pipeline.datamanager", datamanager, IDLE_DATA)
    _check_idle("pipeline.model", model, IDLE_MODEL)
    _check_idle(
        "pipeline.model.camera-optimizer",
        model.camera_optimizer,
        IDLE_CAMERAS,
        "poses come from flow, and --pipeline.model.refinement.steps refines them",
    )


def _check_idle(path: str, config: Any, names: tuple[str, ...], reason: str = "leave it out") -> None:
    default = type(config)()
    for name in names:
        if getattr(config, name) != getattr(default, name):
            raise FlowCamError(f"{path}.{name.replace('_', '-')} has no effect in this method: {reason}")
