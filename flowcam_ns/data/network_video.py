"""A clip at the network's size, and the network's own trajectory of it (the `paper` switch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.result import Alignment
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.trajectory import align_sim3
from flowcam_ns.model.clip_training import NetworkVideo, fit_network, normalized_intrinsics
from flowcam_ns.model.network_stage import NetworkStage
from flowcam_ns.model.online import network_poses
from flowcam_ns.model.view_outputs import induced_flow
from flowcam_ns.video.frames import Frames

if TYPE_CHECKING:
    from flowcam_ns.flow.store import FlowStore


def network_video(
    frames: Frames, store: FlowStore, camera: Camera, posed: slice, long_side: int, device: torch.device | str
) -> NetworkVideo:
    """The frames `posed`, small, with the flow of each back to the one before it. Lens distortion is left out.

    Raises FlowCamError where they are fewer than two.
    """
    if posed.stop - posed.start < 2:
        raise FlowCamError("the network needs two neighbouring frames with a pose, and the input has none")
    scale = min(1.0, long_side / max(frames.width, frames.height))
    width, height = max(round(frames.width * scale), 8), max(round(frames.height * scale), 8)
    images = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in frames.images[posed]]
    flow, confidence = [], []
    for later in range(posed.start + 1, posed.stop):
        dense, trust = store.dense(later, later - 1)
        flow.append(cv2.resize(dense, (width, height), interpolation=cv2.INTER_AREA))
        confidence.append(cv2.resize(trust, (width, height), interpolation=cv2.INTER_AREA))
    return NetworkVideo(
        frames=(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1).to(device),
        backward_flow=torch.from_numpy(np.stack(flow)).permute(0, 3, 1, 2).to(device),
        intrinsics=normalized_intrinsics(camera).to(device),
        confidence=torch.from_numpy(np.stack(confidence)).to(device),
    )


def longest_run(posed: Bool[Tensor, "frames"]) -> slice:
    """The longest run of neighbouring posed frames."""
    best = slice(0, 0)
    start = 0
    for i, has_pose in enumerate([*posed.tolist(), False]):
        if not has_pose:
            if i - start > best.stop - best.start:
                best = slice(start, i)
            start = i + 1
    return best


def paper_alignment(
    frames: Frames, store: FlowStore, solved: Alignment, stage: NetworkStage, progress: Callable[[float], None]
) -> Alignment:
    """Train the network on the clip and put its chained poses in the place of the solved ones.

    The solve lends the lens, which frames hang together, and the world's gauge (a similarity that fits the network's
    trajectory to it, so that up is up); no pose and no depth.
    """
    segment = longest_run(solved.posed)
    device = next(stage.parameters()).device
    video = network_video(frames, store, solved.camera, segment, stage.config.long_side, device)
    training = stage.config.training
    fit_network(stage.network, video, training, report=lambda step, _: progress((step + 1) / training.steps))
    chained = network_poses(stage.network, video).cpu()
    gauge = align_sim3(chained, solved.c2w[segment])
    nearest = torch.arange(len(frames)).clamp(segment.start, segment.stop - 1) - segment.start
    posed = torch.zeros_like(solved.posed)
    posed[segment] = True
    return replace(
        solved,
        c2w=gauge.apply_c2w(chained)[nearest],
        posed=posed,
        inverse_depth=torch.zeros_like(solved.inverse_depth),
        inverse_depth_std=torch.full_like(solved.inverse_depth_std, torch.inf),
        rotation_std_deg=None,
        position_std=None,
    )


def flow_error(
    alignment: Alignment, inverse_depth: Float[Tensor, "frames h w"], store: FlowStore, stride: int = 4
) -> float:
    """Median distance, px of the frames, between measured flow and that of poses and dense depths, over neighbours."""
    height, width = inverse_depth.shape[1:]
    camera = alignment.camera
    y, x = torch.meshgrid(torch.arange(0, height, stride), torch.arange(0, width, stride), indexing="ij")
    rays = camera.scaled_to(width, height).unproject(torch.stack([x, y], dim=-1).double() + 0.5).reshape(-1, 3)
    errors = []
    known = (inverse_depth > 0).flatten(1).any(1) & alignment.posed
    for i in range(len(known) - 1):
        if not (known[i] and alignment.posed[i + 1]):
            continue
        flow, _ = store.dense(i, i + 1)
        measured = torch.from_numpy(cv2.resize(flow, (width, height)))[y, x].reshape(-1, 2)
        measured = measured * torch.tensor([camera.width, camera.height])
        depth = 1 / inverse_depth[i][y, x].reshape(-1, 1).double().clamp(min=1e-6)
        world = se3.transform(alignment.c2w[i], rays * depth)
        errors.append((induced_flow(world, alignment.c2w[i], alignment.c2w[i + 1], camera) - measured).norm(dim=-1))
    return float(torch.cat(errors).median()) if errors else float("inf")
