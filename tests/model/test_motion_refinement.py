"""Motion by reprojection: exact where the surfaces are, and better than Procrustes where their depths are not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import roma
import torch
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model.motion_refinement import Reprojection, refine_motion
from flowcam_ns.model.scene_flow import relative_poses
from flowcam_ns.model.surfaces import RaySurfaces, project, unit_rays

K = torch.tensor([[0.9, 0.0, 0.5], [0.0, 1.2, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
FLOW_NOISE = 5e-4


class Pair:
    """Two views of random points: true surfaces of the later one, and where the earlier one sees them."""

    def __init__(self, seed: int, motion: Tensor, rays: int = 150) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.motion = motion
        self.directions = unit_rays(self._uniform(rays, 2) * 0.8 + 0.1, K)
        self.depth = 2 * torch.exp(0.5 * self._normal(rays, 1))
        self.ends = project(se3.transform(motion, self.directions * self.depth), K)
        self.ends = self.ends + 0.2 * FLOW_NOISE * self._normal(rays, 2)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.random, dtype=torch.float64)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def surfaces(self, depth: Tensor) -> RaySurfaces:
        ones = torch.ones_like(depth)
        return RaySurfaces(ones.expand(-1, 3), self.directions * depth, depth, ones)

    def wrong_depth(self, spread: float) -> Tensor:
        return self.depth * torch.exp(spread * self._normal(*self.depth.shape))

    def match(self, depth: Tensor, depth_spread: float) -> Reprojection:
        weights = torch.ones_like(depth[:, 0])
        return Reprojection.of(self.surfaces(depth), K, self.ends, weights, depth_spread, FLOW_NOISE)

    def procrustes(self, depth: Tensor) -> Tensor:
        """From points that are wrong in both views, as a network's are."""
        earlier = se3.transform(self.motion, self.directions * self.depth)
        share = torch.exp(torch.log(depth / self.depth)[torch.randperm(len(depth), generator=self.random)])
        return relative_poses(self.directions * depth, earlier * share, torch.ones_like(depth))

    def errors(self, estimate: Tensor) -> tuple[float, float]:
        """Rotation and direction of motion, degrees."""
        turn = se3.rotation_angle_deg(estimate[:3, :3].T @ self.motion[:3, :3])
        cosine = torch.cosine_similarity(estimate[:3, 3], self.motion[:3, 3], dim=0)
        return float(turn), math.degrees(math.acos(max(-1.0, min(1.0, float(cosine)))))


def motion_of(translation: tuple[float, float, float], turn_deg: tuple[float, float, float]) -> Tensor:
    rotation = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor(turn_deg, dtype=torch.float64)))
    return se3.from_rotation_translation(rotation, torch.tensor(translation, dtype=torch.float64))


ORBIT = motion_of((0.15, 0.02, 0.01), (0.5, -4.0, 0.2))
"""Round what lies two units away: turning takes back most of the flow that moving makes."""
WIDE_ORBIT = motion_of((0.35, 0.02, 0.03), (0.5, -10.0, 0.2))
WALK = motion_of((0.02, 0.01, 0.2), (0.3, 0.6, -0.4))


@pytest.mark.parametrize("motion", [ORBIT, WALK])
@pytest.mark.parametrize("depth_spread", [0.0, 0.3])
def test_exact_surfaces_keep_their_exact_motion(motion: Tensor, depth_spread: float) -> None:
    pair = Pair(0, motion)
    pair.ends = project(
        se3.transform(motion, pair.directions * pair.depth),
        K,
    )
    refined = refine_motion(motion, pair.match(pair.depth, depth_spread), steps=3, search_steps=0)
    torch.testing.assert_close(refined, motion, atol=2e-5, rtol=0)  # `project` adds 1e-5 to z


@pytest.mark.parametrize("motion", [ORBIT, WALK])
@pytest.mark.parametrize("seed", range(4))
def test_with_wrong_depths_reprojection_is_closer_than_procrustes(motion: Tensor, seed: int) -> None:
    pair = Pair(seed, motion)
    depth = pair.wrong_depth(0.25)
    start = pair.procrustes(depth)
    turn, direction = pair.errors(start)
    refined_turn, refined_direction = pair.errors(refine_motion(start, pair.match(depth, 0.3), 6, 0))
    assert refined_turn < 0.3 * turn
    assert refined_direction < 0.3 * direction


def test_depths_that_count_as_exact_mislead_where_they_are_not() -> None:
    held, trusted_less = [], []
    for seed in range(4):
        pair = Pair(seed, ORBIT)
        depth = pair.wrong_depth(0.25)
        held.append(pair.errors(refine_motion(ORBIT, pair.match(depth, 0.0), 6, 0))[1])
        trusted_less.append(pair.errors(refine_motion(ORBIT, pair.match(depth, 0.3), 6, 0))[1])
    assert sum(trusted_less) < 0.5 * sum(held)


def test_a_search_finds_the_motion_where_the_start_leads_elsewhere() -> None:
    pair = Pair(1, WIDE_ORBIT)
    flat = torch.full_like(pair.depth, 2.0)
    start = motion_of((0.0, 0.0, -0.3), (0.0, 0.0, 0.0))
    _, lost = pair.errors(refine_motion(start, pair.match(flat, 0.5), 3, 0))
    turn, direction = pair.errors(refine_motion(start, pair.match(flat, 0.5), 3, 6))
    assert lost > 60
    assert turn < 0.5
    assert direction < 5


JOINED = ("points", "share", "seen", "weights", "noise")


def _joined(matches: list[Reprojection]) -> Reprojection:
    """The pairs of one clip."""
    stacked = {name: torch.stack([getattr(m, name) for m in matches])[None] for name in JOINED}
    return Reprojection(**stacked, depth_spread=matches[0].depth_spread)


def test_a_batch_is_solved_pair_by_pair() -> None:
    pairs = [Pair(seed, ORBIT) for seed in range(3)]
    matches = [pair.match(pair.wrong_depth(0.2), 0.3) for pair in pairs]
    joined = _joined(matches)
    whole = refine_motion(ORBIT.expand(1, 3, 4, 4), joined, 2, 0)
    single = torch.stack([refine_motion(ORBIT, match, 2, 0) for match in matches])
    torch.testing.assert_close(whole[0], single)
    apart = replace(joined, **{name: getattr(joined, name).transpose(0, 1) for name in JOINED})  # clips of one pair
    searched = torch.stack([refine_motion(ORBIT, match, 2, 2) for match in matches])
    torch.testing.assert_close(refine_motion(ORBIT.expand(3, 1, 4, 4), apart, 2, 2)[:, 0], searched)


def test_a_pair_that_found_nothing_better_takes_its_neighbours_motion() -> None:
    askew = motion_of((0.2, 0.2, 0.2), (2.0, -4.0, 3.0))
    pairs = [Pair(seed, askew) for seed in range(3)]
    matches = [pair.match(pair.wrong_depth(0.1), 0.3) for pair in pairs]
    starts = torch.stack([askew, motion_of((0.0, 0.0, -0.3), (0.0, 0.0, 0.0)), askew])
    assert pairs[1].errors(matches[1].searched(starts[1], 0))[1] > 50
    assert pairs[1].errors(_joined(matches).searched(starts[None], 0)[0, 1])[1] < 1e-3


def test_gradients_are_those_of_the_steps() -> None:
    pair = Pair(2, ORBIT, rays=12)
    match = pair.match(pair.wrong_depth(0.1), 0.3)

    def refined(points: Tensor, weights: Tensor) -> Tensor:
        return refine_motion(ORBIT, replace(match, points=points, weights=weights), 2, 0)

    inputs = match.points.requires_grad_(), match.weights.requires_grad_()
    assert torch.autograd.gradcheck(refined, inputs)


def test_without_any_weight_the_motion_stays_and_gradients_are_finite() -> None:
    pair = Pair(3, WALK)
    match = pair.match(pair.depth, 0.3)
    points = match.points.clone().requires_grad_()
    refined = refine_motion(WALK, replace(match, points=points, weights=torch.zeros_like(match.weights)), 2, 2)
    torch.testing.assert_close(refined, WALK)
    refined.sum().backward()
    assert points.grad is not None
    assert bool(torch.isfinite(points.grad).all())
