"""Photometric normal equations of camera poses and lens: a frame's picture against what its neighbours show of it.

The brightness that a context shows at a pixel's surface changes by its gradient times the motion of the pixel's place
in that context, which is the very derivative that flow residuals have (`linearize.py`). Surfaces are not exact, and
their errors lie in the directions in which a camera's translation moves the picture: one relative depth error for each
small cell of pixels is eliminated with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import DEPTH, LENS, RESIDUAL, SOURCE, linearize, target_adjoint
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.reduced_system import POSE_SIZE
from flowcam_ns.alignment.robust import geman_mcclure

DEPTH_STD = 0.1
"""Relative standard deviation of a cell's depth beforehand: wide, so that no old depth holds a pose."""
KERNEL_IN_ERRORS = 2.5
"""Width of the robust kernel, in standard deviations of the brightness error."""
LEAST_ERROR = 1e-3
"""Standard deviation of brightness below which no picture is known."""
SURE = 0.1
"""Confidence from which a pixel tells how large errors usually are."""


@dataclass(frozen=True)
class PhotometricView:
    """Pixels of one frame, and how its contexts show them. Brightness lies in 0..1."""

    problem: FlowProblem
    """One row: the frame and its pixels (centred, units of the long side), a slot for each context; targets are 0, so
    that residuals are places."""
    inverse_depth: Float[Tensor, "1 pixels"]
    gradient: Float[Tensor, "contexts 2 pixels"]
    """Of each context's brightness where it shows the pixel, per long side."""
    weights: Float[Tensor, "contexts pixels"]
    """How much each context counts; their sum is at most 1."""
    error: Float[Tensor, "pixels"]
    """Brightness that the contexts show minus the frame's own."""
    brightness: Float[Tensor, "pixels"]
    """The frame's own."""
    confidence: Float[Tensor, "pixels"]
    """0..1: that the contexts see the pixel's surface."""
    cells: Int[Tensor, "pixels"]
    """Pixels with the same number share a depth error."""

    @property
    def frames(self) -> Int[Tensor, "touched"]:
        """The frame, then its contexts."""
        return torch.cat([self.problem.sources, self.problem.neighbours[0]])


@dataclass(frozen=True)
class PhotometricEquations:
    """H d = -g over the poses of a view's `frames` and the lens; depths and exposure eliminated, variances 1."""

    matrix: Float[Tensor, "local local"]
    gradient: Float[Tensor, "local"]
    cost: float
    """Robust, in variances of the error."""


def photometric_equations(
    view: PhotometricView, c2w: Float[Tensor, "frames 4 4"], lens: Tensor
) -> PhotometricEquations:
    """Linearise the brightness errors of a view around these cameras (of all frames of the clip)."""
    state = FlowState(c2w, view.inverse_depth, lens)
    derivatives, valid = linearize(view.problem, state)
    weights = view.weights * valid[0]
    by_camera = torch.einsum("kap,kcap,kp->kcp", view.gradient, derivatives[0], weights)
    adjoint = target_adjoint(view.problem, state)[0].to(by_camera)
    by_source = by_camera[:, SOURCE]
    by_targets = torch.einsum("kcp,kcd->kdp", by_source, adjoint).flatten(0, 1)
    jacobian = torch.cat([by_source.sum(0), by_targets, by_camera[:, LENS].sum(0)]).double()
    confidence = view.confidence * weights.sum(0)
    error = _without_exposure(view.error, view.brightness, confidence).double()
    scale = _deviation(error, confidence)
    kernel = KERNEL_IN_ERRORS * scale
    cost, robust = geman_mcclure(error.square(), kernel)
    weight = confidence.double() * robust
    weighted = jacobian * weight
    matrix, gradient = weighted @ jacobian.T, weighted @ error
    # Cells' relative depth errors: a diagonal block, eliminated.
    by_depth = by_camera[:, DEPTH].sum(0).double() * view.inverse_depth[0].double()
    count = int(view.cells.max()) + 1
    coupling = jacobian.new_zeros(len(jacobian), count).index_add_(1, view.cells, weighted * by_depth)
    own = jacobian.new_zeros(count).index_add_(0, view.cells, weight * by_depth.square())
    pull = jacobian.new_zeros(count).index_add_(0, view.cells, weight * by_depth * error)
    coupled = coupling / (own + (scale / DEPTH_STD) ** 2)
    matrix, gradient = matrix - coupled @ coupling.T, gradient - coupled @ pull
    variance = scale * scale
    return PhotometricEquations(matrix / variance, gradient / variance, float((confidence * cost).sum()) / variance)


def unknowns_of(frames: Int[Tensor, "touched"], count: int) -> Int[Tensor, "local"]:
    """Where the unknowns of `PhotometricEquations` stand among those of `count` frames and the lens."""
    poses = frames[:, None] * POSE_SIZE + torch.arange(POSE_SIZE)
    return torch.cat([poses.flatten(), count * POSE_SIZE + torch.arange(LENS_SIZE)])


def places(view: FlowProblem, inverse_depth: Float[Tensor, "1 pixels"], c2w: Tensor, lens: Tensor) -> Tensor:
    """Where contexts show the pixels of a one-row problem without targets: centred pixels [contexts, 2, pixels]."""
    derivatives, _ = linearize(view, FlowState(c2w, inverse_depth, lens), with_lens=False)
    return derivatives[0, :, RESIDUAL]


def _without_exposure(
    error: Float[Tensor, "pixels"], brightness: Float[Tensor, "pixels"], confidence: Float[Tensor, "pixels"]
) -> Float[Tensor, "pixels"]:
    """The error without the gain and the offset between two exposures, fitted robustly."""
    basis = torch.stack([brightness, torch.ones_like(brightness)], dim=1)
    fit = error.new_zeros(2)
    for _ in range(4):
        rest = error - basis @ fit
        kernel = 2 * _deviation(rest, confidence)
        weighted = basis * (confidence * geman_mcclure(rest.square(), kernel)[1])[:, None]
        fit = torch.linalg.solve(weighted.T @ basis + 1e-6 * torch.eye(2).to(basis), weighted.T @ error)
    return error - basis @ fit


def _deviation(error: Float[Tensor, "pixels"], confidence: Float[Tensor, "pixels"]) -> float:
    """Robust standard deviation of the trusted errors."""
    trusted = error[confidence > SURE]
    return max(1.48 * float(trusted.abs().median()) if len(trusted) else 1.0, LEAST_ERROR)
