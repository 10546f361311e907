"""Flow without images: a known trajectory before known depths, and the flow that they induce."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from flowcam_ns.alignment.lens import lens_from_camera
from flowcam_ns.alignment.linearize import residuals
from flowcam_ns.alignment.problem import FlowProblem, FlowState
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera

HALF_SIZE = torch.tensor([0.5, 0.28], dtype=torch.float64)
"""Half the image, in units of its long side."""
TRUE_LENS = lens_from_camera(Camera.from_focal(1000, 560, 905.0))

MakeProblem = Callable[..., tuple[FlowProblem, FlowState]]


def arc(frames: int, speed: float = 1.0) -> torch.Tensor:
    """Poses of a camera that moves sideways on an arc and turns a little, about 1 away from the scene.

    0.06 units a step at a speed of 1.
    """
    time = speed * torch.arange(frames, dtype=torch.float64)
    tangent = torch.zeros(frames, 6, dtype=torch.float64)
    tangent[:, 0], tangent[:, 1] = 0.06 * time, 0.05 * torch.sin(time / 3)
    tangent[:, 2] = 0.05 * torch.cos(time / 4)
    tangent[:, 3], tangent[:, 4] = 0.01 * torch.sin(time / 2), -0.03 * time
    return se3.exp(tangent)


def make_problem(
    frames: int = 8,
    points: int = 60,
    gaps: tuple[int, ...] = (1, 2, 4),
    lens: torch.Tensor = TRUE_LENS,
    c2w: torch.Tensor | None = None,
    noise: float = 0.0,
    seed: int = 0,
    noise_seed: int | None = None,
    speed: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[FlowProblem, FlowState]:
    """Exact flow (or with Gaussian `noise`, long sides) of points at random depths, and the solution behind it."""
    random = torch.Generator().manual_seed(seed)
    pixels = (2 * torch.rand(frames, 2, points, generator=random, dtype=torch.float64) - 1) * HALF_SIZE[:, None]
    depth = 0.6 + torch.rand(frames, points, generator=random, dtype=torch.float64)
    offsets = [gap * side for gap in gaps for side in (1, -1)]
    frame = torch.arange(frames)[:, None]
    neighbours = frame + torch.tensor(offsets)
    known = (neighbours >= 0) & (neighbours < frames)
    neighbours = torch.where(known, neighbours, frame)
    state = FlowState(arc(frames, speed) if c2w is None else c2w, depth, lens.clone())
    empty = torch.zeros(frames, len(offsets), 2, points, dtype=torch.float64)
    problem = FlowProblem(torch.arange(frames), pixels, neighbours, empty, empty[:, :, 0])
    targets, valid = residuals(problem, state)
    inside = (targets.abs() < HALF_SIZE[:, None]).all(2) & valid & known[..., None]
    random = random if noise_seed is None else torch.Generator().manual_seed(noise_seed)
    targets = targets + noise * torch.randn(targets.shape, generator=random, dtype=torch.float64)
    problem = FlowProblem(torch.arange(frames), pixels.to(dtype), neighbours, targets.to(dtype), inside.to(dtype))
    return problem, state


def with_outliers(problem: FlowProblem, share: float, seed: int = 1) -> FlowProblem:
    """The same problem with some of its flow pointing anywhere, at full confidence."""
    random = torch.Generator().manual_seed(seed)
    shape = problem.confidence.shape
    wrong = torch.rand(shape, generator=random) < share
    anywhere = (2 * torch.rand(problem.targets.shape, generator=random) - 1).to(problem.targets) * 0.5
    return replace(problem, targets=torch.where(wrong[:, :, None], anywhere, problem.targets))


@pytest.fixture(scope="session", autouse=True)
def one_thread(few_threads: None) -> None:
    """Small tensors; and the order of sums must not change from run to run."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def exact_problem() -> MakeProblem:
    """Maker of problems: see `make_problem`."""
    return make_problem


@pytest.fixture(scope="session")
def outliers() -> Callable[..., FlowProblem]:
    """A fifth of the flow made wrong: see `with_outliers`."""
    return partial(with_outliers, share=0.2)
