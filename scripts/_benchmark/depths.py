"""How right dense depths are: those of the synthetic scene against its exact ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from _benchmark.tables import Section
from flowcam_ns.alignment.dense_depth import dense_inverse_depth
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.model.depth_refinement import refined_by_pictures
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.synthetic.clip import make_clip

DEPTH_TITLE = "Dense depth of the synthetic scene (true cameras, estimated flow)"


def depth_section(motions: Sequence[str]) -> Section:
    """Relative error of dense inverse depth, estimated flow and true cameras, 24 frames at 480 x 270."""
    section = Section(DEPTH_TITLE)
    for motion in motions:
        clip = make_clip(motion, 0, frames=24, width=480, height=270)
        usable = torch.ones(len(clip), dtype=torch.bool)
        usable[held_out_frames(len(clip))] = False
        c2w, images = torch.from_numpy(clip.c2w), torch.from_numpy(clip.rgb)
        from_flow = dense_inverse_depth(c2w, clip.camera, FlowStore(clip.rgb), usable, images)
        inverse, _ = refined_by_pictures(ContextScene(images, c2w, clip.camera, *from_flow, usable))
        truth = interpolate(torch.from_numpy(clip.depth)[:, None], size=inverse.shape[1:], mode="nearest")[:, 0]
        error = (inverse * truth - 1).abs()[usable].numpy() * 100
        section.rows.append(
            {"motion": motion, "median error, %": float(np.median(error)), "p90, %": float(np.quantile(error, 0.9))}
        )
    return section
