"""Each source frame's share of the Gauss-Newton normal equations, without the derivatives ever being written out.

Let B be the 2x3 derivative of a flow vector's target pixel by the point y = R r + d t, in the source's axes, and S =
w B^T B. By the source's pose the vector's derivative is B [d I | -[p]x] with p = (r, 1), by its inverse depth B R^T t.
So S, six numbers a vector, is all that the second derivatives depend on: its sums with the products of p and d are the
blocks of the poses, its product with R^T t couples them to the depth. The target's pose moves the same point: its
derivatives are those by the source's times `target_adjoint`. `lens_blocks.py` adds what the lens adds.

Tensors keep the points in their last dimension: everything is long contiguous arithmetic, or a product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.alignment.lens import LENS_SIZE, project_jacobians, ray_lens_jacobian, rays
from flowcam_ns.alignment.lens_blocks import LensBlocks, lens_blocks
from flowcam_ns.alignment.linearize import MIN_DEPTH_RATIO, cross, homogeneous, relative_poses, target_adjoint
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.reduced_system import POSE_SIZE, RowSystems
from flowcam_ns.alignment.robust import robust_cost
from flowcam_ns.geometry import se3

WHOLE = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
"""Which of a symmetric matrix's six numbers stands where."""
GRADIENT = torch.arange(6, 9)
"""Where the gradient by the point stands, behind those six."""
PRODUCTS = torch.triu_indices(4, 4)
"""The ten products of two of a point's (x, y, 1, d)."""
SQUARE = torch.tensor([[0, 1, 2, 3], [1, 4, 5, 6], [2, 5, 7, 8], [3, 6, 8, 9]])
"""Which of them is that of which two."""
BY_POSE = (
    torch.cat(
        [
            torch.cat([torch.zeros(3, 3, 3), -se3.skew(torch.eye(3))], dim=2),
            torch.cat([torch.eye(3), torch.zeros(3, 3)], dim=1)[None],
        ]
    )
    .double()
    .flatten(0, 1)
)
"""[d I | -[p]x] as a sum over (x, y, 1, d): four 3x6 matrices, one below the other."""


@dataclass(frozen=True)
class RowBlocks:
    """Some rows of H x = -g in blocks: cameras (over each row's own pose, its slots' poses, the lens) and depths."""

    camera: Float[Tensor, "rows local local"]
    camera_gradient: Float[Tensor, "rows local"]
    coupling: Float[Tensor, "rows local points"]
    """The largest part by far: it keeps the problem's precision."""
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


def row_blocks(
    problem: FlowProblem, state: FlowState, scale: float, with_lens: bool = True
) -> tuple[Float[Tensor, ""], RowBlocks]:
    """The rows' robust cost and their blocks of its normal equations; the lens's are 0 unless `with_lens`.

    Derivatives and their sums over the points have the precision of the problem, all else is in float64.
    """
    dtype = problem.points.dtype
    lens = state.lens.to(dtype)
    ray = rays(problem.points, lens)
    point = homogeneous(ray, state.inverse_depth.to(dtype))
    relative = relative_poses(problem, state)
    y = relative[..., :3, :] @ point[:, None]
    z = y[..., 2:, :].clamp(min=MIN_DEPTH_RATIO)
    ray_target = y[..., :2, :] / z
    pixels, by_ray, by_lens = project_jacobians(ray_target, lens, with_lens)
    error = pixels - problem.targets
    cost, weights = robust_cost(problem.confidence, error, y[..., 2, :] > MIN_DEPTH_RATIO, scale)

    # From here on everything is weighted.
    root = weights.sqrt()[:, :, None]
    error = error * root
    rotation, back = relative[..., :3, :3], relative[..., :3, :3].transpose(-1, -2)
    baseline = back @ relative[..., :3, 3:]
    by_point = back[:, :, None] @ _by_y(by_ray, ray_target, root / z)
    curvature = _curvature(by_point, error)
    by_depth = _by_depth(rotation, baseline) @ curvature
    in_target, of_row = by_depth[:, :, 5:], by_depth[:, :, :5].sum(1)
    own, own_gradient = _own_blocks(curvature, point)
    of_lens = None
    if by_lens is not None:
        of_ray, by_lens = ray_lens_jacobian(problem.points, ray, lens), by_lens.mul_(root[:, :, None])
        of_lens = lens_blocks(point, of_ray, baseline, by_point, by_lens, error, curvature, of_row[:, :3])
    matrix, gradient = _of_cameras(own, own_gradient, target_adjoint(problem, state), of_lens)
    coupling = _coupling(point, y, of_row[:, :3], in_target, of_lens)
    columns = _columns(problem, len(state.c2w))
    return cost, RowBlocks(matrix, gradient, coupling, of_row[:, 3].double(), of_row[:, 4].double(), columns)


def _by_y(by_ray: Tensor, ray: Tensor, factor: Tensor) -> Float[Tensor, "rows slots 2 3 points"]:
    """Derivative of target pixels by the point seen from there, of which `ray` is x/z and y/z."""
    rows, slots, _, points = ray.shape
    out = ray.new_empty(rows, slots, 2, 3, points)
    torch.mul(by_ray, factor[:, :, None], out=out[:, :, :, :2])
    torch.mul(out[:, :, :, 0], ray[:, :, :1], out=out[:, :, :, 2])
    out[:, :, :, 2].addcmul_(out[:, :, :, 1], ray[:, :, 1:]).neg_()
    return out


def _curvature(
    by_point: Float[Tensor, "rows slots 2 3 points"], error: Float[Tensor, "rows slots 2 points"]
) -> Float[Tensor, "rows slots 9 points"]:
    """Second derivatives of the cost by the point, as Gauss and Newton have them (`WHOLE`), then its first ones."""
    x, y = by_point.unbind(2)
    out = x.new_empty(*x.shape[:2], 9, x.shape[-1])
    for axis, first in enumerate((0, 3, 5)):
        some = out[:, :, first : first + 3 - axis]
        torch.mul(x[:, :, axis:], x[:, :, axis : axis + 1], out=some)
        some.addcmul_(y[:, :, axis:], y[:, :, axis : axis + 1])
    torch.mul(x, error[:, :, :1], out=out[:, :, 6:])
    out[:, :, 6:].addcmul_(y, error[:, :, 1:])
    return out


def _by_depth(rotation: Tensor, baseline: Tensor) -> Float[Tensor, "rows slots 8 9"]:
    """What makes derivatives by the inverse depth of a point's `_curvature`: with the source's pose through S b (3, b =
    R^T t), with itself b^T S b, the gradient b^T g, and with the target's pose through R S b (3).
    """
    with_point = baseline.new_zeros(*baseline.shape[:2], 3, 6)
    for row in range(3):
        with_point[:, :, row, WHOLE[row]] = baseline[..., 0]
    out = baseline.new_zeros(*baseline.shape[:2], 8, 9)
    out[:, :, :3, :6], out[:, :, 5:, :6] = with_point, rotation @ with_point
    out[:, :, 3, :6] = (baseline.transpose(-1, -2) @ with_point)[:, :, 0]
    out[:, :, 4, 6:] = baseline[..., 0]
    return out


def _own_blocks(
    curvature: Float[Tensor, "rows slots 9 points"], point: Float[Tensor, "rows 4 points"]
) -> tuple[Float[Tensor, "rows slots 6 6"], Float[Tensor, "rows slots 6"]]:
    """Second and first derivatives of every slot by the source's pose."""
    products = point[:, PRODUCTS[0]] * point[:, PRODUCTS[1]]
    sums = (curvature.flatten(1, 2) @ products.transpose(1, 2)).double().unflatten(1, (-1, 9))
    by_pose = BY_POSE.to(sums.device)
    second = sums[:, :, WHOLE[None, :, None], SQUARE[:, None, :, None]].flatten(4).flatten(2, 3)
    first = sums[:, :, GRADIENT, SQUARE[2][:, None]].flatten(2)
    return by_pose.T @ second @ by_pose, first @ by_pose


def _of_cameras(
    own: Float[Tensor, "rows slots 6 6"],
    own_gradient: Float[Tensor, "rows slots 6"],
    adjoint: Float[Tensor, "rows slots 6 6"],
    of_lens: LensBlocks | None,
) -> tuple[Float[Tensor, "rows local local"], Float[Tensor, "rows local"]]:
    """The cameras' blocks and gradient, the source's pose first, then the slots' and the lens."""
    rows, slots = own.shape[:2]
    local = POSE_SIZE * (1 + slots) + LENS_SIZE
    source, targets, tail = _parts(local)
    to_target = adjoint.transpose(-1, -2)
    crossed = to_target @ own
    matrix, gradient = own.new_zeros(rows, local, local), own.new_zeros(rows, local)
    matrix[:, source, source], gradient[:, source] = own.sum(1), own_gradient.sum(1)
    matrix[:, targets, source] = crossed.flatten(1, 2)
    matrix[:, source, targets] = matrix[:, targets, source].transpose(1, 2)
    gradient[:, targets] = (to_target @ own_gradient[..., None]).flatten(1)
    # One block a slot along the diagonal.
    diagonal = matrix[:, targets, targets].unflatten(2, (slots, POSE_SIZE)).unflatten(1, (slots, POSE_SIZE))
    diagonal.diagonal(dim1=1, dim2=3).copy_((crossed @ adjoint).permute(0, 2, 3, 1))
    if of_lens is not None:
        by_pose = BY_POSE.T.to(own.device) @ of_lens.with_point
        matrix[:, source, tail], matrix[:, targets, tail] = by_pose.sum(1), (to_target @ by_pose).flatten(1, 2)
        matrix[:, tail, :-LENS_SIZE] = matrix[:, :-LENS_SIZE, tail].transpose(1, 2)
        matrix[:, tail, tail], gradient[:, tail] = of_lens.lens, of_lens.gradient
    return matrix, gradient


def _coupling(
    point: Float[Tensor, "rows 4 points"],
    y: Float[Tensor, "rows slots 3 points"],
    in_source: Float[Tensor, "rows 3 points"],
    in_target: Float[Tensor, "rows slots 3 points"],
    of_lens: LensBlocks | None,
) -> Float[Tensor, "rows local points"]:
    """Second derivatives by every point's inverse depth and the cameras, from those by it and the point's place."""
    rows, slots, _, points = y.shape
    out = y.new_empty(rows, POSE_SIZE * (1 + slots) + LENS_SIZE, points)
    source, targets, tail = _parts(out.shape[1])
    depth = point[:, 3:]
    torch.mul(in_source, depth, out=out[:, :3])
    cross(point[:, None], in_source[:, None], out[:, None, 3 : source.stop])
    of_targets = out[:, targets].unflatten(1, (slots, POSE_SIZE))
    torch.mul(in_target, -depth[:, None], out=of_targets[:, :, :3])
    cross(in_target, y, of_targets[:, :, 3:])
    out[:, tail] = 0 if of_lens is None else of_lens.coupling
    return out


def _parts(local: int) -> tuple[slice, slice, slice]:
    """Where the source's pose, the targets' and the lens stand among a row's unknowns."""
    return slice(0, POSE_SIZE), slice(POSE_SIZE, local - LENS_SIZE), slice(local - LENS_SIZE, local)


def _columns(problem: FlowProblem, frames: int) -> Int[Tensor, "rows local"]:
    device = problem.neighbours.device
    touched = torch.cat([problem.sources[:, None], problem.neighbours], dim=1)
    poses = touched[..., None] * POSE_SIZE + torch.arange(POSE_SIZE, device=device)
    tail = POSE_SIZE * frames + torch.arange(LENS_SIZE, device=device)
    return torch.cat([poses.flatten(1), tail.expand(len(touched), LENS_SIZE)], dim=1)
