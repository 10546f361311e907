"""Poses of a video by one forward pass of a trained network, as the bundle adjustment would hand them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.alignment.watch import Progress, Stopwatch
from flowcam_ns.data.network_lens import estimate_lens, guessed_lens
from flowcam_ns.data.network_video import network_video
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.trajectory import normalize_world
from flowcam_ns.model.checkpoint import Checkpoint, read_checkpoint
from flowcam_ns.model.clip_training import NetworkVideo
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.online import STRIDE, WINDOW, Grid, chain_poses, pose_windows
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.options import MIN_FRAMES

if TYPE_CHECKING:
    from flowcam_ns.flow.store import FlowStore

FLOW_OVER_NETWORK = 2
"""The authors' flow network sees images of about twice the size that the other one sees."""
START_STRIDE = 5
"""Of the surfaces where poses alone are asked for; they are as good as with twice or thrice the surfaces."""
LEAST_DISAGREEMENT = 0.01


@dataclass(frozen=True)
class Trajectory:
    """What the windows of a video add up to, in the network's units and frame 0's camera."""

    c2w: Float[Tensor, "frames 4 4"]
    inverse_depth: Float[Tensor, "frames rays"]
    relative_std: Float[Tensor, "frames rays"]
    """How far two frames disagree about a surface's depth, as a share of it; infinite in frame 0."""
    uv: Float[Tensor, "rays 2"]
    """Where the rays lie, fractions of the image."""
    flow_error: Float[Tensor, ""]
    """Median distance between measured and pose-induced flow, fractions of the image."""


def network_alignment(
    frames: Frames,
    checkpoint: Path,
    camera: Camera | None = None,
    options: AlignmentOptions | None = None,
    progress: Progress | None = None,
    refine: bool = False,
) -> Alignment:
    """Poses by the network of a checkpoint file.

    Args:
        frames: decoded frames.
        checkpoint: file in the authors' format (theirs, or one of our own training).
        camera: the lens if it is known; the network's comes from a few frames otherwise.
        options: how flow is computed (where the checkpoint brings no flow network) and the lens estimated.
        progress: called as the work goes on.
        refine: start a flow bundle adjustment from the network's poses, and hand on its result. It finds the lens, so
            that the network gets a guess of it where it is not known.

    Raises:
        FlowCamError: the file does not fit, or the frames are too few.
    """
    from flowcam_ns.alignment.estimate import estimate_poses

    if len(frames) < MIN_FRAMES:
        raise FlowCamError(f"{frames.name}: poses need at least {MIN_FRAMES} frames, and here are {len(frames)}.")
    options, watch = options or AlignmentOptions(), Stopwatch()
    trained, known = read_checkpoint(checkpoint), camera or frames.camera
    store = network_flow(frames, trained, options)
    if progress is not None:
        progress("Optical flow", 0.0, None)
    if refine:
        with watch("network"):
            start = network_start(frames, trained, store, known, options.device, progress)
        refined = estimate_poses(frames, known, options, progress, None if trained.raft else store, start)
        return replace(refined, seconds=watch.seconds | refined.seconds)
    with watch("lens"):
        lens, focal_std, warnings = (known, 0.0, []) if known else estimate_lens(frames, options)
    with watch("flow"):
        video = network_video(frames, store, lens, slice(0, len(frames)), trained.long_side, options.device)
    with watch("network"):
        trajectory = trajectory_of(trained.build().to(options.device), video, _posed_so_far(progress))
    found = alignment_of(frames, trajectory, lens)
    return replace(found, seconds=watch.seconds, focal_std=focal_std or float("inf"), warnings=warnings)


def network_start(
    frames: Frames,
    trained: Checkpoint,
    store: FlowStore,
    camera: Camera | None,
    device: str,
    progress: Progress | None = None,
) -> Float[Tensor, "frames 4 4"]:
    """Poses from which a solve may start (OpenCV c2w, the network's scale), quickly.

    Where no lens is given the network gets a guess: with half or twice the focal length the same solves come out.
    """
    lens = camera or guessed_lens(frames)
    video = network_video(frames, store, lens, slice(0, len(frames)), trained.long_side, device)
    return trajectory_of(trained.build().to(device), video, _posed_so_far(progress), START_STRIDE).c2w


def _posed_so_far(progress: Progress | None) -> Callable[[float, Tensor], None] | None:
    return None if progress is None else lambda done, c2w: progress("Network", done, c2w)


def network_flow(frames: Frames, checkpoint: Checkpoint, options: AlignmentOptions) -> FlowStore:
    """The flow that a network was trained with, where its file brings it; else the flow that the options name."""
    from flowcam_ns.alignment.estimate import flow_store
    from flowcam_ns.flow.cache import FlowCache
    from flowcam_ns.flow.raft import RAFTFlow
    from flowcam_ns.flow.store import FlowStore

    if not checkpoint.raft:
        return flow_store(frames, options)
    estimator = RAFTFlow.with_small_weights(checkpoint.raft, options.device)
    cache = FlowCache(options.cache_dir) if options.cache else None
    size, weighed = FLOW_OVER_NETWORK * checkpoint.long_side, options.flow_confidence
    return FlowStore(frames.images, estimator, size, frames.masks, cache=cache, use_confidence=weighed)


def trajectory_of(
    network: FlowCamNetwork,
    video: NetworkVideo,
    progress: Callable[[float, Tensor], None] | None = None,
    stride: int = STRIDE,
    window: int = WINDOW,
) -> Trajectory:
    """All frames of a video, window after window."""
    count = len(video.frames)
    motions, depths, disagreements, errors = [], [], [], []
    for part in pose_windows(network, video, stride, window):
        motions.append(part.relative)
        depths.append(part.inverse_depth if part.start == 0 else part.inverse_depth[1:])
        disagreements.append(part.disagreement)
        errors.append(part.flow_error)
        if progress is not None:
            posed = part.start + len(part.relative) + 1
            progress(posed / count, chain_poses(torch.cat(motions)).cpu())
    relative_std = torch.cat(disagreements).clamp(min=LEAST_DISAGREEMENT)
    return Trajectory(
        c2w=chain_poses(torch.cat(motions)).cpu(),
        inverse_depth=torch.cat(depths).float().cpu(),
        relative_std=torch.cat([torch.full_like(relative_std[:1], torch.inf), relative_std]).float().cpu(),
        uv=Grid.of(video, stride).uv.cpu(),
        flow_error=torch.cat(errors).median().cpu(),
    )


def alignment_of(frames: Frames, trajectory: Trajectory, camera: Camera) -> Alignment:
    """A trajectory in the world that everything is handed on in: z up, of unit size."""
    size = torch.tensor([frames.width, frames.height])
    pixels = trajectory.uv * size
    rays = camera.unproject(pixels.double())
    points = se3.transform(trajectory.c2w[:, None], rays / trajectory.inverse_depth[..., None].double())
    world = normalize_world(trajectory.c2w, points.reshape(-1, 3))
    inverse_depth = (trajectory.inverse_depth / float(world.scale)).float()
    posed: Bool[Tensor, "frames"] = torch.ones(len(frames), dtype=torch.bool)
    return Alignment(
        camera=camera,
        c2w=world.apply_c2w(trajectory.c2w),
        posed=posed,
        points=pixels.float().expand(len(frames), -1, 2),
        inverse_depth=inverse_depth,
        inverse_depth_std=inverse_depth * trajectory.relative_std,
        reprojection_error=float(trajectory.flow_error) * max(frames.width, frames.height),
    )
