"""What flow says about small changes of the cameras: nothing of the world, much of everything else, in any unit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from flowcam_ns.alignment.camera_information import camera_information
from flowcam_ns.alignment.covariance import gauge_directions
from flowcam_ns.alignment.lens import LENS_SIZE
from flowcam_ns.alignment.problem import FlowProblem, FlowState

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]


def test_changes_of_the_world_cost_next_to_nothing(exact_problem: MakeProblem) -> None:
    problem, state = exact_problem(noise=1e-4)
    found = camera_information(problem, state, None, torch.arange(len(state.c2w)), 1.0)
    assert found is not None
    gauge = gauge_directions(state)
    gauge = gauge / gauge.norm(dim=0)
    other = torch.randn(len(gauge), 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other[-LENS_SIZE:] = 0
    other = other / other.norm(dim=0)
    along, across = ((d * (found.matrix @ d)).sum(0) for d in (gauge, other))
    assert along.max() < 1e-4 * across.min()


def test_the_unit_of_the_world_changes_no_cost(exact_problem: MakeProblem) -> None:
    problem, state = exact_problem(noise=1e-4)
    frames = torch.arange(len(state.c2w))
    here, doubled = (camera_information(problem, state, None, frames, scale) for scale in (1.0, 2.0))
    assert here is not None
    assert doubled is not None
    change = torch.randn(len(here.matrix), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scaled = change.clone()
    scaled[:-LENS_SIZE].view(-1, 6)[:, :3] *= 2
    assert float(scaled @ doubled.matrix @ scaled) == pytest.approx(float(change @ here.matrix @ change))
