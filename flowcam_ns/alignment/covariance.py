"""How well the solved poses and the lens are determined: by what the parts of the picture and of the video say.

Flow vectors err together: smoothed flow and an imperfect lens leave errors that change slowly over the picture and
repeat from frame to frame; blur and moving things come and go with time. Taken for independent, hundreds of thousands
of vectors promise an accuracy that no solve has. So errors are judged by groups, inside of which they may depend on
each other in any way (`groups.py`):

- the quarters of the picture, each over all frames: how much would the solution change had one of them not been seen?
  (The jackknife, a group at a time.)
- runs of a few frames: how hard does each pull at the solution? (The sandwich estimate with clusters.)

The two, and what was believed of the lens beforehand, are added up. No factor is fitted, but these groups were chosen
because they covered the true errors of the benchmark's sequences best. MacKinnon,
Nielsen and Webb (Cluster-robust inference: a guide to empirical practice, Journal of Econometrics, 2023) call the two
estimates CV3 and CV1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import ndtr, stdtrit
from torch import Tensor

from flowcam_ns.alignment.bootstrap import worth_of_belief
from flowcam_ns.alignment.chunks import over_chunks
from flowcam_ns.alignment.groups import Group, Matrix, quarters_of, solve, strength
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.linearize import DEPTH, RESIDUAL, linearize, residuals
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.alignment.reduced_system import TINY
from flowcam_ns.alignment.refine import fitting_kernel
from flowcam_ns.alignment.robust import robust_cost

RUN, MIN_RUNS = 8, 4
"""Frames of a run; short videos are split into at least so many runs."""
DELETED = 0.995
"""Share of a quarter's weight that is taken away: a frame that shows something in one quarter alone keeps a pose."""
REPRODUCIBLE = 0.005
"""Relative deviation of a focal length below which good methods do not agree on a recorded video: what COLMAP finds on
the frames of four datasets lies .04, .3, .65 and .96 % from what those say. No lens follows a model exactly."""
DEPTH_SHARE = 0.02
"""Share of the flow vectors that count as independent for a depth: a point's flow to several frames errs together, in
the direction that its depth explains."""
MAX_BELIEF = 1e6
"""Most that is added for the lens, relative to the mean of the diagonal: a lens that is known is as good as held."""
ORIENTATION_SHARE = 1e-8
"""Weight of orientations in the fit of the centres: they count where those lie on a line and leave a rotation open."""
STILL = 1e-9
"""Extent of a trajectory below which the camera stays in one place."""


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations in the solver's units."""

    rotation: Float[Tensor, "frames"]
    """Radians."""
    position: Float[Tensor, "frames"]
    lens: Float[Tensor, "lens"]
    """Of the logarithm of the focal length, the principal point and the distortion, as `lens.py` has them."""

    @property
    def log_focal(self) -> float:
        """Relative deviation of the focal length."""
        return float(self.lens[0])


def marginal_uncertainty(
    problem: FlowProblem, state: FlowState, lens_std: Float[Tensor, "lens"] | None = None
) -> Uncertainty:
    """Marginal standard deviations of poses and lens.

    The free choice of world frame and scale (the gauge) is taken out: a position's deviation is what remains after a
    Sim(3) fit of the centres, a rotation's what remains after one rotation of the world.

    Args:
        problem: the measurements, any number of rows a frame; a point has about the same place in every row.
        state: the solution.
        lens_std: what was believed of the lens beforehand.
    """
    quarters, fit = _quarters(problem, state)
    gauge = gauge_directions(state)
    influence = _influence(quarters, gauge, fit, lens_std)
    centre = state.c2w[:, :3, 3]
    still = float((centre - centre.mean(0)).norm(dim=-1).max()) < STILL
    by_centres = _after_fit(influence, gauge, (0.0, 1.0) if still else (1.0, ORIENTATION_SHARE))
    by_orientations = _after_fit(influence, gauge, (0.0, 1.0))
    lens = influence[-LENS_SIZE:].square().sum(1)
    lens[0] += (REPRODUCIBLE if lens_std is None else min(REPRODUCIBLE, float(lens_std[0]))) ** 2
    return Uncertainty(
        rotation=by_orientations[:, 3:].square().sum((1, 2)).sqrt(),
        position=by_centres[:, :3].square().sum((1, 2)).sqrt(),
        lens=lens.sqrt(),
    )


@dataclass(frozen=True)
class _Goodness:
    """How the residuals lie under the robust kernel."""

    cost: float
    noise: float
    """Weighted variance of a residual's component."""
    curvature: float
    """The robust cost's second derivative as a share of the weights, from which the normal equations are made."""


def _goodness(problem: FlowProblem, state: FlowState, kernel: float) -> _Goodness:
    def sums(chunk: FlowProblem, part: FlowState) -> Float[Tensor, "4"]:
        residual, valid = residuals(chunk, part)
        cost, weights = robust_cost(chunk.confidence, residual, valid, kernel)
        weights, squared = weights.double(), residual.double().square().sum(-2)
        u = squared / kernel**2
        # The influence e / (1 + u)^2 has the slope (1 - 3u) / (1 + u)^3 along the residual, 1 / (1 + u)^2 across it.
        slope = weights * (1 + (1 - 3 * u) / (1 + u)) / 2
        return torch.stack([cost.double(), (weights * squared).sum(), weights.sum(), slope.sum()])

    cost, squares, weight, slope = torch.stack(over_chunks(problem, state, sums)).sum(0).tolist()
    weight = max(weight, 1e-9)
    return _Goodness(cost, max(squares / (2 * weight), 1e-12), min(max(slope / weight, 0.1), 1.0))


def lens_information(cost: float, lens_std: Float[Tensor, "lens"], matrix: Matrix) -> Float[Tensor, "lens"]:
    """What a belief about the lens adds to the cameras' normal equations `matrix`, where the robust cost is that."""
    return (worth_of_belief(cost) / lens_std.double() ** 2).clamp(max=MAX_BELIEF * strength(matrix))


def _quarters(problem: FlowProblem, state: FlowState) -> tuple[list[Group], _Goodness]:
    kernel = fitting_kernel(problem, state)
    run = max(1, min(RUN, len(state.c2w) // MIN_RUNS))
    quarters = [Group.of(problem, state, points, kernel, run) for points in quarters_of(problem.points)]
    return quarters, _goodness(problem, state, kernel)


def _whole(quarters: list[Group], fit: _Goodness) -> Matrix:
    """The cameras' normal equations over all quarters."""
    return fit.curvature * sum((quarter.matrix for quarter in quarters[1:]), quarters[0].matrix)


def _changes(
    quarters: list[Group],
    whole: Matrix,
    gauge: Float[Tensor, "unknowns 7"],
    fit: _Goodness,
    belief: Float[Tensor, "lens"],
) -> Float[Tensor, "unknowns groups"]:
    """What each quarter and each run change in the solution, as columns."""
    changes = []
    for quarter in quarters:
        rest = whole - DELETED * fit.curvature * quarter.matrix
        change = solve(rest, quarter.pulls.sum(1, keepdim=True), belief, gauge)
        changes.append(change * (1 - 1 / len(quarters)) ** 0.5 * _few(len(quarters)))
    pulls = sum((quarter.pulls for quarter in quarters[1:]), quarters[0].pulls)
    count = pulls.shape[1]
    pulls = pulls * (count / (count - 1)) ** 0.5 * _few(count)
    return torch.cat([*changes, solve(whole, pulls, belief, gauge)], dim=1)


def _influence(
    quarters: list[Group],
    gauge: Float[Tensor, "unknowns 7"],
    fit: _Goodness,
    lens_std: Float[Tensor, "lens"] | None,
) -> Float[Tensor, "unknowns groups"]:
    """What each quarter, each run and the belief change in the solution, as columns."""
    whole = _whole(quarters, fit)
    if lens_std is None:
        return _changes(quarters, whole, gauge, fit, gauge.new_zeros(LENS_SIZE))
    belief = lens_information(fit.cost, lens_std, whole)
    pull = gauge.new_zeros(len(gauge), LENS_SIZE)
    pull[-LENS_SIZE:] = torch.diag(belief * lens_std.double())
    return torch.cat([_changes(quarters, whole, gauge, fit, belief), solve(whole, pull, belief, gauge)], dim=1)


def _few(groups: int) -> float:
    """How much wider a deviation from so few groups must be for two of it to cover as much as two of a known one do.

    Student's distribution with one degree of freedom less than there are groups.
    """
    return float(stdtrit(groups - 1, ndtr(2.0))) / 2.0


def gauge_directions(state: FlowState) -> Float[Tensor, "unknowns 7"]:
    """Changes of all poses that move the whole world: 3 translations, 3 rotations about its middle, 1 scale."""
    frames = len(state.c2w)
    back = state.c2w[:, :3, :3].transpose(1, 2)
    centre = state.c2w[:, :3, 3] - state.c2w[:, :3, 3].mean(0)
    directions = centre.new_zeros(7, frames, 6)
    for axis in range(3):
        unit = centre.new_zeros(3)
        unit[axis] = 1
        directions[axis, :, :3] = back @ unit
        directions[3 + axis, :, :3] = (back @ torch.linalg.cross(unit.expand_as(centre), centre)[..., None])[..., 0]
        directions[3 + axis, :, 3:] = back @ unit
    directions[6, :, :3] = (back @ centre[..., None])[..., 0]
    return torch.cat([directions.reshape(7, -1), centre.new_zeros(7, LENS_SIZE)], dim=1).T


def _after_fit(
    influence: Float[Tensor, "unknowns groups"], gauge: Float[Tensor, "unknowns 7"], weights: tuple[float, float]
) -> Float[Tensor, "frames 6 groups"]:
    """Changes of the poses after a fit of the world, in which centres and orientations have these `weights`."""
    weight = gauge.new_zeros(len(gauge))
    poses = weight[:-LENS_SIZE].view(-1, 6)
    poses[:, :3], poses[:, 3:] = weights
    weighted = gauge * weight[:, None]
    fit = torch.linalg.pinv(gauge.T @ weighted, hermitian=True) @ (weighted.T @ influence)
    return (influence - gauge @ fit)[:-LENS_SIZE].reshape(-1, 6, influence.shape[1])


def depth_deviation(problem: FlowProblem, state: FlowState) -> Float[Tensor, "rows points"]:
    """Standard deviation of every inverse depth, poses held; infinite where no flow tells it."""

    kernel = fitting_kernel(problem, state)

    def information(chunk: FlowProblem, part: FlowState) -> Float[Tensor, "rows points"]:
        derivatives, valid = linearize(chunk, part, with_lens=False)
        _, weights = robust_cost(chunk.confidence, derivatives[:, :, RESIDUAL], valid, kernel)
        return (weights.double() * derivatives[:, :, DEPTH].double().square().sum(2)).sum(1)

    known = torch.cat(over_chunks(problem, state, information))
    deviation = (_goodness(problem, state, kernel).noise / DEPTH_SHARE / known.clamp(min=TINY)).sqrt()
    return torch.where(known > TINY, deviation, torch.inf)
