"""The first few frames: poses, depths, focal length and barrel distortion from nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.levenberg import Prior, Solution, minimize, robust_cost_at
from flowcam_ns.alignment.problem import FlowProblem, FlowState, Free
from flowcam_ns.alignment.two_view import two_view_start
from flowcam_ns.geometry import se3

FOCAL_STARTS = (0.6, 0.85, 1.2)
"""Focal lengths tried, in long sides of the image: wide phones and action cameras to mild telephoto."""
TYPICAL_FOCAL, FOCAL_SPREAD = 0.75, 0.4
"""What is believed of a video's focal length (long sides; standard deviation of its logarithm) before seeing it."""
PIXEL = 1 / 512
"""The unit in which flow noise is thought of: one px of an image 512 px wide."""
START_KERNELS = ((64 * PIXEL, 6), (24 * PIXEL, 6), (8 * PIXEL, 8))
"""Robust kernels of the start and their most steps. Nothing is known yet, so all flow must pull at first: under a
narrow kernel a frame whose picture has moved far counts as one great outlier, and never finds its place."""
POSE_KERNELS = ((64 * PIXEL, 6), (16 * PIXEL, 8))
"""The same for the poses alone, before a relief that is roughly known."""
SETTLE_KERNELS = ((4 * PIXEL, 20), (2 * PIXEL, 15))
"""The same once the focal length has joined in."""
SAME_COST, SAME = 0.003, 0.01
"""Solutions that differ by less, in their costs (share) and in focal lengths (logarithm) and rotations (radians), are
the same one."""
HOPELESS = 2.0
"""A solution whose cost is so many times that of the best is not followed any further."""
START_DAMPING = 1.0
"""The flat start is far from any solution: its first steps must be small."""
INDEPENDENT = 4000
"""How many independent measurements of the lens a video's flow amounts to, against the prior."""
PRINCIPAL_POINT, K1 = slice(1, 3), 3
FOCAL = (True, False, False, False, False, False, False)
FOCAL_AND_BARREL = (True, False, False, True, False, False, False)
"""What of the lens is solved for while little is known, of pictures without and with barrel distortion."""
BARREL_KERNEL, BARREL_STEPS = 2 * PIXEL, 25
BARREL_GAIN, LEAST_BARREL = 0.8, 0.05
"""The first window's lens has barrel distortion where k1 lowers the robust cost to less than this share, and is this
far below 0: that of action cameras to .34 and .43, that of others to .97 at most. Always free, k1 would explain away
what wide steps tell (with .04 it lowered the cost of a false window to .72)."""


def worth_of_belief(cost: float) -> float:
    """What a unit of precision about the lens is worth in a robust cost that stands at `cost`.

    Flow vectors err together (rolling shutter, smoothed flow, moving shadows), and more of them do not average that
    away: the whole video is credited with as much evidence as `INDEPENDENT` measurements.
    """
    return 2 * cost / INDEPENDENT


@dataclass(frozen=True)
class LensBelief:
    """What is known about the lens beforehand, and which parts of it may be solved for."""

    mean: Float[Tensor, "lens"]
    std: Float[Tensor, "lens"]
    known: bool = False
    """True where the user gave the camera: nothing of the lens is solved for."""

    @classmethod
    def of_known(cls, lens: Float[Tensor, "lens"]) -> LensBelief:
        """A lens that is given and held."""
        return cls(lens, torch.full_like(lens, 1e-6), known=True)

    def prior(self, cost: float, lens: Float[Tensor, "lens"]) -> Prior:
        """The prior in the units of a robust cost that stands at `cost`, for a solve that starts from `lens`.

        Most lenses look through the middle of their pictures, and pictures that were cut out of larger ones do not at
        all: the belief in the principal point has heavy tails. It is a Gaussian that grows with the distance already
        found where that is more than twice its width (iteratively reweighted from solve to solve).
        """
        std = self.std.clone()
        std[PRINCIPAL_POINT] = torch.maximum(std, (lens - self.mean).abs() / 2)[PRINCIPAL_POINT]
        return Prior(self.mean, worth_of_belief(cost) / (self.std if self.known else std) ** 2)


def solve_first_window(problem: FlowProblem, belief: LensBelief) -> Solution:
    """Poses, depths and lens (f, and k1 where it matters) of a few frames, from nothing: the best of several starts.

    Several focal lengths are tried, from two views and from a camera at rest before a plane at depth 1; the lowest
    converged robust cost wins. Frame 0 is the origin.
    """
    frames = len(problem.sources)
    device = problem.sources.device
    fixed_lens = torch.zeros(LENS_SIZE, dtype=torch.bool, device=device)
    held = Free(
        torch.arange(frames, device=device) > 0, torch.ones(frames, dtype=torch.bool, device=device), fixed_lens
    )
    free = held if belief.known else replace(held, lens=torch.tensor(FOCAL, device=device))
    starts = [belief.mean] if belief.known else [with_focal(belief.mean, f) for f in FOCAL_STARTS]
    found = _starts(problem, starts, held)
    for scale, iterations in SETTLE_KERNELS:
        found = distinct([_settle(problem, start, free, belief, scale, iterations) for start in found])
    best = found[0]
    if not belief.known:
        best = _with_barrel(problem, best, held, belief)
    return replace(best, state=in_front(best.state))


def _starts(problem: FlowProblem, lenses: list[Float[Tensor, "lens"]], held: Free) -> list[Solution]:
    """Solutions under given lenses: from the essential matrix of two frames under each, and from a flat scene.

    The flat scene needs no pair that is well seen and far apart, but may end in a wrong valley: one lens has to do for
    it, unless there is no such pair.
    """
    two_view = [_from_two_views(problem, lens, held) for lens in lenses]
    middle = len(lenses) // 2
    flat = [lens for number, lens in enumerate(lenses) if number == middle or two_view[number] is None]
    return [found for found in two_view if found is not None] + [_best_relief(problem, lens, held) for lens in flat]


def _from_two_views(problem: FlowProblem, lens: Float[Tensor, "lens"], held: Free) -> Solution | None:
    start = two_view_start(problem, lens)
    if start is None:
        return None
    only_poses = replace(held, depths=torch.zeros_like(held.depths))
    posed = _through(problem, start, only_poses, POSE_KERNELS[1:])
    return _through(problem, posed.state, held, START_KERNELS[1:])


def _best_relief(problem: FlowProblem, lens: Float[Tensor, "lens"], held: Free) -> Solution:
    """The solution under a given lens, from a flat scene; or from the relief of that solution turned inside out.

    A few frames seen from afar look almost the same when near and far are exchanged and the camera turns the other way
    (the Necker cube). Descent falls into either one; the robust cost tells them apart once both are known.
    """
    like = problem.points.new_zeros((), dtype=torch.float64)
    frames = len(problem.sources)
    still = se3.identity(frames, like)
    flat = FlowState(still, like.new_ones(frames, problem.points.shape[-1]), lens)
    first = _through(problem, flat, held, START_KERNELS, START_DAMPING)
    middle = float(first.state.inverse_depth.median())
    # Where the flat start ended behind the cameras, the relief is that of the mirrored solution.
    depth = first.state.inverse_depth if middle > 0 else -first.state.inverse_depth
    inside_out = (2 * abs(middle) - depth).clamp(min=0.05 * abs(middle))
    only_poses = replace(held, depths=torch.zeros_like(held.depths))
    posed = _through(problem, FlowState(still, inside_out, lens), only_poses, POSE_KERNELS)
    second = _through(problem, posed.state, held, START_KERNELS[-1:])
    return min(first, second, key=lambda solution: robust_cost_at(problem, solution.state, 4 * PIXEL))


def _settle(
    problem: FlowProblem, found: Solution, free: Free, belief: LensBelief, scale: float, iterations: int
) -> Solution:
    """The focal length joins in, under one robust kernel."""
    prior = belief.prior(robust_cost_at(problem, found.state, scale), found.state.lens)
    return minimize(problem, found.state, free, scale=scale, prior=prior, iterations=iterations, damping=found.damping)


def distinct(found: list[Solution]) -> list[Solution]:
    """The best first, without those that are much worse or the same as a better one."""
    kept: list[Solution] = []
    for solution in sorted(found, key=lambda solution: solution.cost):
        if not kept or (solution.cost <= HOPELESS * kept[0].cost and not any(_same(solution, one) for one in kept)):
            kept.append(solution)
    return kept


def _same(one: Solution, other: Solution) -> bool:
    """Whether two solutions are the same but for their scale: costs, focal lengths and rotations agree."""
    focal = float((one.state.lens[0] - other.state.lens[0]).abs())
    turn = float((one.state.c2w[:, :3, :3] - other.state.c2w[:, :3, :3]).abs().max())
    return one.cost < (1 + SAME_COST) * other.cost and focal < SAME and turn < SAME


def _with_barrel(problem: FlowProblem, found: Solution, held: Free, belief: LensBelief) -> Solution:
    """The same with barrel distortion, where that explains much more.

    Without it, the barrel of an action camera's picture can only be explained by a focal length that is half as long
    again, and by motions to match.
    """
    before = robust_cost_at(problem, found.state, BARREL_KERNEL)
    bent = minimize(
        problem,
        found.state,
        replace(held, lens=torch.tensor(FOCAL_AND_BARREL, device=problem.sources.device)),
        scale=BARREL_KERNEL,
        prior=belief.prior(before, found.state.lens),
        iterations=BARREL_STEPS,
        damping=1e-3,
    )
    k1, after = float(bent.state.lens[K1]), robust_cost_at(problem, bent.state, BARREL_KERNEL)
    return bent if k1 < -LEAST_BARREL and after < BARREL_GAIN * before else found


def _through(
    problem: FlowProblem, state: FlowState, free: Free, kernels: tuple[tuple[float, int], ...], damping: float = 1e-3
) -> Solution:
    """Minimise under robust kernels that narrow, each from the same damping."""
    found = Solution(state, math.inf, 0, damping)
    for scale, iterations in kernels:
        found = minimize(
            problem, found.state, free, scale=scale, prior=Prior.none(), iterations=iterations, damping=damping
        )
    return found


def in_front(state: FlowState) -> FlowState:
    """The same solution, its points before the cameras: flow cannot tell (depths, positions) from their negatives."""
    if float(state.inverse_depth.median()) >= 0:
        return state
    c2w = state.c2w.clone()
    c2w[:, :3, 3] *= -1
    return replace(state, c2w=c2w, inverse_depth=-state.inverse_depth)


def with_focal(lens: Float[Tensor, "lens"], focal: float) -> Float[Tensor, "lens"]:
    """The lens with another focal length (long sides)."""
    changed = lens.clone()
    changed[0] = math.log(focal)
    return changed
