"""Gauss-Newton normal equations with the inverse depths eliminated (Schur complement).

The unknowns of the reduced system are one 6-vector a pose and the lens. A source frame couples its own pose, those of
its slots and the lens: its share of the system is one small dense matrix, made by batched products over the points.
Rows stay in the pieces in which they were linearised, each as wide as its busiest row; `reduced_system.py` sums them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.chunks import over_chunks, side_by_side
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.reduced_system import POSE_SIZE, TINY, RowSystems, solve_reduced
from flowcam_ns.alignment.row_blocks import RowBlocks, row_blocks


@dataclass(frozen=True)
class NormalEquations:
    """All rows in order, a few together, and the number of global camera unknowns."""

    blocks: list[RowBlocks]
    size: int

    def diagonal(self) -> Float[Tensor, "unknowns"]:
        """Diagonal of the camera block before elimination (what Marquardt's damping is relative to)."""
        total = self.blocks[0].camera.new_zeros(self.size)
        for rows in self.blocks:
            total.index_add_(0, rows.columns.flatten(), torch.diagonal(rows.camera, dim1=-2, dim2=-1).flatten())
        return total


def build(
    problem: FlowProblem, state: FlowState, scale: float, with_lens: bool = True
) -> tuple[NormalEquations, Float[Tensor, ""]]:
    """Linearise and accumulate the normal equations of the robust cost; also gives that cost.

    The derivatives have the precision of the problem; their sums are handed on in float64.

    Rows are taken a few at a time, so that the derivatives stay in the processor's cache and memory stays bounded.
    """
    pieces = over_chunks(problem, state, lambda rows, part: row_blocks(rows, part, scale, with_lens))
    cost = torch.stack([cost for cost, _ in pieces]).double().sum()
    return NormalEquations([blocks for _, blocks in pieces], POSE_SIZE * len(state.c2w) + LENS_SIZE), cost


def without_depths(equations: NormalEquations) -> list[RowSystems]:
    """Every row's share of the camera system after its inverse depths have been eliminated."""
    return [rows.eliminated(torch.where(rows.depth > 0, 1 / (rows.depth + TINY), 0)) for rows in equations.blocks]


def solve(
    equations: NormalEquations,
    free: Free,
    damping: float,
    prior: Float[Tensor, "unknowns"],
    prior_gradient: Float[Tensor, "unknowns"],
) -> tuple[Float[Tensor, "unknowns"], Float[Tensor, "rows points"]]:
    """The damped Gauss-Newton step of cameras and inverse depths.

    Args:
        equations: the normal equations.
        free: which unknowns may move; the others get a step of exactly 0.
        damping: Marquardt's factor on the diagonal.
        prior: diagonal information added to the camera unknowns.
        prior_gradient: gradient of that prior.
    """
    depth_free = free.depths.split([len(rows.depth) for rows in equations.blocks])
    information = [
        torch.where(may[:, None] & (rows.depth > TINY), 1 / (rows.depth * (1 + damping) + TINY), 0)
        for rows, may in zip(equations.blocks, depth_free, strict=True)
    ]
    pieces = list(zip(equations.blocks, information, strict=True))
    systems = side_by_side(lambda piece: piece[0].eliminated(piece[1]), pieces, prior.device)
    diagonal = equations.diagonal() * damping + prior + TINY
    free_cameras = torch.cat([free.poses.repeat_interleave(POSE_SIZE), free.lens])
    step = solve_reduced(systems, diagonal, prior_gradient, free_cameras)
    depths = side_by_side(lambda piece: piece[0].depth_step(step, piece[1]), pieces, prior.device)
    return step, torch.cat(depths)
