"""nerfstudio's nerfacto for a fixed time in a process of its own, and its renderings of the held-out frames.

python nerfacto_run.py DATASET OUTPUT SECONDS   (wall-clock to the trained field, this process's own start included)
"""

from __future__ import annotations

import copy
import json
import sys
import threading
import time
from pathlib import Path
from typing import cast

STARTED = time.monotonic()
ENDLESS = 10_000_000
SMALL = {
    "num_levels": 8,
    "log2_hashmap_size": 17,
    "num_proposal_samples_per_ray": (64, 32),
    "num_nerf_samples_per_ray": 24,
    "implementation": "torch",
    "proposal_net_args_list": [
        {"hidden_dim": 16, "log2_hashmap_size": 15, "num_levels": 5, "max_res": 128, "use_linear": False},
        {"hidden_dim": 16, "log2_hashmap_size": 15, "num_levels": 5, "max_res": 256, "use_linear": False},
    ],
}
SMALL_RAYS = 1024


def main(dataset: Path, output: Path, seconds: float) -> None:
    """Train until the time is up, then render what the dataset holds out."""
    import cv2
    import torch
    from nerfstudio.configs.base_config import MachineConfig
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.engine.trainer import TrainerConfig

    cuda = torch.cuda.is_available()
    config = cast(TrainerConfig, copy.deepcopy(method_configs["nerfacto"]))
    rays = 4096 if cuda else SMALL_RAYS
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(data=dataset), train_num_rays_per_batch=rays, eval_num_rays_per_batch=rays
    )
    if not cuda:
        for name, value in SMALL.items():
            setattr(config.pipeline.model, name, value)
    config.machine = MachineConfig(device_type="cuda" if cuda else "cpu", seed=0)
    config.output_dir, config.timestamp, config.vis = output / "run", "t", "tensorboard"
    config.mixed_precision = cuda
    config.max_num_iterations = config.steps_per_save = ENDLESS
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = ENDLESS
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()

    def stop() -> None:
        trainer.stop_training = True

    threading.Timer(max(seconds - (time.monotonic() - STARTED), 0.1), stop).start()
    trainer.train()
    trainer.pipeline.eval()
    begun = time.monotonic()
    held_out = json.loads((dataset / "transforms.json").read_text())["held_out"]
    data = trainer.pipeline.datamanager.eval_dataset
    for row, file in enumerate(data.image_filenames):
        rendered = trainer.pipeline.model.get_outputs_for_camera(data.cameras[row : row + 1])["rgb"]
        picture = (rendered.clamp(0, 1) * 255).round().byte().cpu().numpy()
        cv2.imwrite(str(output / f"{held_out[str(file)]:06}.png"), picture[..., ::-1])
    preset = "default" if cuda else "small preset, torch"
    report = {"render seconds": time.monotonic() - begun, "what": f"{preset}, {trainer.step} steps"}
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    main(Path(sys.argv[1]), folder, float(sys.argv[3]))
