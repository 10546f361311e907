"""Gauss-Newton normal equations with the inverse depths eliminated (Schur complement).

The unknowns of the reduced system are one 6-vector a pose and the lens. A source frame couples its own pose, those of
its slots and the lens: its share of the system is one small dense matrix, made by batched products over the points and
then scattered. The reduced matrix is dense and factorised by Cholesky for short clips; for long ones it stays
block-sparse (its memory grows with the frames, not with their square) and is factorised by SuperLU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import COLUMNS, DEPTH, LENS, RESIDUAL, SOURCE, linearize, target_adjoint
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.robust import robust_cost

POSE_SIZE = 6
DENSE_FRAMES = 250
"""Up to so many frames the reduced system is solved as a dense matrix."""
TINY = 1e-12
ROWS_AT_ONCE = 64
"""Rows of the reduced system that are made or summed together, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class NormalEquations:
    """H x = -g in blocks: cameras (each row's own share over [own pose, slots' poses, lens]) and inverse depths."""

    camera: Float[Tensor, "rows local local"]
    camera_gradient: Float[Tensor, "rows local"]
    coupling: Float[Tensor, "rows local points"]
    depth: Float[Tensor, "rows points"]
    depth_gradient: Float[Tensor, "rows points"]
    columns: Int[Tensor, "rows local"]
    """Where each row's local unknowns stand among the global ones: 6 a pose, then the lens."""
    size: int
    """Number of global camera unknowns."""


def build(
    problem: FlowProblem, state: FlowState, scale: float, with_lens: bool = True
) -> tuple[NormalEquations, Float[Tensor, ""]]:
    """Linearise and accumulate the normal equations of the robust cost; also gives that cost.

    The derivatives have the precision of the problem; their sums are handed on in float64.

    Rows are taken a few at a time, so that the derivatives stay in the processor's cache and memory stays bounded.
    """

    def accumulate(chunk: FlowProblem, part: FlowState) -> tuple[Tensor, ...]:
        linearization, valid = linearize(chunk, part, with_lens)
        cost, weights = robust_cost(chunk.confidence, linearization[:, :, RESIDUAL], valid, scale)
        parts = _accumulate(linearization, weights, target_adjoint(chunk, part))
        return cost.double(), *_with_slots(parts, problem.neighbours.shape[1] - chunk.neighbours.shape[1])

    cost, *parts = zip(*over_chunks(problem, state, accumulate), strict=True)
    # The coupling is the largest part by far: it keeps the problem's precision.
    camera, gradient, coupling, depth, depth_gradient = (torch.cat(items) for items in parts)
    frames = len(state.c2w)
    columns = _columns(problem, frames)
    size = POSE_SIZE * frames + LENS_SIZE
    camera, gradient, depth, depth_gradient = (x.double() for x in (camera, gradient, depth, depth_gradient))
    return NormalEquations(camera, gradient, coupling, depth, depth_gradient, columns, size), torch.stack(cost).sum()


def _accumulate(
    linearization: Float[Tensor, "rows slots columns 2 points"],
    weights: Float[Tensor, "rows slots points"],
    adjoint: Float[Tensor, "rows slots 6 6"],
) -> tuple[Tensor, ...]:
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
    return camera, gradient, coupling, depth, depth_gradient


def _with_slots(parts: tuple[Tensor, ...], more: int) -> tuple[Tensor, ...]:
    """What `_accumulate` gives, with so many empty slots added between the poses and the lens."""
    if more == 0:
        return parts
    camera, gradient, coupling, depth, depth_gradient = parts
    before = camera.shape[1] - LENS_SIZE
    place = torch.arange(camera.shape[1], device=camera.device)
    place[before:] += POSE_SIZE * more
    wider = camera.shape[1] + POSE_SIZE * more
    whole = camera.new_zeros(len(camera), wider, wider)
    whole[:, place[:, None], place] = camera
    spread = (part.new_zeros(len(part), wider, *part.shape[2:]) for part in (gradient, coupling))
    spread = (new.index_copy_(1, place, part) for new, part in zip(spread, (gradient, coupling), strict=True))
    return whole, *spread, depth, depth_gradient


def _columns(problem: FlowProblem, frames: int) -> Int[Tensor, "rows local"]:
    device = problem.neighbours.device
    touched = torch.cat([problem.sources[:, None], problem.neighbours], dim=1)
    poses = touched[..., None] * POSE_SIZE + torch.arange(POSE_SIZE, device=device)
    tail = POSE_SIZE * frames + torch.arange(LENS_SIZE, device=device)
    return torch.cat([poses.flatten(1), tail.expand(len(touched), LENS_SIZE)], dim=1)


def gather_diagonal(equations: NormalEquations) -> Float[Tensor, "unknowns"]:
    """Diagonal of the camera block before elimination (what Marquardt's damping is relative to)."""
    local = torch.diagonal(equations.camera, dim1=-2, dim2=-1)
    return local.new_zeros(equations.size).index_add_(0, equations.columns.flatten(), local.flatten())


def without_depths(equations: NormalEquations) -> tuple[Float[Tensor, "rows local local"], Float[Tensor, "rows local"]]:
    """Every row's share of the camera system and of its gradient after its inverse depths have been eliminated."""
    depth = equations.depth + TINY
    return _eliminated(equations, torch.where(equations.depth > TINY, 1 / depth, torch.zeros_like(depth)))


def _eliminated(
    equations: NormalEquations, information: Float[Tensor, "rows points"]
) -> tuple[Float[Tensor, "rows local local"], Float[Tensor, "rows local"]]:
    """Every row's share of the camera system and of its gradient, without inverse depths of that inverse curvature."""
    local, gradient = torch.empty_like(equations.camera), torch.empty_like(equations.camera_gradient)
    for some in torch.arange(len(local), device=local.device).split(ROWS_AT_ONCE):
        coupling = equations.coupling[some].double()
        scaled = coupling * information[some][:, None]
        local[some] = equations.camera[some] - scaled @ coupling.transpose(1, 2)
        towards = (scaled @ equations.depth_gradient[some][..., None])[..., 0]
        gradient[some] = equations.camera_gradient[some] - towards
    return local, gradient


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
    depth_free = free.depths[:, None] & (equations.depth > TINY)
    depth = equations.depth * (1 + damping) + TINY
    inverse_depth_information = torch.where(depth_free, 1 / depth, torch.zeros_like(depth))
    local, gradient = _eliminated(equations, inverse_depth_information)
    mask = torch.cat([free.poses.repeat_interleave(POSE_SIZE), free.lens])
    rhs = -gradient.new_zeros(equations.size).index_add_(0, equations.columns.flatten(), gradient.flatten())
    rhs = rhs - prior_gradient
    diagonal = gather_diagonal(equations) * damping + prior + TINY
    step = _solve_reduced(local, equations.columns, diagonal, rhs, mask)
    moved = step[equations.columns][:, None].to(equations.coupling.dtype)
    back = equations.depth_gradient + (moved @ equations.coupling)[:, 0]
    return step, -back * inverse_depth_information


def _solve_reduced(
    local: Float[Tensor, "rows local local"],
    columns: Int[Tensor, "rows local"],
    diagonal: Float[Tensor, "unknowns"],
    rhs: Float[Tensor, "unknowns"],
    mask: Tensor,
) -> Float[Tensor, "unknowns"]:
    size = len(rhs)
    rhs = rhs * mask
    if not bool(mask.any()):
        return rhs
    if size <= POSE_SIZE * DENSE_FRAMES + LENS_SIZE:
        matrix = assemble_dense(local, columns, size)
        kept = torch.nonzero(mask)[:, 0]
        matrix = matrix[kept][:, kept] + torch.diag(diagonal[kept])
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            return torch.full_like(rhs, torch.nan)
        return rhs.index_copy(0, kept, torch.cholesky_solve(rhs[kept][:, None], factor)[:, 0])
    matrix = assemble_sparse(local, columns, diagonal, mask)
    solution = scipy.sparse.linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    ).solve(rhs.cpu().double().numpy())
    return torch.as_tensor(solution, dtype=rhs.dtype, device=rhs.device)


def assemble_dense(
    local: Float[Tensor, "rows local local"], columns: Int[Tensor, "rows local"], size: int
) -> Float[Tensor, "unknowns unknowns"]:
    """Sum every row's share into one dense matrix."""
    index = columns[:, :, None] * size + columns[:, None, :]
    return local.new_zeros(size * size).index_add_(0, index.flatten(), local.flatten()).reshape(size, size)


def assemble_sparse(
    local: Float[Tensor, "rows local local"],
    columns: Int[Tensor, "rows local"],
    diagonal: Float[Tensor, "unknowns"],
    mask: Tensor,
) -> scipy.sparse.csc_matrix:
    """Sum every row's share into one block-sparse matrix; rows and columns outside `mask` become the identity's.

    Blocks of two poses are summed as blocks: handling every number by itself would take longer than the factorisation.
    """
    size, frames = len(diagonal), (len(diagonal) - LENS_SIZE) // POSE_SIZE
    rows, width = local.shape[0], local.shape[1] - LENS_SIZE
    poses = columns[:, :width:POSE_SIZE] // POSE_SIZE
    keys, place = torch.unique(poses[:, :, None] * frames + poses[:, None, :], return_inverse=True)
    touching = local[:, :width, :width].unflatten(2, (-1, POSE_SIZE)).unflatten(1, (-1, POSE_SIZE)).transpose(2, 3)
    blocks = local.new_zeros(len(keys), POSE_SIZE, POSE_SIZE)
    for some in torch.arange(rows, device=local.device).split(ROWS_AT_ONCE):
        blocks.index_add_(0, place[some].flatten(), touching[some].flatten(0, 2))
    border = local.new_zeros(frames * POSE_SIZE, LENS_SIZE)
    border.index_add_(0, columns[:, :width].flatten(), local[:, :width, width:].flatten(0, 1))
    kept = mask.to(local)
    blocks = blocks * kept[:-LENS_SIZE].view(frames, POSE_SIZE)[keys // frames][:, :, None]
    blocks = blocks * kept[:-LENS_SIZE].view(frames, POSE_SIZE)[keys % frames][:, None, :]
    border = (border * kept[:-LENS_SIZE, None] * kept[-LENS_SIZE:]).cpu().numpy()
    corner = (local[:, width:, width:].sum(0) * kept[-LENS_SIZE:, None] * kept[-LENS_SIZE:]).cpu().numpy()
    ends = np.searchsorted((keys // frames).cpu().numpy(), np.arange(frames + 1))
    pose_matrix = scipy.sparse.bsr_matrix(
        (blocks.double().cpu().numpy(), (keys % frames).cpu().numpy(), ends), shape=(size - LENS_SIZE,) * 2
    )
    diagonal_np = np.where(mask.cpu().numpy(), diagonal.cpu().double().numpy(), 1.0)
    matrix = scipy.sparse.bmat([[pose_matrix.tocsr(), border], [border.T, corner]], format="csc")
    return scipy.sparse.csc_matrix(matrix + scipy.sparse.diags(diagonal_np, format="csc"))
