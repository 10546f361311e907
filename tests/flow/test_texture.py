"""Flow is believed where the picture has something to hold on to."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from flowcam_ns.alignment.measure import GUESSED, build_problem, measure_pairs, where_seen
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.flow.texture import corner_strength, texture_share

HEIGHT, WIDTH = 96, 160


@pytest.fixture
def half_plain() -> np.ndarray:
    """A picture whose right half shows next to nothing."""
    coarse = np.random.default_rng(0).integers(0, 255, (24, 40)).astype(np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    picture[:, WIDTH // 2 :] = 128
    return picture


def test_plain_parts_have_none_and_their_edges_have(half_plain: np.ndarray) -> None:
    share = texture_share(half_plain)
    assert share[:, : WIDTH // 2].min() > 0.9
    assert share[:, WIDTH // 2 + 12 :].max() == 0
    assert 0.3 < share[HEIGHT // 2, WIDTH // 2 + 6] < 1


def test_a_straight_edge_says_nothing_of_motion_along_it() -> None:
    edge = np.zeros((HEIGHT, WIDTH), np.uint8)
    edge[:, WIDTH // 2 :] = 200
    assert texture_share(edge).max() < 1e-3


def test_strength_is_the_gradient_in_grey_levels_a_px() -> None:
    """Two ramps in one window: 3 levels a px in x on one half of the rows, 3 in y on the other."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    strength = corner_strength(np.where((y // 8) % 2 == 0, 3 * x, 3 * x + 3 * (y % 8)), 16)
    assert corner_strength(3 * x, 5).max() < 0.01
    assert 1 < np.median(strength) < 6
    np.testing.assert_allclose(
        corner_strength(2 * np.sin(x) * np.sin(y), 9), 2 * corner_strength(np.sin(x) * np.sin(y), 9), rtol=1e-4
    )


def test_what_was_guessed_counts_for_less_in_the_search_for_poses(half_plain: np.ndarray) -> None:
    images = np.stack([np.roll(half_plain, 2 * frame, axis=0) for frame in range(3)])[..., None].repeat(3, axis=-1)
    store = FlowStore(images)
    points = np.zeros((3, 2, 2), np.float32)
    points[:, 0], points[:, 1] = (40, 48), (130, 48)
    problem = build_problem(store, points, measure_pairs(store, points, [(0, 1), (1, 2)]))
    assert problem.confidence[1].min() > 2 * GUESSED, "both agree with the flow back"
    weighed = where_seen(problem, store.texture(points)).confidence
    torch.testing.assert_close(weighed[..., 0], problem.confidence[..., 0], rtol=0.1, atol=0)
    torch.testing.assert_close(weighed[..., 1], problem.confidence[..., 1].clamp(max=GUESSED))
