"""What was found in the frames that is not of the scene: small pictures that leave nothing of it out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flowcam_ns.alignment.foreign import LONG_SIDE, foreign_pixels
from flowcam_ns.synthetic.clip import make_clip

HEIGHT, WIDTH, FRAMES = 300, 600, 3


@pytest.fixture
def overlay() -> np.ndarray:
    overlay = np.zeros((HEIGHT, WIDTH), bool)
    overlay[10:14, 500:560] = True
    return overlay


@pytest.fixture
def still() -> np.ndarray:
    still = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    for frame in range(FRAMES):
        still[frame, 100:200, 50 * frame : 50 * frame + 80] = False
    return still


def test_where_nothing_was_found_there_is_nothing(still: np.ndarray) -> None:
    assert foreign_pixels(FRAMES, None, None) is None
    assert foreign_pixels(FRAMES, None, np.ones_like(still)) is None


@pytest.mark.parametrize(("logo", "thing"), [(True, False), (False, True), (True, True)])
def test_all_that_was_found_is_covered_and_little_more(
    logo: bool, thing: bool, overlay: np.ndarray, still: np.ndarray
) -> None:
    frames = make_clip("orbit", seed=0, frames=FRAMES, width=WIDTH, height=HEIGHT).to_frames()
    found = foreign_pixels(FRAMES, overlay if logo else None, still if thing else None)
    assert found is not None
    assert found.shape == (FRAMES, LONG_SIDE // 2, LONG_SIDE)
    expected = (overlay & logo) | (~still & thing)
    masks = frames.without(found).masks
    assert masks is not None
    assert not (masks & expected).any()
    assert (~masks).sum() < 2 * expected.sum()


def test_given_masks_go_on_to_count(still: np.ndarray) -> None:
    frames = make_clip("orbit", seed=0, frames=FRAMES, width=WIDTH, height=HEIGHT).to_frames()
    given = np.ones_like(still)
    given[:, :50] = False
    masked = dataclasses.replace(frames, masks=given)
    assert masked.without(None) is masked
    both = masked.without(~still).masks
    assert both is not None
    assert (both == (given & still)).all()
