"""nerfstudio's nerfacto for a fixed time in a process of its own, and its renderings of the held-out frames.

python -m _benchmark.nerfacto_run DATASET OUTPUT SECONDS   (wall-clock to the trained field, its own start included)
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer, TrainerConfig

STARTED = time.monotonic()
ENDLESS = 10_000_000
SMALL: Mapping[str, Any] = {
    "num_levels": 8,
    "log2_hashmap_size": 17,
    "num_proposal_samples_per_ray": (48, 24),
    "num_nerf_samples_per_ray": 16,
    "implementation": "torch",
    "proposal_net_args_list": [
        {"hidden_dim": 16, "log2_hashmap_size": 15, "num_levels": 5, "max_res": 128, "use_linear": False},
        {"hidden_dim": 16, "log2_hashmap_size": 15, "num_levels": 5, "max_res": 256, "use_linear": False},
    ],
    "proposal_weights_anneal_max_num_iters": 200,
    "eval_num_rays_per_chunk": 4096,
}
"""nerfacto's default takes 45 s a step on two cores, this one a quarter of a second of processor time. The best of four
such presets on fox:23 after 40 s of processor time, one run each, at a quarter of the size: 1024 rays with half as many
samples again .2 dB less, 2048 rays with fewer samples .3 dB less, one proposal network with 1024 rays 1 dB less."""
SMALL_RAYS = 512
FINAL_SHARE = 0.05
"""Of the learning rate, at the end of the time: nerfacto's own schedule is made for 200,000 steps, and would not have
begun to fall."""


def configured(dataset: Path, output: Path, cuda: bool, small: Mapping[str, Any], rays: int) -> TrainerConfig:
    """nerfacto's own config for this dataset, without saving and evaluating on the way; in small without CUDA."""
    from nerfstudio.configs.base_config import MachineConfig
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = cast("TrainerConfig", copy.deepcopy(method_configs["nerfacto"]))
    rays = 4096 if cuda else rays
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(data=dataset), train_num_rays_per_batch=rays, eval_num_rays_per_batch=rays
    )
    if not cuda:
        for name, value in small.items():
            assert hasattr(config.pipeline.model, name), name
            setattr(config.pipeline.model, name, value)
    config.machine = MachineConfig(device_type="cuda" if cuda else "cpu", seed=0)
    config.output_dir, config.timestamp, config.vis = output / "run", "t", "tensorboard"
    config.mixed_precision = cuda
    config.max_num_iterations = config.steps_per_save = ENDLESS
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = ENDLESS
    return config


def train_for(trainer: Trainer, share_of_time: Callable[[], float]) -> None:
    """Train until `share_of_time` has reached 1; learning rates fall with it. One step at least."""
    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation

    groups = [group for optimizer in trainer.optimizers.optimizers.values() for group in optimizer.param_groups]
    initial = [group["lr"] for group in groups]

    def after_step(step: int) -> None:
        share = share_of_time()
        for group, rate in zip(groups, initial, strict=True):
            group["lr"] = rate * FINAL_SHARE ** min(share, 1.0)
        trainer.stop_training = share >= 1

    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], after_step, 1))
    trainer.train()


def render(trainer: Trainer, dataset: Path, output: Path) -> None:
    """Write what the dataset holds out, as the trained field shows it."""
    from _benchmark.pictures import write_picture  # only now: the clock has started, and imports count

    trainer.pipeline.eval()
    held_out = json.loads((dataset / "transforms.json").read_text())["held_out"]
    data = trainer.pipeline.datamanager.eval_dataset
    assert data is not None
    for row, file in enumerate(data.image_filenames):
        rendered = trainer.pipeline.model.get_outputs_for_camera(data.cameras[row : row + 1])["rgb"]
        picture = (rendered.clamp(0, 1) * 255).round().byte().cpu().numpy()
        write_picture(output / f"{held_out[str(file)]:06}.png", picture)


def main(dataset: Path, output: Path, seconds: float) -> None:
    """Train until the time is up, then render what the dataset holds out."""
    import torch

    cuda = torch.cuda.is_available()
    trainer = configured(dataset, output, cuda, SMALL, SMALL_RAYS).setup(local_rank=0, world_size=1)
    trainer.setup()
    begun, left = time.monotonic(), max(seconds - (time.monotonic() - STARTED), 0.1)
    train_for(trainer, lambda: (time.monotonic() - begun) / left)
    rendering = time.monotonic()
    render(trainer, dataset, output)
    preset = "default" if cuda else "small preset, torch"
    report = {"render seconds": time.monotonic() - rendering, "what": f"{preset}, {trainer.step} steps"}
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    main(Path(sys.argv[1]), folder, float(sys.argv[3]))
