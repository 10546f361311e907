"""Motions of a clip moved together: flow over longer gaps tells the lengths of steps, whatever depths are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model import clip_refinement
from flowcam_ns.model.clip_refinement import ClipReprojection, ClipState
from flowcam_ns.model.surfaces import RaySurfaces, project, unit_rays

K = torch.tensor([[0.9, 0.0, 0.5], [0.0, 1.2, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
FLOW_NOISE = 5e-4
PAIRS = 5
GAPS = (1, 2, 4)


def refine_clip(relative: Tensor, match: ClipReprojection, steps: int) -> Tensor:
    """The motions alone."""
    return clip_refinement.refine_clip(relative, match, steps)[0]


class Walk:
    """A camera that moves on by steps of its own lengths; every frame sees random surfaces, and flow is exact."""

    def __init__(self, seed: int, rays: int = 80) -> None:
        self.random = torch.Generator().manual_seed(seed)
        steps = torch.cat([0.2 * self._normal(PAIRS, 3), 0.05 * self._normal(PAIRS, 3)], dim=-1)
        self.relative = se3.exp(steps)
        c2w = [torch.eye(4, dtype=torch.float64)]
        for motion in self.relative:
            c2w.append(c2w[-1] @ motion)
        self.c2w = torch.stack(c2w)
        uv = torch.rand(PAIRS, rays, 2, generator=self.random, dtype=torch.float64) * 0.8 + 0.1
        self.directions = unit_rays(uv, K.expand(PAIRS, 3, 3))
        self.depth = 4 * torch.exp(0.4 * self._normal(PAIRS, rays, 1))
        self.ends = {}
        for gap in GAPS:
            motion = se3.between(self.c2w[:-gap], self.c2w[gap:])[:, None]
            points = se3.transform(motion, (self.directions * self.depth)[gap - 1 :])
            self.ends[gap] = project(points, K)[None]

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def badly_seen(self) -> Tensor:
        """Depths that a network might see: each wrong, and those of a frame all too near or all too far."""
        frame = torch.exp(0.3 * self._normal(PAIRS, 1, 1))
        return self.depth * frame * torch.exp(0.2 * self._normal(*self.depth.shape))

    def disturbed(self) -> Tensor:
        """The motions, their lengths off by a third."""
        wrong = torch.exp(0.3 * self._normal(PAIRS, 1))
        return se3.from_rotation_translation(self.relative[:, :3, :3], self.relative[:, :3, 3] * wrong)[None]

    def match(self, depth: Tensor, depth_spread: float = 0.3) -> ClipReprojection:
        ones = torch.ones_like(depth)
        surfaces = RaySurfaces(ones.expand(-1, -1, 3), self.directions * depth, depth, ones)
        surfaces = RaySurfaces(*(x[None] for x in vars(surfaces).values()))
        weights = {gap: torch.ones_like(ends[..., 0]) for gap, ends in self.ends.items()}
        return ClipReprojection.of(surfaces, K.expand(1, PAIRS + 1, 3, 3), self.ends, weights, depth_spread, FLOW_NOISE)

    def length_error(self, relative: Tensor) -> float:
        """Largest error of a step's length, as a share, after a fit of the common scale."""
        share = torch.log(relative[0, :, :3, 3].norm(dim=-1) / self.relative[:, :3, 3].norm(dim=-1))
        return float((share - share.mean()).abs().max())


def test_exact_motions_and_surfaces_stay() -> None:
    walk = Walk(0)
    refined = refine_clip(walk.relative[None], walk.match(walk.depth), 3)
    torch.testing.assert_close(refined[0], walk.relative, atol=2e-5, rtol=0)  # `project` adds 1e-5 to z


@pytest.mark.parametrize("seed", range(4))
def test_steps_get_the_right_lengths_whatever_depths_the_frames_saw(seed: int) -> None:
    walk = Walk(seed)
    start = walk.disturbed()
    refined = refine_clip(start, walk.match(walk.badly_seen()), 8)
    assert walk.length_error(start) > 0.1
    assert walk.length_error(refined) < 0.02
    turn = se3.rotation_angle_deg(refined[0, :, :3, :3].transpose(1, 2) @ walk.relative[:, :3, :3])
    assert float(turn.max()) < 0.05


def test_depths_come_out_right_up_to_the_common_scale() -> None:
    walk = Walk(1)
    seen = walk.badly_seen()
    _, inverse = clip_refinement.refine_clip(walk.disturbed(), walk.match(seen), 8)
    before, after = ((depth / walk.depth)[..., 0].log() for depth in (seen, seen / inverse[0, ..., None]))
    assert float((after - after.median()).abs().median()) < 0.05 * float((before - before.median()).abs().median())


def test_flow_between_neighbours_alone_says_nothing_about_lengths() -> None:
    walk = Walk(1)
    walk.ends = {1: walk.ends[1]}
    assert walk.length_error(refine_clip(walk.disturbed(), walk.match(walk.badly_seen()), 8)) > 0.1


def test_flow_that_is_wrong_for_a_tenth_of_the_rays_does_little() -> None:
    walk = Walk(2)
    for ends in walk.ends.values():
        ends[:, :, ::10] += 0.05
    assert walk.length_error(refine_clip(walk.disturbed(), walk.match(walk.badly_seen()), 8)) < 0.05


def test_the_scale_is_that_of_the_surfaces() -> None:
    walk = Walk(3)
    refined = refine_clip(walk.relative[None], walk.match(1.2 * walk.depth), 12)
    assert walk.length_error(refined) < 0.01
    ratio = refined[0, :, :3, 3].norm(dim=-1) / walk.relative[:, :3, 3].norm(dim=-1)
    assert float(ratio.mean()) == pytest.approx(1.2, abs=0.05)


def test_a_step_of_the_depths_alone_leaves_the_motions() -> None:
    walk = Walk(4)
    match = walk.match(walk.badly_seen())
    c2w = walk.c2w[None]
    state = match.improved(ClipState(c2w, torch.ones_like(match.points[..., 0])), hold=True)
    assert torch.equal(state.c2w, c2w)
    assert not torch.equal(state.inverse, torch.ones_like(state.inverse))


def test_surfaces_that_are_held_keep_their_depths() -> None:
    walk = Walk(5)
    match = walk.match(walk.badly_seen(), depth_spread=0.0)
    state = match.improved(match.start(walk.relative[None]))
    torch.testing.assert_close(state.inverse, torch.ones_like(state.inverse), atol=1e-3, rtol=0)


def test_gradients_at_the_optimum_are_those_of_the_optimum() -> None:
    """Only the last step is differentiated: where the steps have come to rest that is the whole derivative."""
    walk = Walk(6, rays=30)
    depth = walk.badly_seen()
    match = walk.match(depth)

    def lengths(points: Tensor) -> Tensor:
        return refine_clip(walk.relative[None], replace(match, points=points), 40)[0, :, :3, 3].norm(dim=-1)

    points = match.points.clone().requires_grad_()
    shares = torch.linspace(1, 2, PAIRS, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((lengths(points) * shares).sum(), points)
    direction = torch.randn(points.shape, generator=walk.random, dtype=torch.float64)
    step = 1e-5
    moved = [(lengths((points + sign * step * direction).detach()) * shares).sum() for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=0.1)


def test_without_any_weight_motions_stay_and_gradients_are_finite() -> None:
    walk = Walk(7)
    match = walk.match(walk.depth)
    points = match.points.clone().requires_grad_()
    still = replace(match, points=points, weights=torch.zeros_like(match.weights))
    refined = refine_clip(walk.relative[None], still, 2)
    torch.testing.assert_close(refined[0], walk.relative)
    refined.sum().backward()
    assert points.grad is not None
    assert bool(torch.isfinite(points.grad).all())
