"""Thinning: steady motion is kept whole, standstill and blur go, and what is left moves evenly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from flowcam_ns.video.load import load_frames
from flowcam_ns.video.motion import MotionTrack, typical_length
from flowcam_ns.video.options import FrameOptions
from flowcam_ns.video.selection import LONGEST_STEP, STILL_CLIP_FRAMES, TARGET_STEP, select_frames

Slide = Callable[..., list[np.ndarray]]
Write = Callable[..., Path]
WIDTH = 160


def measure(pictures: list[np.ndarray]) -> MotionTrack:
    track = MotionTrack()
    for picture in pictures:
        track.push(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    return track


def choose(pictures: list[np.ndarray], budget: int = 300) -> list[int]:
    track = measure(pictures)
    return select_frames(track.displacement, track.sharpness, budget).indices


@pytest.mark.parametrize("step", [0.3, 1.0, 3.0, 8.0])
def test_motion_is_measured(slide: Slide, step: float):
    displacement = measure(slide(np.arange(20) * step)).displacement
    moved = typical_length(displacement[1:] - displacement[:-1])
    assert np.allclose(moved, step / WIDTH, rtol=0.25)


@pytest.mark.parametrize("step", [0.4, 1.5, 5.0, 12.0])
def test_steady_clip_within_the_budget_keeps_all(slide: Slide, step: float):
    assert choose(slide(np.arange(60) * step)) == list(range(60))


def test_still_stretch_is_reduced(slide: Slide):
    positions = np.concatenate([np.arange(20) * 2.0, np.full(40, 38.0), 38 + np.arange(1, 20) * 2.0])
    noise = np.random.default_rng(0)
    pictures = [np.clip(p + noise.normal(0, 3, p.shape), 0, 255).astype(np.uint8) for p in slide(positions)]
    kept = choose(pictures)
    assert sum(20 <= i < 60 for i in kept) <= 2
    assert {*range(1, 19), *range(62, 79)} <= set(kept)


def test_wholly_still_clip_keeps_a_few_frames(slide: Slide):
    kept = choose(slide(np.zeros(100)))
    assert len(kept) == STILL_CLIP_FRAMES
    assert (kept[0], kept[-1]) == (0, 99)


def test_blurred_frames_give_way_to_their_neighbours(slide: Slide):
    pictures = slide(np.arange(40) * 2.0)
    for i in (0, 10, 25, 26):
        pictures[i] = cv2.blur(pictures[i], (9, 3))
    assert choose(pictures) == [i for i in range(40) if i not in (0, 10, 25, 26)]


def test_a_blurred_frame_stays_where_flow_needs_it(slide: Slide):
    pictures = slide(np.arange(30) * 8.0)
    pictures[10] = cv2.blur(pictures[10], (9, 3))
    assert choose(pictures) == list(range(30))


def test_over_the_budget_the_picture_moves_evenly(slide: Slide):
    """Slow, then fast: the fast part keeps its frames, the slow part is thinned."""
    steps = np.concatenate([np.full(300, 0.25), np.full(60, 2.0), np.full(200, 0.5)])
    positions = np.cumsum(steps)
    kept = choose(slide(positions), budget=200)
    moved = np.diff(positions[kept]) / WIDTH
    assert 60 <= len(kept) <= 200
    assert moved.max() < 2.2 * TARGET_STEP
    assert np.median(moved) > 0.5 * TARGET_STEP
    assert sum(300 <= i < 360 for i in kept) >= 30


def test_a_tight_budget_is_kept_and_spread_over_the_motion(slide: Slide):
    positions = np.arange(300) * 0.5
    track = measure(slide(positions))
    selection = select_frames(track.displacement, track.sharpness, 25)
    moved = np.diff(positions[selection.indices])
    assert 20 <= len(selection.indices) <= 25
    assert moved.max() < 1.6 * moved.min()
    assert selection.warnings == []


def test_a_budget_too_small_for_flow_is_said(slide: Slide):
    track = measure(slide(np.arange(300) * 3.0))
    selection = select_frames(track.displacement, track.sharpness, 10)
    assert len(selection.indices) <= 10
    assert 3.0 * 300 / 10 / WIDTH > LONGEST_STEP
    assert "raise max-frames" in selection.warnings[0]


def test_loading_twice_selects_the_same(slide: Slide, write_video: Write):
    rng = np.random.default_rng(1)
    path = write_video("walk.mp4", slide(np.cumsum(rng.uniform(0, 4, 90))))
    options = FrameOptions(max_frames=40)
    first, second = load_frames(path, options), load_frames(path, options)
    assert first.sources == second.sources
    assert np.array_equal(first.images, second.images)
    assert first.thinned == 90 - len(first)


def test_thinning_can_be_switched_off(slide: Slide, write_video: Write):
    path = write_video("still.mp4", slide(np.zeros(30)))
    assert len(load_frames(path, FrameOptions(thin=False))) == 30
    assert len(load_frames(path, FrameOptions(thin=False, max_frames=10))) == 10
