"""The rendering that needs no training: the two nearest frames, warped by their depths and blended where they agree."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.model.blend_field import BlendField, BlendFieldConfig
from flowcam_ns.model.blend_training import camera_rays
from flowcam_ns.model.scene import ContextScene

NEAREST = 2


@torch.no_grad()
def depth_warped_blend(scene: ContextScene, frame: int) -> Float[Tensor, "height width 3"]:
    """The view of one frame from its two nearest usable neighbours in pose, in 0..1; nothing of it is learnt.

    An untrained blend field is exactly this: its networks start at zero.
    """
    config = BlendFieldConfig(contexts=NEAREST, backups=0, guide_contexts=NEAREST, refiner_width=0, even_exposure=False)
    field = BlendField(config)
    field.set_scene(scene)
    origins, directions, forward = camera_rays(scene.camera, scene.c2w[frame].float())
    return field(origins, directions, exclude=frame, forward=forward)["rgb"]
