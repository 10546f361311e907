"""The pose of one frame: from points that are known, from samples of them, and from two views where few are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.alignment.bootstrap import PIXEL
from flowcam_ns.alignment.frame_pose import (
    CONFIDENT,
    MIN_SCALES,
    SMALLEST_SAMPLE,
    Sightings,
    explained,
    pose_from_two_views,
    refine_pose,
    sampled_pose,
)
from flowcam_ns.alignment.lens import project, rays
from flowcam_ns.alignment.two_view import essential_motion
from flowcam_ns.geometry import se3

LENS = torch.tensor([math.log(0.8), 0.01, -0.02, -0.12, 0.05, 0.003, -0.004], dtype=torch.float64)
SIZE = torch.tensor([1.0, 0.56], dtype=torch.float64)
"""The image, in units of its long side."""
KERNELS = ((24 * PIXEL, 5), (4 * PIXEL, 6))
TOLERANCE = 6 * PIXEL
POINTS = 60
BASELINE = 0.2

seeds = st.integers(0, 10**6)


def anywhere(count: int, random: torch.Generator) -> torch.Tensor:
    """Pixels all over the image, [count, 2]."""
    return (torch.rand(count, 2, generator=random, dtype=torch.float64) - 0.5) * SIZE


def ahead(pixels: torch.Tensor) -> torch.Tensor:
    """What lies before the camera at depth 1 at pixels [n, 2]: [3, n]."""
    ray = rays(pixels.T, LENS)
    return torch.cat([ray, torch.ones_like(ray[:1])])


def scene(seed: int, wrong: int = 0, count: int = POINTS) -> tuple[Sightings, torch.Tensor, torch.Generator]:
    """Points 1 to 3 units before a camera that is anywhere, of which the first few are seen in wrong places; its pose.

    The points are given in homogeneous coordinates of any size.
    """
    random = torch.Generator().manual_seed(seed)
    pixels = anywhere(count, random)
    depth = 1 + 2 * torch.rand(count, generator=random, dtype=torch.float64)
    pose = se3.exp(torch.randn(6, generator=random, dtype=torch.float64))
    seen = torch.cat([ahead(pixels) * depth, torch.ones(1, count, dtype=torch.float64)])
    size = 0.5 + torch.rand(count, 1, generator=random, dtype=torch.float64)
    pixels[:wrong] = anywhere(wrong, random)
    points = (se3.inverse(pose) @ seen).T * size
    return Sightings(points, pixels, torch.ones(count, dtype=torch.float64)), pose, random


def assert_near(found: torch.Tensor | None, pose: torch.Tensor, rotation_deg: float, position: float) -> None:
    assert found is not None
    assert float(se3.rotation_angle_deg(found[:3, :3] @ pose[:3, :3].T)) < rotation_deg
    assert float((se3.inverse(found)[:3, 3] - se3.inverse(pose)[:3, 3]).norm()) < position


# From a start


@given(seeds)
@settings(max_examples=25)
def test_a_disturbed_pose_falls_back_onto_the_truth_though_a_third_is_wrong(seed: int) -> None:
    seen, pose, random = scene(seed, wrong=POINTS // 3)
    start = se3.exp(0.03 * torch.randn(6, generator=random, dtype=torch.float64)) @ pose
    found = refine_pose(seen, LENS, start, KERNELS)
    assert_near(found, pose, rotation_deg=0.1, position=0.005)
    torch.testing.assert_close(found[:3, :3] @ found[:3, :3].T, torch.eye(3, dtype=torch.float64))


@given(seeds)
@settings(max_examples=25)
def test_points_at_infinity_tell_the_rotation_and_leave_the_place(seed: int) -> None:
    seen, pose, random = scene(seed)
    directions = (pose[:3, :3].T @ ahead(seen.pixels)).T
    at_infinity = torch.cat([directions, torch.zeros(POINTS, 1, dtype=torch.float64)], dim=1)
    wrong = torch.cat([anywhere(POINTS // 3, random), seen.pixels[POINTS // 3 :]])
    turn = torch.cat([torch.zeros(3, dtype=torch.float64), 0.03 * torch.randn(3, generator=random).double()])
    start = se3.exp(turn) @ pose
    found = refine_pose(Sightings(at_infinity, wrong, seen.weight), LENS, start, KERNELS)
    assert_near(found, pose, rotation_deg=0.05, position=1e-9)


def test_points_at_infinity_help_those_that_are_near() -> None:
    seen, pose, random = scene(3)
    points, weight = seen.points.clone(), seen.weight.clone()
    points[3:] = torch.cat([(pose[:3, :3].T @ ahead(seen.pixels[3:])).T, torch.zeros(POINTS - 3, 1).double()], dim=1)
    start = se3.exp(0.03 * torch.randn(6, generator=random, dtype=torch.float64)) @ pose
    assert_near(refine_pose(Sightings(points, seen.pixels, weight), LENS, start, KERNELS), pose, 0.01, 1e-3)


def test_what_has_no_weight_has_no_say() -> None:
    seen, pose, random = scene(4)
    other = se3.exp(0.02 * torch.randn(6, generator=random, dtype=torch.float64)) @ pose
    as_from_there = other[:3] @ seen.points.T
    many = first(50)
    pixels = torch.where(many[:, None], project(as_from_there[:2] / as_from_there[2:], LENS).T, seen.pixels)
    for weight, start, expected in (((~many).double(), other, pose), (torch.ones(POINTS).double(), pose, other)):
        assert_near(refine_pose(Sightings(seen.points, pixels, weight), LENS, start, KERNELS), expected, 0.1, 0.01)


def test_without_sightings_the_start_stays() -> None:
    seen, pose, _ = scene(5)
    nothing = replace(seen, weight=torch.zeros_like(seen.weight))
    torch.testing.assert_close(refine_pose(nothing, LENS, pose, KERNELS), pose)


# From samples


@given(seeds)
@settings(max_examples=25)
def test_samples_find_a_pose_without_a_start(seed: int) -> None:
    seen, pose, _ = scene(seed, wrong=POINTS // 3)
    found = sampled_pose(seen, LENS, TOLERANCE)
    assert_near(found, pose, rotation_deg=0.3, position=0.01)
    assert found is not None
    assert explained(seen, LENS, found, TOLERANCE) > 0.6


def test_samples_are_drawn_the_same_way_each_time() -> None:
    seen, _, _ = scene(1, wrong=20)
    first, second = (sampled_pose(seen, LENS, TOLERANCE) for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


@pytest.mark.parametrize("too_little", ["points", "nearness", "weight"])
def test_there_is_no_pose_from_fewer_points_than_a_sample_needs(too_little: str) -> None:
    few = SMALLEST_SAMPLE - 1
    seen, _, _ = scene(2, count=few if too_little == "points" else POINTS)
    enough, _, _ = scene(2, count=SMALLEST_SAMPLE)
    points, weight = seen.points.clone(), seen.weight.clone()
    if too_little == "nearness":
        points[few:, 3] = 0
    if too_little == "weight":
        weight[few:] = CONFIDENT / 2
    assert sampled_pose(Sightings(points, seen.pixels, weight), LENS, TOLERANCE) is None
    assert sampled_pose(enough, LENS, TOLERANCE) is not None


@given(seeds)
@settings(max_examples=10)
def test_no_pose_that_samples_find_explains_random_sightings(seed: int) -> None:
    seen, _, _ = scene(seed, wrong=POINTS)
    found = sampled_pose(seen, LENS, TOLERANCE)
    assert found is None or explained(seen, LENS, found, TOLERANCE) < 0.2


# From two views


def two_views(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points of a known frame [2, n] and where another sees them, their inverse depths, and the poses of the two."""
    random = torch.Generator().manual_seed(seed)
    pixels = anywhere(POINTS, random)
    inverse_depth = 1 / (1 + 2 * torch.rand(POINTS, generator=random, dtype=torch.float64))
    known = se3.exp(torch.randn(6, generator=random, dtype=torch.float64))
    way, turn = torch.randn(2, 3, generator=random, dtype=torch.float64)
    motion = se3.exp(torch.cat([BASELINE * way / way.norm(), 0.05 * turn]))
    there = motion[:3, :3] @ ahead(pixels) + motion[:3, 3:] * inverse_depth
    return pixels.T.contiguous(), project(there[:2] / there[2:], LENS), inverse_depth, known, motion @ known


def first(count: int) -> torch.Tensor:
    return torch.arange(POINTS) < count


@given(seeds)
@settings(max_examples=25)
def test_two_views_tell_the_pose_and_a_few_depths_how_far_it_lies(seed: int) -> None:
    points, targets, inverse_depth, known, pose = two_views(seed)
    others_unknown = torch.where(first(8), inverse_depth, torch.full_like(inverse_depth, 7.0))
    found = pose_from_two_views(points, targets, first(POINTS), first(8), others_unknown, LENS, known)
    assert_near(found, pose, rotation_deg=2, position=0.4 * BASELINE)
    nearer = pose_from_two_views(points, targets, first(POINTS), first(8), 2 * others_unknown, LENS, known)
    assert found is not None
    assert nearer is not None
    far, near = ((T @ se3.inverse(known))[:3, 3] for T in (found, nearer))
    torch.testing.assert_close(near, far / 2)


@pytest.mark.parametrize("seed", range(5))
def test_where_flow_is_exact_so_is_the_pose(seed: int) -> None:
    points, targets, inverse_depth, known, pose = two_views(seed)
    found = pose_from_two_views(points, targets, first(POINTS), first(8), inverse_depth, LENS, known)
    assert_near(found, pose, rotation_deg=1e-3, position=1e-4)


@pytest.mark.parametrize("depth", [10.0, 60.0, 200.0])
def test_a_short_baseline_before_deep_surfaces_is_told_as_well(depth: float) -> None:
    random = torch.Generator().manual_seed(3)
    pixels = anywhere(300, random)
    points = ahead(pixels) * (depth * (1 + torch.rand(300, generator=random, dtype=torch.float64)))
    motion = se3.exp(torch.tensor([[0.8, 0.5, 0.3, 0.01, -0.02, 0.015]], dtype=torch.float64))[0]
    there = motion[:3, :3] @ points + motion[:3, 3:]
    found = essential_motion(rays(pixels.T, LENS).T.numpy(), (there[:2] / there[2:]).T.numpy(), 1e-3 / depth)
    assert found is not None
    recovered, ahead_of_both = torch.from_numpy(found[0]), found[1]
    assert ahead_of_both.mean() > 0.9
    assert float(se3.rotation_angle_deg((recovered[:3, :3].T @ motion[:3, :3])[None])) < 0.2
    direction = motion[:3, 3] / motion[:3, 3].norm()
    assert float(direction @ recovered[:3, 3]) > 0.9


def test_wrong_flow_among_it_does_not_matter() -> None:
    points, targets, inverse_depth, known, pose = two_views(1)
    targets = torch.where(first(10), anywhere(POINTS, torch.Generator().manual_seed(0)).T, targets)
    found = pose_from_two_views(points, targets, first(POINTS), first(POINTS), inverse_depth, LENS, known)
    assert_near(found, pose, rotation_deg=0.5, position=0.1 * BASELINE)


def test_flow_that_is_not_trusted_is_not_asked() -> None:
    points, targets, inverse_depth, known, pose = two_views(1)
    targets = torch.where(first(40), anywhere(POINTS, torch.Generator().manual_seed(0)).T, targets)
    found = pose_from_two_views(points, targets, ~first(40), first(POINTS), inverse_depth, LENS, known)
    assert_near(found, pose, rotation_deg=0.5, position=0.1 * BASELINE)
    assert pose_from_two_views(points, targets, first(POINTS), first(POINTS), inverse_depth, LENS, known) is None


@given(seeds)
@settings(max_examples=10)
def test_unrelated_pictures_have_no_common_pose(seed: int) -> None:
    points, _, inverse_depth, known, _ = two_views(seed)
    targets = anywhere(POINTS, torch.Generator().manual_seed(seed + 1)).T
    assert pose_from_two_views(points, targets, first(POINTS), first(POINTS), inverse_depth, LENS, known) is None


@given(seeds)
@settings(max_examples=10)
def test_depths_that_contradict_each_other_tell_no_distance(seed: int) -> None:
    points, targets, inverse_depth, known, _ = two_views(seed)
    noise = torch.randn(POINTS, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    wrong = inverse_depth * (1.5 * noise).exp()
    assert pose_from_two_views(points, targets, first(POINTS), first(POINTS), wrong, LENS, known) is None


def test_too_few_depths_or_too_little_flow_tell_nothing() -> None:
    points, targets, inverse_depth, known, _ = two_views(2)
    for trusted, deep in ((first(POINTS), first(MIN_SCALES - 1)), (first(12), first(12)), (first(3), first(3))):
        assert pose_from_two_views(points, targets, trusted, deep, inverse_depth, LENS, known) is None
    behind = torch.where(first(MIN_SCALES - 1), inverse_depth, -inverse_depth)
    assert pose_from_two_views(points, targets, first(POINTS), first(POINTS), behind, LENS, known) is None


# What a pose explains


def test_what_a_pose_explains_is_counted_by_weight() -> None:
    seen, pose, _ = scene(6, count=4)
    off = torch.tensor([0.0, 0.5, 0.9, 1.1], dtype=torch.float64) * PIXEL
    pixels = seen.pixels + off[:, None] * torch.tensor([0.6, 0.8], dtype=torch.float64)
    weighed = Sightings(seen.points, pixels, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    assert [explained(weighed, LENS, pose, within * PIXEL) for within in (0.4, 0.8, 1.0, 2.0)] == pytest.approx(
        [0.1, 0.3, 0.6, 1.0]
    )
    assert explained(replace(weighed, weight=torch.zeros(4).double()), LENS, pose, PIXEL) == 0


def test_a_point_behind_the_camera_is_not_explained() -> None:
    seen, pose, _ = scene(7, count=4)
    points, pixels = seen.points.clone(), seen.pixels.clone()
    pixels[0] = LENS[1:3]
    for z, share in ((2.0, 1.0), (-2.0, 0.75)):
        points[0] = se3.inverse(pose) @ torch.tensor([0, 0, z, 1], dtype=torch.float64)
        assert explained(Sightings(points, pixels, seen.weight), LENS, pose, PIXEL) == pytest.approx(share)
