"""Clutter: clips of any scene, lens, shape and motion, with exact truth, for training alone."""

from __future__ import annotations

import numpy as np
import pytest

from flowcam_ns.synthetic.clutter import clutter_clip, developed
from flowcam_ns.synthetic.dead_leaves import dead_leaves


@pytest.fixture(scope="module")
def clips() -> list:
    return [clutter_clip(seed, frames=4, long_side=64) for seed in range(6)]


def test_a_seed_gives_the_same_clip_and_another_seed_another(clips: list) -> None:
    assert np.array_equal(clutter_clip(2, frames=4, long_side=64).rgb, clips[2].rgb)
    assert len({clip.rgb.tobytes() for clip in clips}) == len(clips)


def test_lens_shape_and_motion_vary_and_flow_can_be_followed(clips: list) -> None:
    for clip in clips:
        assert max(clip.rgb.shape[1:3]) == 64
        assert clip.rgb.std() > 4
        flow, visible = clip.flow(0, 1)
        assert visible.mean() > 0.5
        assert 0.0002 < np.median(np.linalg.norm(flow, axis=-1)[visible]) / 64 < 0.2
    assert len({clip.rgb.shape for clip in clips}) > 2
    focal = [clip.camera.fx / 64 for clip in clips]
    assert max(focal) / min(focal) > 1.3


def test_what_flow_says_is_what_is_seen() -> None:
    clip = next(c for c in (clutter_clip(seed, frames=3, long_side=128) for seed in range(3)) if c.rgb.std() > 15)
    flow, visible = clip.flow(0, 1)
    y, x = np.nonzero(visible)
    ends = (np.stack([x, y], axis=-1) + flow[y, x]).round().astype(int)
    inside = ((ends >= 0) & (ends < (clip.camera.width, clip.camera.height))).all(-1)
    there = clip.rgb[1][ends[inside, 1], ends[inside, 0]].astype(float)
    here, unmoved = clip.rgb[0][y, x][inside].astype(float), clip.rgb[1][y, x][inside].astype(float)
    assert np.abs(there - here).mean() < 0.8 * np.abs(unmoved - here).mean()


def test_pictures_are_developed_alike_over_a_clip() -> None:
    frames = np.full((5, 8, 12, 3), 128, np.uint8)
    frames[:, :, 6:] = 40
    for seed in range(4):
        made = developed(np.random.default_rng(seed), frames).astype(float)
        assert made.shape == frames.shape
        assert np.abs(np.diff(made.mean(axis=(1, 2, 3)))).max() < 15
        assert made[:, 2:6, 1:5].mean() > made[:, 2:6, 7:11].mean()


def test_dead_leaves_repeat_without_a_seam_and_have_detail_at_all_scales() -> None:
    tile = dead_leaves(np.random.default_rng(0), 128)
    assert tile.shape == (128, 128, 3)
    assert 0 <= tile.min() < tile.max() <= 1
    grey = tile.mean(-1)
    seam, inside = np.abs(grey[0] - grey[-1]).mean(), np.abs(np.diff(grey, axis=0)).mean(1)
    assert seam < 2.5 * inside.max()
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    assert power[1:8, 1:8].mean() > 10 * power[24:56, 24:56].mean() > 0
