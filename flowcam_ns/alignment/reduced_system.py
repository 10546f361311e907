"""The cameras' own system, summed from every row's share of it, and its solution.

It is dense and factorised by Cholesky for short clips; for long ones it stays block-sparse (its memory grows with the
frames, not with their square) and is factorised by SuperLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowcam_ns.alignment.lens import LENS_SIZE

POSE_SIZE = 6
DENSE_FRAMES = 250
"""Up to so many frames the system is solved as a dense matrix."""
TINY = 1e-12


@dataclass(frozen=True)
class RowSystems:
    """Some rows' shares of the camera system, each over its own few unknowns."""

    matrix: Float[Tensor, "rows local local"]
    gradient: Float[Tensor, "rows local"]
    columns: Int[Tensor, "rows local"]
    """Where those stand among all unknowns: 6 a pose, then the lens."""


def is_dense(size: int) -> bool:
    """Whether a system of so many unknowns is solved as a dense matrix."""
    return size <= POSE_SIZE * DENSE_FRAMES + LENS_SIZE


def solve_reduced(
    systems: Sequence[RowSystems],
    diagonal: Float[Tensor, "unknowns"],
    more_gradient: Float[Tensor, "unknowns"],
    free: Bool[Tensor, "unknowns"],
) -> Float[Tensor, "unknowns"]:
    """The step that the rows ask for together; NaN where their matrix is not positive definite.

    Args:
        systems: the rows' shares.
        diagonal: added to their sum.
        more_gradient: likewise, to the gradient.
        free: which unknowns may move; the others get a step of exactly 0.
    """
    size = len(diagonal)
    gradient = more_gradient.clone()
    for rows in systems:
        gradient.index_add_(0, rows.columns.flatten(), rows.gradient.flatten())
    rhs = -gradient * free
    if not bool(free.any()):
        return rhs
    if is_dense(size):
        kept = torch.nonzero(free)[:, 0]
        matrix = assemble_dense(systems, size)[kept][:, kept] + torch.diag(diagonal[kept])
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            return torch.full_like(rhs, torch.nan)
        return rhs.index_copy(0, kept, torch.cholesky_solve(rhs[kept][:, None], factor)[:, 0])
    matrix = assemble_sparse(systems, diagonal, free)
    solution = scipy.sparse.linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    ).solve(rhs.cpu().double().numpy())
    return torch.as_tensor(solution, dtype=rhs.dtype, device=rhs.device)


def assemble_dense(systems: Sequence[RowSystems], size: int) -> Float[Tensor, "unknowns unknowns"]:
    """Sum every row's share into one dense matrix."""
    total = systems[0].matrix.new_zeros(size * size)
    for rows in systems:
        index = rows.columns[:, :, None] * size + rows.columns[:, None, :]
        total.index_add_(0, index.flatten(), rows.matrix.flatten())
    return total.reshape(size, size)


def assemble_sparse(
    systems: Sequence[RowSystems], diagonal: Float[Tensor, "unknowns"], free: Bool[Tensor, "unknowns"]
) -> scipy.sparse.csc_matrix:
    """Sum every row's share into one block-sparse matrix; rows and columns that are not free become the identity's.

    Blocks of two poses are summed as blocks: handling every number by itself would take longer than the factorisation.
    """
    size, frames = len(diagonal), (len(diagonal) - LENS_SIZE) // POSE_SIZE
    poses = [rows.columns[:, :-LENS_SIZE:POSE_SIZE] // POSE_SIZE for rows in systems]
    wanted = [(touched[:, :, None] * frames + touched[:, None, :]).flatten() for touched in poses]
    keys, place = torch.unique(torch.cat(wanted), return_inverse=True)
    first = systems[0].matrix
    blocks = first.new_zeros(len(keys), POSE_SIZE, POSE_SIZE)
    border, corner = first.new_zeros(frames * POSE_SIZE, LENS_SIZE), first.new_zeros(LENS_SIZE, LENS_SIZE)
    for rows, where in zip(systems, place.split([len(some) for some in wanted]), strict=True):
        own = rows.matrix[:, :-LENS_SIZE, :-LENS_SIZE]
        own = own.unflatten(2, (-1, POSE_SIZE)).unflatten(1, (-1, POSE_SIZE)).transpose(2, 3)
        blocks.index_add_(0, where, own.flatten(0, 2))
        lens = rows.matrix[:, :, -LENS_SIZE:]
        border.index_add_(0, rows.columns[:, :-LENS_SIZE].flatten(), lens[:, :-LENS_SIZE].flatten(0, 1))
        corner += lens[:, -LENS_SIZE:].sum(0)
    kept = free.to(first)
    by_pose, of_lens = kept[:-LENS_SIZE].view(frames, POSE_SIZE), kept[-LENS_SIZE:]
    blocks = blocks * by_pose[keys // frames][:, :, None] * by_pose[keys % frames][:, None, :]
    edge = (border * kept[:-LENS_SIZE, None] * of_lens).cpu().numpy()
    ends = np.searchsorted((keys // frames).cpu().numpy(), np.arange(frames + 1))
    pose_matrix = scipy.sparse.bsr_matrix(
        (blocks.double().cpu().numpy(), (keys % frames).cpu().numpy(), ends), shape=(size - LENS_SIZE,) * 2
    )
    lens_matrix = (corner * of_lens[:, None] * of_lens).cpu().numpy()
    matrix = scipy.sparse.bmat([[pose_matrix.tocsr(), edge], [edge.T, lens_matrix]], format="csc")
    fixed = np.where(free.cpu().numpy(), diagonal.cpu().double().numpy(), 1.0)
    return scipy.sparse.csc_matrix(matrix + scipy.sparse.diags(fixed, format="csc"))
