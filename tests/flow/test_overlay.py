"""What stays at one place of the picture while the rest moves is told from the scene, and from one that is still."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flowcam_ns.flow.overlay import LARGEST, find_overlay, without_overlay
from flowcam_ns.flow.store import FlowStore

HEIGHT, WIDTH, FRAMES = 120, 200, 16
LOGO = (slice(80, 110), slice(10, 70))
EVERY_LOGO = (slice(None), *LOGO)


def texture(height: int, width: int, seed: int, grain: int = 4) -> np.ndarray:
    """Blots of random colour, a few px wide."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // grain, width // grain, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def panned() -> np.ndarray:
    """A textured wall that moves by 5 px a frame, with a little noise."""
    wall = texture(HEIGHT, WIDTH + 5 * FRAMES, 0)
    noise = np.random.default_rng(1).normal(0, 2, (FRAMES, HEIGHT, WIDTH, 3))
    views = np.stack([wall[:, 5 * frame : 5 * frame + WIDTH] for frame in range(FRAMES)])
    return (views + noise).clip(0, 255).astype(np.uint8)


def overlap(found: np.ndarray | None, truth: np.ndarray) -> float:
    """Intersection over union."""
    return 0.0 if found is None else float((found & truth).sum() / (found | truth).sum())


def test_a_logo_is_found_with_its_plain_parts(panned: np.ndarray) -> None:
    logo = texture(30, 60, 2, grain=3)
    logo[8:22, 20:50] = 200
    panned[EVERY_LOGO] = logo
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[LOGO] = True
    assert overlap(find_overlay(panned), truth) > 0.9


def test_a_scene_that_moves_has_none(panned: np.ndarray) -> None:
    assert find_overlay(panned) is None


def test_a_still_picture_is_no_overlay(panned: np.ndarray) -> None:
    still = np.repeat(panned[:1], FRAMES, axis=0)
    assert find_overlay(still) is None
    panned[:, : int(HEIGHT * LARGEST) + 8] = panned[0, : int(HEIGHT * LARGEST) + 8]
    assert find_overlay(panned) is None


def test_lines_along_which_the_camera_moves_are_no_overlay(panned: np.ndarray) -> None:
    """A curb or a lane marking stays where it is in a drive."""
    panned[:, 40:80] = np.repeat(texture(40, 4, 3)[:, :1], WIDTH, axis=1)
    assert find_overlay(panned) is None


def test_bars_at_the_sides_are_found(panned: np.ndarray) -> None:
    panned[:, :15] = panned[:, -20:] = 0
    panned[:, :, :10] = 0
    found = find_overlay(panned)
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[:15] = truth[-20:] = truth[:, :10] = True
    assert overlap(found, truth) > 0.95


def test_a_handful_of_frames_says_nothing(panned: np.ndarray) -> None:
    panned[EVERY_LOGO] = texture(30, 60, 2)
    assert find_overlay(panned[:4]) is None


def test_flow_has_no_confidence_on_it(panned: np.ndarray) -> None:
    panned[EVERY_LOGO] = texture(30, 60, 2)
    points = np.zeros((FRAMES, 2, 2), np.float32)
    points[:, 0], points[:, 1] = (40, 95), (120, 50)
    with_logo = FlowStore(panned).sample([(3, 4)], points)[1][0]
    assert with_logo.min() > 0.5
    without = FlowStore(panned, overlay=find_overlay(panned)).sample([(3, 4)], points)[1][0]
    assert without[0] == 0
    assert without[1] > 0.5


def test_masks_of_the_user_stay(panned: np.ndarray) -> None:
    overlay = np.zeros((HEIGHT, WIDTH), bool)
    overlay[LOGO] = True
    masks = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    masks[3, :20] = False
    both = without_overlay(masks, overlay, FRAMES)
    assert not both[3, :20].any()
    assert not both[EVERY_LOGO].any()
    assert both[2, :20].all()
    alone = without_overlay(None, overlay, FRAMES)
    assert alone.strides[0] == 0, "one mask serves all frames"
    given, ours = FlowStore(panned, masks=alone.copy()).masks, FlowStore(panned, overlay=overlay).masks
    assert given is not None
    assert ours is not None
    np.testing.assert_array_equal(ours, given)
