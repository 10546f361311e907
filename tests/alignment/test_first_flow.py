"""What a video's flow tells before any pose is known, and on how fine images it is looked for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flowcam_ns.alignment.estimate import flow_store
from flowcam_ns.alignment.first_flow import EVERY, FAST, FINE, MANY, WEAK_SHARE, WEAK_SUPPORT, VideoFlow, see_video
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.video.frames import Frames

EASY, HARD = slice(0, 8), slice(None, None, 10)
"""Neighbouring frames of the clip, and every tenth."""


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=60, width=192, height=108)


def seen(
    clip: SyntheticClip, which: slice, flow_size: int | None = None, size: tuple[int, int] = (400, 226)
) -> VideoFlow:
    images = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in clip.rgb[which]])
    frames = Frames(images, [str(index) for index in range(len(images))], np.arange(len(images)) / 30, "clip")
    options = AlignmentOptions(cache=False, flow_size=flow_size)
    return see_video(frames, flow_store(frames, options), options, lambda _stage, _done, _c2w: None)


def test_frames_that_lie_close_together_need_no_fine_flow(clip: SyntheticClip) -> None:
    found = seen(clip, EASY)
    assert found.store.long_side < FINE
    assert found.support.min() > 0.8


def test_frames_that_lie_far_apart_are_looked_at_more_finely(clip: SyntheticClip) -> None:
    found = seen(clip, HARD)
    assert found.store.long_side == FINE
    assert found.points.shape[1] > seen(clip, EASY).points.shape[1]
    assert {(0, 1), (1, 0)} <= set(found.measured.pairs)


@pytest.mark.parametrize(("frames", "every"), [(MANY - 1, 1), (MANY, EVERY)])
def test_of_many_frames_not_all_begin_a_longer_pair(clip: SyntheticClip, frames: int, every: int) -> None:
    pairs = [pair for pair in seen(clip, slice(0, frames)).measured.pairs if pair[0] < pair[1]]
    assert {(i, i + 1) for i in range(frames - 1)} <= set(pairs)
    begun = {i for i, j in pairs if j - i > 1}
    assert begun == set(range(0, max(begun) + 1, every))


def test_so_are_frames_that_overlap_well_but_whose_picture_moves_fast() -> None:
    clip = make_clip("turn", seed=1, frames=60, width=192, height=108)
    found = seen(clip, slice(40, 60, 8))
    assert np.quantile(found.support, WEAK_SHARE) > WEAK_SUPPORT
    assert np.median(found.motion) > FAST
    assert found.store.long_side == FINE


def test_a_size_is_made_once_and_shares_the_features(clip: SyntheticClip) -> None:
    store = seen(clip, EASY).store
    fine = store.at_size(FINE)
    assert fine.long_side == FINE
    assert store.at_size(FINE) is fine
    assert fine.features is store.features
    assert store.at_size(store.long_side) is store


def test_small_pictures_are_not_looked_at_more_coarsely(clip: SyntheticClip) -> None:
    assert seen(clip, EASY, size=(192, 108)).store.long_side == FINE


@pytest.mark.parametrize("which", [EASY, HARD])
def test_a_size_that_was_asked_for_is_kept(clip: SyntheticClip, which: slice) -> None:
    assert seen(clip, which, 160).store.long_side == 160
