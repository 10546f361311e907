"""How soon after the start of training the viewer can show something recognisable."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from nerfstudio.configs.method_configs import all_methods
from torch.nn.functional import interpolate

from _benchmark.tables import Section
from flowcam_ns.model.image_scores import nearest_frame_copy
from flowcam_ns.pipeline import CPU_VIEWER_RESOLUTION, FlowCamPipeline, FlowCamPipelineConfig

NOTE = (
    "From the first training step, which solves the poses, to a view of the first held-out frame at "
    f"{CPU_VIEWER_RESOLUTION} px (what the viewer shows first without a GPU), after that one step; PSNR is taken "
    "against the nearest frame, held-out frames lending nothing."
)


def first_picture_section(sources: Iterable[Path]) -> Section:
    """Seconds to the first picture after the poses, and how like the nearest frame it is.

    Args:
        sources: videos or folders of images, as `ns-train flowcam --data` takes them.
    """
    section = Section("First picture of the field", notes=[NOTE])
    for source in sources:
        config = copy.deepcopy(all_methods["flowcam"])
        assert isinstance(config.pipeline, FlowCamPipelineConfig)
        config.pipeline.datamanager.data = source
        pipeline = config.pipeline.setup(device=config.machine.device_type, test_mode="val")
        assert isinstance(pipeline, FlowCamPipeline)
        started = time.monotonic()
        pipeline.train()
        pipeline.get_train_loss_dict(0)
        assert pipeline.field_started is not None
        picture, nearest = first_picture(pipeline.eval())
        error = float((picture - nearest).square().mean())
        section.rows.append(
            {
                "video": f"{source.parent.name}/{source.name}",
                "frames": len(pipeline.datamanager.frames),
                "poses, s": pipeline.field_started - started,
                "picture after the poses, s": time.monotonic() - pipeline.field_started,
                "PSNR, dB": -10 * float(torch.tensor(error).clamp(min=1e-10).log10()),
            }
        )
    return section


@torch.no_grad()
def first_picture(pipeline: FlowCamPipeline) -> tuple[torch.Tensor, torch.Tensor]:
    """The first held-out frame as the viewer would first show it, and the nearest frame at that size."""
    dataset, scene = pipeline.datamanager.eval_dataset, pipeline.flowcam.field.scene
    assert scene is not None
    camera = copy.deepcopy(dataset.cameras[:1])
    camera.rescale_output_resolution(CPU_VIEWER_RESOLUTION / max(int(camera.width), int(camera.height)))
    picture = pipeline.flowcam.get_outputs_for_camera(camera)["rgb"].cpu()
    frame = int(dataset.metadata["frame_index"][0])
    copied = nearest_frame_copy(scene, frame).cpu().permute(2, 0, 1)[None]
    nearest = interpolate(copied, size=picture.shape[:2], mode="bilinear", antialias=True)
    return picture, nearest[0].permute(1, 2, 0)
