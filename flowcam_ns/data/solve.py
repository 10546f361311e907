"""From frames to what the field needs: cameras of all frames by flow bundle adjustment, and dense depths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.data.network_poses import network_flow, network_start
from flowcam_ns.data.network_video import flow_error, paper_alignment
from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.camera_optimizer import CameraUncertainty, EstimatedCameras
from flowcam_ns.model.checkpoint import read_checkpoint
from flowcam_ns.model.depth_refinement import refined_by_pictures
from flowcam_ns.model.network_stage import NetworkStage
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.video.frames import Frames

if TYPE_CHECKING:
    from flowcam_ns.flow.store import FlowStore

Progress = Callable[[str, float, "Tensor | None"], None]
"""Called with the stage's name, the share of it that is done, and the poses so far (OpenCV c2w) where there are any."""

LEAST_BASELINE = 1e-6
"""World units between cameras below which nothing can be triangulated."""
DISTANT, DISTANT_CONFIDENCE = 1.0, 0.5
"""Inverse depth, and confidence in it, where the camera only turns: views then do not depend on depth."""


@dataclass(frozen=True)
class Reconstruction:
    """Everything that flow told about a clip."""

    alignment: Alignment
    inverse_depth: Float[Tensor, "frames h w"]
    """1 / z in world units; 0 for frames that may not lend anything."""
    confidence: Float[Tensor, "frames h w"]

    @property
    def cameras(self) -> EstimatedCameras:
        """Poses and lens, and how sure they are where the solve tells that."""
        found, uncertainty = self.alignment, None
        if found.position_std is not None and found.rotation_std_deg is not None:
            focal = float("inf") if found.focal_std is None else found.focal_std
            uncertainty = CameraUncertainty(found.position_std, found.rotation_std_deg, focal)
        return EstimatedCameras(found.c2w, found.camera, found.posed, uncertainty)


def reconstruct(
    frames: Frames,
    held_out: Sequence[int],
    options: AlignmentOptions,
    progress: Progress,
    network: NetworkStage | None = None,
    checkpoint: Path | None = None,
    with_information: bool = False,
) -> Reconstruction:
    """Solve poses from all frames' flow, then depths from the flow of those that are not held out.

    With a `network`, its chained poses take the place of the solved ones (the `paper` switch). Otherwise the solve
    starts from the poses of the network in the file `checkpoint`, where there is one. `with_information`: the alignment
    also tells what flow says about small changes of its cameras.

    Raises:
        FlowCamError: the clip gives no poses (still camera, too little texture, ...).
    """
    from flowcam_ns.alignment.estimate import estimate_poses, flow_store
    from flowcam_ns.alignment.first_flow import FINE

    store = flow_store(frames, options)
    trained = None if checkpoint is None else read_checkpoint(checkpoint)
    network_store = store if trained is None or not trained.raft else network_flow(frames, trained, options)
    start = None
    if trained is not None and network is None:
        start = network_start(frames, trained, network_store, frames.camera, options.device, progress)
    alignment = estimate_poses(frames, frames.camera, options, progress, store, start, with_information)
    if network is not None:
        alignment = paper_alignment(
            frames, network_store, alignment, network, lambda done: progress("Training the network", done, None)
        )
    usable = alignment.posed.clone()
    usable[list(held_out)] = False
    if int(usable.sum()) < 2:
        raise FlowCamError(
            f"{frames.name}: only {int(alignment.posed.sum())} of {len(frames)} frames could be posed; "
            "film with more overlap, more light, or give a longer piece"
        )
    progress("Dense depth", 0.0, alignment.c2w)
    if alignment.foreign is not None:
        frames = frames.without(alignment.foreign.numpy())
        assert frames.masks is not None
        store = store.masked(frames.masks)
    fine = store.at_size(options.flow_size or FINE)
    if fine is not store:
        store.release()
    inverse_depth, confidence = _depths(frames, alignment, fine, usable)
    inverse_depth, confidence = _refined(frames, alignment, inverse_depth, confidence, usable, options.device, progress)
    progress("Dense depth", 1.0, alignment.c2w)
    if network is not None:
        alignment = replace(alignment, reprojection_error=flow_error(alignment, inverse_depth, fine))
    return Reconstruction(alignment, inverse_depth, confidence)


def _refined(
    frames: Frames,
    alignment: Alignment,
    inverse_depth: Float[Tensor, "frames h w"],
    confidence: Float[Tensor, "frames h w"],
    usable: Bool[Tensor, "frames"],
    device: str,
    progress: Progress,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    scene = ContextScene(
        images=torch.from_numpy(frames.images),
        c2w=alignment.c2w,
        camera=alignment.camera,
        inverse_depth=inverse_depth,
        confidence=confidence,
        usable=usable,
        masks=None if frames.masks is None else torch.from_numpy(frames.masks),
    )
    return refined_by_pictures(scene, device, lambda done: progress("Dense depth", 0.3 + 0.7 * done, None))


def _depths(
    frames: Frames, alignment: Alignment, store: FlowStore, usable: Bool[Tensor, "frames"]
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    from flowcam_ns.alignment.dense_depth import dense_inverse_depth

    centres = alignment.c2w[usable, :3, 3]
    if float((centres - centres.mean(0)).norm(dim=-1).max()) < LEAST_BASELINE:
        known = usable[:, None, None].float().expand(-1, store.flow_height // 2, store.flow_width // 2)
        return DISTANT * known, DISTANT_CONFIDENCE * known
    return dense_inverse_depth(
        alignment.c2w, alignment.camera, store, usable=usable, guide=torch.from_numpy(frames.images)
    )
