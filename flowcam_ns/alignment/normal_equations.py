"""Gauss-Newton normal equations with the inverse depths eliminated (Schur complement).

The unknowns of the reduced system are one 6-vector a pose and the lens. A source frame couples its own pose, those of
its slots and the lens: its share of the system is one small dense matrix, made by batched products over the points.
Rows stay in the pieces in which they were linearised, each as wide as its busiest row; `reduced_system.py` sums them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment.chunks import over_chunks, side_by_side
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import COLUMNS, DEPTH, LENS, RESIDUAL, SOURCE, linearize, target_adjoint
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.reduced_system import POSE_SIZE, TINY, RowSystems, solve_reduced
from flowcam_ns.alignment.robust import robust_cost


@dataclass(frozen=True)
class RowBlocks:
    """Some rows of H x = -g in blocks: cameras (over each row's own pose, its slots' poses, the lens) and depths."""

    camera: Float[Tensor, "rows local local"]
    camera_gradient: Float[Tensor, "rows local"]
    coupling: Float[Tensor, "rows local points"]
    depth: Float[Tensor, "rows points"]
    depth_gradient: Float[Tensor, "rows points"]
    columns: Int[Tensor, "rows local"]
    """Where each row's local unknowns stand among the global ones: 6 a pose, then the lens."""

    def eliminated(self, information: Float[Tensor, "rows points"]) -> RowSystems:
        """The rows' shares of the camera system, without inverse depths of that inverse curvature."""
        coupling = self.coupling.double()
        scaled = coupling * information[:, None]
        towards = (scaled @ self.depth_gradient[..., None])[..., 0]
        matrix = self.camera - scaled @ coupling.transpose(1, 2)
        return RowSystems(matrix, self.camera_gradient - towards, self.columns)

    def depth_step(
        self, step: Float[Tensor, "unknowns"], information: Float[Tensor, "rows points"]
    ) -> Float[Tensor, "rows points"]:
        """What the inverse depths do when the cameras take that step."""
        moved = step[self.columns][:, None].to(self.coupling.dtype)
        return -(self.depth_gradient + (moved @ self.coupling)[:, 0]) * information


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
    frames = len(state.c2w)

    def accumulate(chunk: FlowProblem, part: FlowState) -> tuple[Tensor, RowBlocks]:
        linearization, valid = linearize(chunk, part, with_lens)
        cost, weights = robust_cost(chunk.confidence, linearization[:, :, RESIDUAL], valid, scale)
        parts = _accumulate(linearization, weights, target_adjoint(chunk, part))
        return cost.double(), RowBlocks(*parts, _columns(chunk, frames))

    costs, blocks = zip(*over_chunks(problem, state, accumulate), strict=True)
    return NormalEquations(list(blocks), POSE_SIZE * frames + LENS_SIZE), torch.stack(costs).sum()


def _accumulate(
    linearization: Float[Tensor, "rows slots columns 2 points"],
    weights: Float[Tensor, "rows slots points"],
    adjoint: Float[Tensor, "rows slots 6 6"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Blocks of the weighted normal equations (`linearization` is overwritten)."""
    rows, slots, points = weights.shape
    weighted = linearization.mul_(weights.sqrt()[:, :, None, None])
    flat = weighted.flatten(3)
    blocks = (flat @ flat.transpose(-1, -2)).double()
    # The inverse depth against everything: rows slots columns points.
    per_point = (weighted * weighted[:, :, DEPTH : DEPTH + 1]).sum(3)
    depth, depth_gradient = per_point[:, :, DEPTH].sum(1), per_point[:, :, RESIDUAL].sum(1)

    # The target's derivatives are the source's times the adjoint.
    to_target = adjoint.transpose(-1, -2)
    target = to_target @ blocks[:, :, SOURCE]
    local = POSE_SIZE * (1 + slots) + LENS_SIZE
    own, middle, tail = slice(0, POSE_SIZE), slice(POSE_SIZE, local - LENS_SIZE), slice(local - LENS_SIZE, local)
    camera = blocks.new_zeros(rows, local, local)
    gradient = blocks.new_zeros(rows, local)
    coupling = per_point.new_zeros(rows, local, points)
    total = blocks.sum(1)
    camera[:, own, own], gradient[:, own] = total[:, SOURCE, SOURCE], total[:, SOURCE, RESIDUAL]
    camera[:, middle, own] = target[..., SOURCE].flatten(1, 2)
    camera[:, own, middle] = camera[:, middle, own].transpose(1, 2)
    gradient[:, middle] = target[..., RESIDUAL].flatten(1)
    coupling[:, own] = per_point[:, :, SOURCE].sum(1)
    coupling[:, middle] = (to_target.to(per_point.dtype) @ per_point[:, :, SOURCE]).flatten(1, 2)
    # One block a slot along the diagonal.
    diagonal = camera[:, middle, middle].unflatten(2, (slots, POSE_SIZE)).unflatten(1, (slots, POSE_SIZE))
    diagonal.diagonal(dim1=1, dim2=3).copy_((target[..., SOURCE] @ adjoint).permute(0, 2, 3, 1))
    if blocks.shape[-1] == COLUMNS:
        camera[:, own, tail], camera[:, tail, tail] = total[:, SOURCE, LENS], total[:, LENS, LENS]
        camera[:, middle, tail] = target[..., LENS].flatten(1, 2)
        camera[:, tail, :-LENS_SIZE] = camera[:, :-LENS_SIZE, tail].transpose(1, 2)
        gradient[:, tail], coupling[:, tail] = total[:, LENS, RESIDUAL], per_point[:, :, LENS].sum(1)
    # The coupling is the largest part by far: it keeps the problem's precision.
    return camera, gradient, coupling, depth.double(), depth_gradient.double()


def _columns(problem: FlowProblem, frames: int) -> Int[Tensor, "rows local"]:
    device = problem.neighbours.device
    touched = torch.cat([problem.sources[:, None], problem.neighbours], dim=1)
    poses = touched[..., None] * POSE_SIZE + torch.arange(POSE_SIZE, device=device)
    tail = POSE_SIZE * frames + torch.arange(LENS_SIZE, device=device)
    return torch.cat([poses.flatten(1), tail.expand(len(touched), LENS_SIZE)], dim=1)


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
