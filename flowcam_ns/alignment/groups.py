"""Groups of flow vectors that err together, and what they say about the cameras: for `covariance.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import scipy.sparse
import scipy.sparse.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment import normal_equations
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.reduced_system import (
    POSE_SIZE,
    TINY,
    RowSystems,
    assemble_dense,
    assemble_sparse,
    is_dense,
)

GAUGE_PRIOR = 1e-9
"""What is added to the diagonal, relative to its mean, so that what no flow tells does not make a matrix singular."""


def quarters_of(points: Float[Tensor, "rows 2 points"]) -> list[Int[Tensor, "some"]]:
    """The points in each quarter of the picture, by their mean place over the frames; about equally many in each."""
    x, y = points.double().mean(0)
    halves = x.argsort().tensor_split(2)
    return [part.sort().values for half in halves for part in half[y[half].argsort()].tensor_split(2)]


Matrix = Tensor | scipy.sparse.csc_matrix
"""The cameras' normal equations: dense for short videos, sparse for long ones."""


@dataclass(frozen=True)
class Group:
    """Some points of all frames and what they say about the cameras, depths eliminated."""

    matrix: Matrix
    pulls: Float[Tensor, "unknowns runs"]
    """Gradient of the cost, the share of each run of frames by itself."""

    @classmethod
    def of(cls, problem: FlowProblem, state: FlowState, points: Int[Tensor, "some"], kernel: float, run: int) -> Group:
        """Of these points under a robust kernel; pulls are summed over runs of so many frames."""
        few = replace(state, inverse_depth=state.inverse_depth[:, points])
        equations, _ = normal_equations.build(problem.thinned(points), few, kernel)
        systems, size = normal_equations.without_depths(equations), equations.size
        count = -(-len(state.c2w) // run)
        runs = systems[0].gradient.new_zeros(count * size)
        for rows in systems:
            number = rows.columns[:, :1] // POSE_SIZE // run  # a row's own pose stands first
            runs.index_add_(0, (number * size + rows.columns).flatten(), rows.gradient.flatten())
        return cls(_assembled(systems, size), runs.view(count, size).T.contiguous())


def _assembled(systems: list[RowSystems], size: int) -> Matrix:
    if is_dense(size):
        return assemble_dense(systems, size)
    # The first pose is held: it takes the place of the gauge, which would fill the matrix.
    free = torch.arange(size, device=systems[0].matrix.device) >= POSE_SIZE
    return assemble_sparse(systems, systems[0].matrix.new_zeros(size), free)


def strength(matrix: Matrix) -> float:
    """Mean of the diagonal."""
    return float(matrix.diagonal().mean())


def solve(
    matrix: Matrix,
    right: Float[Tensor, "unknowns n"],
    belief: Float[Tensor, "lens"],
    gauge: Float[Tensor, "unknowns 7"],
) -> Float[Tensor, "unknowns n"]:
    """Changes of the cameras under these pulls; along the `gauge` they are arbitrary.

    Args:
        matrix: the normal equations.
        right: the pulls.
        belief: information about the lens.
        gauge: directions that flow says nothing about.
    """
    typical = strength(matrix)
    diagonal = right.new_full((len(right),), GAUGE_PRIOR * typical)
    diagonal[-LENS_SIZE:] += belief
    if isinstance(matrix, Tensor):
        unit = gauge / gauge.norm(dim=0).clamp(min=TINY)
        return torch.linalg.solve(matrix + typical * unit @ unit.T + torch.diag(diagonal), right)
    right = right.clone()
    right[:POSE_SIZE] = 0
    factor = scipy.sparse.linalg.splu(
        scipy.sparse.csc_matrix(matrix + scipy.sparse.diags(diagonal.cpu().numpy(), format="csc")),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return torch.as_tensor(factor.solve(right.cpu().numpy()), dtype=right.dtype, device=right.device)
