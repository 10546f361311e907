"""Groups of flow vectors that err together, and what they say about the cameras: for `covariance.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import scipy.sparse.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment import normal_equations
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.normal_equations import POSE_SIZE, TINY
from flowcam_ns.alignment.problem import FlowProblem, FlowState

GAUGE_PRIOR = 1e-9
"""What is added to the diagonal, relative to its mean, so that what no flow tells does not make a matrix singular."""


def quarters_of(points: Float[Tensor, "rows 2 points"]) -> list[Int[Tensor, "some"]]:
    """The points in each quarter of the picture, by their mean place over the frames; about equally many in each."""
    x, y = points.double().mean(0)
    halves = x.argsort().tensor_split(2)
    return [part.sort().values for half in halves for part in half[y[half].argsort()].tensor_split(2)]


@dataclass(frozen=True)
class Group:
    """Some points of all frames and their share of the normal equations, depths eliminated."""

    points: Int[Tensor, "some"]
    local: Float[Tensor, "rows local local"]
    pull: Float[Tensor, "rows local"]
    """Gradient of each row's cost, its depths following."""
    depth: Float[Tensor, "rows some"]
    """Information about each inverse depth."""
    columns: Int[Tensor, "rows local"]
    size: int

    @classmethod
    def of(cls, problem: FlowProblem, state: FlowState, points: Int[Tensor, "some"], kernel: float) -> Group:
        """Of these points under a robust kernel."""
        few = replace(state, inverse_depth=state.inverse_depth[:, points])
        equations, _ = normal_equations.build(problem.thinned(points), few, kernel)
        local, pull = normal_equations.without_depths(equations)
        return cls(points, local, pull, equations.depth, equations.columns, equations.size)

    def gathered(
        self, pull: Float[Tensor, "rows local"], rows: Int[Tensor, "few"] | None = None
    ) -> Float[Tensor, "unknowns"]:
        """The rows' pulls (or those of some rows) as one gradient."""
        rows = torch.arange(len(pull), device=pull.device) if rows is None else rows
        return pull.new_zeros(self.size).index_add_(0, self.columns[rows].flatten(), pull[rows].flatten())


@dataclass(frozen=True)
class ReducedSystem:
    """The cameras' normal equations as every row's share."""

    local: Float[Tensor, "rows local local"]
    columns: Int[Tensor, "rows local"]
    size: int

    @classmethod
    def sum(cls, groups: Sequence[Group]) -> ReducedSystem:
        """Of all groups together."""
        local = groups[0].local.clone()
        for group in groups[1:]:
            local += group.local
        return cls(local, groups[0].columns, groups[0].size)

    @property
    def strength(self) -> float:
        """Mean of the diagonal."""
        return float(torch.diagonal(self.local, dim1=1, dim2=2).sum()) / self.size

    def solve(
        self,
        right: Float[Tensor, "unknowns n"],
        belief: Float[Tensor, "lens"],
        gauge: Float[Tensor, "unknowns 7"],
    ) -> Float[Tensor, "unknowns n"]:
        """Changes of the cameras under these pulls; along the `gauge` they are arbitrary.

        Args:
            right: the pulls.
            belief: information about the lens.
            gauge: directions that flow says nothing about.
        """
        diagonal = right.new_full((self.size,), GAUGE_PRIOR * self.strength)
        diagonal[-LENS_SIZE:] += belief
        if self.size > POSE_SIZE * normal_equations.DENSE_FRAMES + LENS_SIZE:
            # The first pose is held instead: that keeps the matrix sparse.
            mask = torch.ones(self.size, dtype=torch.bool, device=right.device)
            mask[:POSE_SIZE] = False
            matrix = normal_equations.assemble_sparse(self.local, self.columns, diagonal + TINY, mask)
            factor = scipy.sparse.linalg.splu(
                matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
            found = factor.solve((right * mask[:, None]).cpu().double().numpy())
            return torch.as_tensor(found, dtype=right.dtype, device=right.device)
        matrix = normal_equations.assemble_dense(self.local, self.columns, self.size)
        unit = gauge / gauge.norm(dim=0).clamp(min=TINY)
        matrix = matrix + self.strength * unit @ unit.T
        matrix.diagonal().add_(diagonal)
        return torch.linalg.solve(matrix, right)
