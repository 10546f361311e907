"""From the solver's units and frames to what is handed on: all frames, px, a z-up world of unit size."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from flowcam_ns.alignment.bootstrap import in_front
from flowcam_ns.alignment.camera_information import camera_information
from flowcam_ns.alignment.covariance import depth_deviation, marginal_uncertainty
from flowcam_ns.alignment.grow import TRUSTED
from flowcam_ns.alignment.lens import camera_from_lens, rays
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Solved
from flowcam_ns.alignment.refine import median_error
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.trajectory import normalize_world
from flowcam_ns.video.frames import Frames


def make_alignment(
    frames: Frames,
    points: Float32[np.ndarray, "frames points 2"],
    posed_frames: Int[Tensor, "posed"],
    solved: Solved,
    *,
    reasons: dict[int, str],
    warnings: list[str],
    seconds: dict[str, float],
    lens_std: Float[Tensor, "lens"] | None = None,
    with_information: bool = False,
    foreign: Bool[np.ndarray, "frames h w"] | None = None,
) -> Alignment:
    """Spread the solved frames over all frames and move it into the normalised world.

    Args:
        frames: all selected frames.
        points: every frame's points, px.
        posed_frames: the frames that were solved, ascending.
        solved: their solution; its points are all of `points`, or (camera that only turns) fewer.
        reasons: why the other frames have no pose.
        warnings: what the user should know.
        seconds: wall-clock of the stages.
        lens_std: what was believed of the lens beforehand.
        with_information: also tell what flow says about small changes of the cameras.
        foreign: where frames show what is not of the still scene.
    """
    problem, state = solved.problem, in_front(solved.state)
    posed = torch.zeros(len(frames), dtype=torch.bool)
    posed[posed_frames] = True
    cameras_state = in_front(solved.cameras_state)
    uncertainty = marginal_uncertainty(solved.cameras, cameras_state, lens_std)
    visible = (problem.confidence > TRUSTED).any(1) & (state.inverse_depth > 0)
    world = normalize_world(state.c2w, points_in_world(problem, state)[visible])
    scale = float(world.scale)
    nearest = (torch.arange(len(frames))[:, None] - posed_frames).abs().argmin(dim=1)
    depth, depth_std = _depths_of_all(problem, state, (len(frames), points.shape[1]), posed, scale)
    information = None
    if with_information:
        information = camera_information(solved.cameras, cameras_state, lens_std, posed_frames, scale)
    longer_side = max(frames.width, frames.height)
    camera = camera_from_lens(state.lens, frames.width, frames.height)
    rest_of_lens = uncertainty.lens[1:] * uncertainty.lens.new_tensor([longer_side, longer_side, 1, 1, 1, 1])
    return Alignment(
        camera=camera,
        c2w=world.apply_c2w(state.c2w)[nearest].double().cpu(),
        posed=posed,
        points=torch.from_numpy(points),
        inverse_depth=depth,
        inverse_depth_std=depth_std,
        reprojection_error=median_error(problem, state) * longer_side,
        unposed_reasons=reasons,
        focal_std=uncertainty.log_focal * camera.fx,
        lens_std=dict(zip(("cx", "cy", "k1", "k2", "p1", "p2"), rest_of_lens.tolist(), strict=True)),
        rotation_std_deg=_over_frames(torch.rad2deg(uncertainty.rotation), nearest, posed),
        position_std=_over_frames(uncertainty.position * scale, nearest, posed),
        foreign=None if foreign is None else torch.from_numpy(foreign),
        information=information,
        seconds=dict(seconds),
        warnings=list(warnings),
    )


def _depths_of_all(
    problem: FlowProblem, state: FlowState, shape: tuple[int, int], posed: Bool[Tensor, "frames"], scale: float
) -> tuple[Float[Tensor, "frames points"], Float[Tensor, "frames points"]]:
    """Inverse depths of all frames' points and their deviations; 0 and infinite where the solve had other points."""
    depth, deviation = torch.zeros(shape), torch.full(shape, torch.inf)
    if state.inverse_depth.shape[1] == shape[1]:
        depth[posed] = (state.inverse_depth / scale).float()
        deviation[posed] = (depth_deviation(problem, state) / scale).float()
    return depth, deviation


def points_in_world(problem: FlowProblem, state: FlowState) -> Float[Tensor, "frames points 3"]:
    """The solved surface points in the solver's world (infinite where the inverse depth is 0)."""
    ray = rays(problem.points, state.lens.to(problem.points.dtype))
    ray = torch.cat([ray, torch.ones_like(ray[:, :1])], dim=1).transpose(1, 2).to(state.c2w)
    return se3.transform(state.c2w[:, None], ray / state.inverse_depth[..., None])


def _over_frames(values: Float[Tensor, "segment"], nearest: Tensor, posed: Tensor) -> Float[Tensor, "frames"]:
    return torch.where(posed, values[nearest], torch.inf).double()
