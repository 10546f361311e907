"""What flow says about small changes of the solved cameras: the quadratic around the last solve's optimum."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment import normal_equations
from flowcam_ns.alignment.covariance import lens_information
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.reduced_system import DENSE_FRAMES, POSE_SIZE, assemble_dense
from flowcam_ns.alignment.refine import fitting_kernel
from flowcam_ns.alignment.result import CameraInformation


def camera_information(
    problem: FlowProblem,
    state: FlowState,
    lens_std: Float[Tensor, "lens"] | None,
    frames: Int[Tensor, "posed"],
    scale: float,
) -> CameraInformation | None:
    """The information that flow and the belief about the lens hold; None for videos too long for a dense matrix.

    Args:
        problem: the measurements of the last solve.
        state: its solution.
        lens_std: what was believed of the lens beforehand.
        frames: the video's frames that the problem's are.
        scale: units of the world that is handed on, per unit of the solver's.
    """
    if len(state.c2w) > DENSE_FRAMES:
        return None
    equations, cost = normal_equations.build(problem, state, fitting_kernel(problem, state))
    matrix = assemble_dense(normal_equations.without_depths(equations), equations.size)
    if lens_std is not None:
        matrix[-LENS_SIZE:, -LENS_SIZE:] += torch.diag(lens_information(float(cost), lens_std, matrix))
    unit = torch.ones(equations.size, dtype=matrix.dtype, device=matrix.device)
    unit[:-LENS_SIZE].view(-1, POSE_SIZE)[:, :3] = 1 / scale
    return CameraInformation(frames.cpu(), (unit[:, None] * matrix * unit / (2 * cost)).cpu())
