"""From depths that flow tells to depths that pictures confirm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.model.depth_edges import follow_edges
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.model.stereo_depth import depths_from_pictures

EDGES_SHARE = 0.2
"""Share of the time that edges take."""


def refined_by_pictures(
    scene: ContextScene,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """Inverse depth and confidence of all frames, on the CPU: edges first, which stereo then starts from.

    Frames that are not usable keep their values (resized) and lend nothing. `progress` hears the share that is done.
    """
    tell = progress or (lambda done: None)
    inverse, confidence = follow_edges(scene, device, lambda done: tell(EDGES_SHARE * done))
    scene = replace(scene, inverse_depth=inverse, confidence=confidence)
    return depths_from_pictures(scene, device, lambda done: tell(EDGES_SHARE + (1 - EDGES_SHARE) * done))
