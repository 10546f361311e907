"""Up is where level surfaces say it is, as far as there are any."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.geometry.se3 import exp
from flowcam_ns.geometry.trajectory import normalize_world
from flowcam_ns.geometry.upright import up_from_surfaces

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def room(seed: int = 0, noise: float = 0.01) -> torch.Tensor:
    """A floor, a table before a wall, clutter, and noise."""
    draw = torch.Generator().manual_seed(seed)

    def box(count: int, *size: float) -> torch.Tensor:
        return (torch.rand(count, 3, generator=draw, dtype=torch.float64) - 0.5) * torch.tensor(size)

    floor = box(600, 4, 4, 0)
    table = box(600, 1.5, 1, 0) + torch.tensor([0.3, 0.2, 0.8])
    wall = box(900, 4, 0, 2) + torch.tensor([0.0, 2.0, 1.0])
    clutter = box(700, 2, 2, 1.5) + torch.tensor([0.0, 0.0, 0.8])
    points = torch.cat([floor, table, wall, clutter])
    return points + noise * torch.randn(points.shape, generator=draw, dtype=torch.float64)


def tilted(degrees: float, turn: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    heading = torch.tensor([torch.cos(torch.tensor(turn)), torch.sin(torch.tensor(turn)), 0.0], dtype=torch.float64)
    return exp(torch.cat([torch.zeros(3, dtype=torch.float64), angle * heading]))[:3, :3] @ UP


def angle_deg(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.rad2deg(torch.acos((a @ b).clamp(-1, 1))))


@settings(max_examples=12)
@given(st.floats(0, 30), st.floats(0, 6.28), st.integers(0, 100))
def test_level_surfaces_correct_a_tilted_first_idea(degrees: float, turn: float, seed: int) -> None:
    found = up_from_surfaces(tilted(degrees, turn), room(seed))
    assert found is not None
    assert angle_deg(found, UP) < 1.5


def test_without_level_surfaces_the_cameras_are_believed() -> None:
    cloud = torch.randn(3000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert up_from_surfaces(UP, cloud) is None
    wall = cloud * torch.tensor([1.0, 0.01, 1.0])
    assert up_from_surfaces(tilted(10, 0.0), wall) is None
    assert up_from_surfaces(UP, room()[:50]) is None
    assert up_from_surfaces(UP, torch.zeros(500, 3, dtype=torch.float64)) is None


def test_a_normalised_world_stands_on_its_floor() -> None:
    """Cameras that look at it from one side, all held 15 degrees askew."""
    tilt = exp(torch.tensor([0.0, 0.0, 0.0, 0.2618, 0.0, 0.0], dtype=torch.float64))
    c2w = torch.eye(4, dtype=torch.float64).repeat(10, 1, 1)
    c2w[:, 0, 3] = torch.linspace(-1, 1, 10)
    c2w[:, 2, 3] = -3
    # The room in axes whose y points down, as its cameras see it.
    points = room() @ torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64).T
    points = points @ tilt[:3, :3].T
    world = normalize_world(c2w, points)
    floor = world.apply_points(points[:600])
    assert float(floor[:, 2].std()) < 0.05 * float(floor[:, :2].std(0).min())
    assert (world.apply_c2w(c2w)[:, 2, 1] < 0).all(), "cameras stay upright"
    assert angle_deg(-world.apply_c2w(c2w)[0, :3, 1], UP) == pytest.approx(15, abs=1.5)


def test_a_desk_sets_rolling_cameras_right_but_a_wall_does_not_turn_level_ones() -> None:
    desk = torch.randn(2000, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    desk = desk * torch.tensor([1.0, 1.0, 0.01])
    wrong = tilted(70, 1.0)
    assert up_from_surfaces(wrong, desk) is None
    found = up_from_surfaces(wrong, desk, is_sure=False)
    assert found is not None
    assert angle_deg(found, UP) < 1.5
    clutter = torch.randn(2000, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert up_from_surfaces(wrong, clutter, is_sure=False) is None
