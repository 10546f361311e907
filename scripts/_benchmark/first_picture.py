"""How soon after the start of training the viewer can show something recognisable."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.configs.method_configs import all_methods
from torch.nn.functional import interpolate

from _benchmark.tables import Section
from flowcam_ns.model.image_scores import nearest_frame_copy
from flowcam_ns.pipeline import CPU_VIEWER_RESOLUTION, FlowCamPipeline, FlowCamPipelineConfig

NOTE = (
    "Seconds from the first training step, which finds poses and dense depths; from there, through that step of the "
    f"field, to a view of the first held-out frame at {CPU_VIEWER_RESOLUTION} px (what the viewer shows first without "
    "a GPU). PSNR of that view against the frame itself and against the nearest frame, which the camera's motion "
    "keeps low."
)


def first_picture_section(sources: Iterable[Path]) -> Section:
    """Seconds to the first picture after the poses, and how like the frame it is.

    Args:
        sources: videos or folders of images, as `ns-train flowcam --data` takes them.
    """
    section = Section("First picture of the field", notes=[NOTE])
    for source in sources:
        pipeline = new_pipeline(source)
        started = time.monotonic()
        picture = first_picture(pipeline, step=0)
        finished = time.monotonic()
        assert pipeline.field_started is not None
        section.rows.append(
            {
                "video": f"{source.parent.name}/{source.name}",
                "frames": len(pipeline.datamanager.frames),
                "poses and depths, s": pipeline.field_started - started,
                "picture after the poses, s": finished - pipeline.field_started,
                **likeness(pipeline, picture),
            }
        )
    return section


def new_pipeline(source: Path) -> FlowCamPipeline:
    """The default method's pipeline, with nothing estimated yet."""
    config = copy.deepcopy(all_methods["flowcam"])
    assert isinstance(config.pipeline, FlowCamPipelineConfig)
    config.pipeline.datamanager.data = source
    pipeline = config.pipeline.setup(device=config.machine.device_type, test_mode="val")
    assert isinstance(pipeline, FlowCamPipeline)
    return pipeline


def first_picture(pipeline: FlowCamPipeline, step: int) -> Float[torch.Tensor, "height width 3"]:
    """One training step, then the first held-out frame as the viewer would first show it."""
    pipeline.train()
    pipeline.get_train_loss_dict(step)
    pipeline.eval()
    camera = copy.deepcopy(pipeline.datamanager.eval_dataset.cameras[:1])
    camera.rescale_output_resolution(CPU_VIEWER_RESOLUTION / max(int(camera.width), int(camera.height)))
    return pipeline.flowcam.get_outputs_for_camera(camera)["rgb"].cpu()


def likeness(pipeline: FlowCamPipeline, picture: Float[torch.Tensor, "height width 3"]) -> dict[str, float]:
    """PSNR of the picture against the held-out frame and against the nearest one, both shrunk to its size."""
    scene, frame = pipeline.flowcam.field.scene, int(pipeline.datamanager.eval_dataset.metadata["frame_index"][0])
    assert scene is not None
    found: dict[str, float] = {}
    for name, image in (("frame", scene.images[frame] / 255), ("nearest", nearest_frame_copy(scene, frame))):
        planes = image.cpu().permute(2, 0, 1)[None]
        small = interpolate(planes, size=picture.shape[:2], mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        found[f"PSNR ({name}), dB"] = -10 * math.log10(max(float((picture - small).square().mean()), 1e-10))
    return found
