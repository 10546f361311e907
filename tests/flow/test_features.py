"""Features: found again in a shifted picture, never where a mask forbids, and matched only where they are sure."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flowcam_ns.alignment.revisits import LIKENESS
from flowcam_ns.flow.features import Features, match_descriptors, stretched

SHIFT = np.array([23.0, -11.0])


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A textured picture: blurred noise, 240 x 320."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), np.zeros_like(noise), 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def shifted(picture: np.ndarray) -> np.ndarray:
    """Two views of the picture, SHIFT apart."""
    x, y = SHIFT.astype(int)
    return np.stack([picture[30:270, 30:350], picture[30 - y : 270 - y, 30 - x : 350 - x]])


def test_matches_tell_the_shift_between_two_views(shifted: np.ndarray) -> None:
    features = Features(shifted)
    here, there = features.match(0, 1)
    moved = features.of(1).points[there] - features.of(0).points[here]
    assert len(moved) > 50
    assert np.abs(np.median(moved, axis=0) - SHIFT).max() < 0.1
    assert (np.linalg.norm(moved - SHIFT, axis=1) < 1).mean() > 0.95


def test_features_lie_where_they_are_not_a_fraction_of_a_pixel_beside_it() -> None:
    place = np.array([100.0, 60.0])
    x, y = np.meshgrid(np.arange(200) + 0.5, np.arange(120) + 0.5)
    blob = 255 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 5.0**2))
    found = Features(np.repeat(blob.astype(np.uint8)[None, ..., None], 3, axis=-1)).of(0)
    nearest = found.points[np.linalg.norm(found.points - place, axis=1).argmin()]
    assert np.abs(nearest - place).max() < 0.1


def test_what_is_found_meanwhile_is_what_is_found_when_asked_for(shifted: np.ndarray) -> None:
    meanwhile, asked = Features(shifted), Features(shifted)
    with meanwhile.found_meanwhile():
        early = meanwhile.of(1)
    for frame in (0, 1):
        assert np.array_equal(meanwhile.of(frame).points, asked.of(frame).points)
        assert np.array_equal(meanwhile.of(frame).descriptors, asked.of(frame).descriptors)
    assert np.array_equal(early.points, asked.of(1).points)


def test_an_error_in_the_meantime_ends_the_search_and_comes_through(
    shifted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Features(np.repeat(shifted, 200, axis=0))
    with pytest.raises(KeyboardInterrupt), features.found_meanwhile():
        raise KeyboardInterrupt
    searched = []
    monkeypatch.setattr(features, "_find", lambda frame: searched.append(frame))
    features.compute(range(400))
    assert len(searched) > 300


def test_matching_many_pairs_is_matching_each(shifted: np.ndarray) -> None:
    features, told = Features(shifted), []
    pairs = [(0, 1), (1, 0), (0, 0)]
    together = features.match_all(pairs, lambda done, total: told.append((done, total)))
    for pair, found in zip(pairs, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, features.match(*pair), strict=True))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_points_are_in_px_of_the_frames_whatever_size_is_searched(
    shifted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Features(shifted).of(0).points
    monkeypatch.setattr("flowcam_ns.flow.features.LONG_SIDE", 200)
    small = Features(shifted).of(0).points
    distance = np.linalg.norm(small[:, None] - full[None], axis=-1).min(axis=1)
    assert np.median(distance) < 1.0
    assert small[:, 0].max() > 250


def test_nothing_is_found_under_a_mask_or_at_its_edge(shifted: np.ndarray) -> None:
    masks = np.ones(shifted.shape[:3], bool)
    masks[:, 60:160, 100:220] = False
    points = Features(shifted, masks).of(0).points
    assert len(points) > 20
    inside = (points > (97, 57)).all(1) & (points < (223, 163)).all(1)
    assert not inside.any()


def test_only_views_of_one_place_are_alike_enough_for_a_revisit(shifted: np.ndarray, picture: np.ndarray) -> None:
    other = np.random.default_rng(1).permutation(picture.reshape(-1, 3)).reshape(picture.shape)[:240, :320]
    likeness = Features(np.concatenate([shifted, cv2.GaussianBlur(other, (0, 0), 2.5)[None]])).likeness([0], [1, 2])
    assert likeness[0, 1] < LIKENESS / 2 < 2 * LIKENESS < likeness[0, 0]


def test_a_dark_video_has_the_features_of_a_bright_one(shifted: np.ndarray) -> None:
    dark = (shifted * 0.06).round().astype(np.uint8)
    bright, found = Features(shifted), Features(dark)
    assert len(found.match(0, 1)[0]) > 0.7 * len(bright.match(0, 1)[0])


def test_a_bright_logo_under_a_mask_does_not_make_a_dark_picture_bright(shifted: np.ndarray) -> None:
    dark = (shifted * 0.06).round().astype(np.uint8)
    masks = np.ones(dark.shape[:3], bool)
    dark[:, :60, :80], masks[:, :60, :80] = 255, False
    assert len(Features(dark, masks).of(0).points) > 0.6 * len(Features(shifted, masks).of(0).points)


def test_only_a_picture_of_little_contrast_is_stretched() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    assert stretched(picture) is picture
    assert np.ptp(stretched(picture // 4)) > 150


def test_a_flat_picture_has_no_features_and_no_matches(shifted: np.ndarray) -> None:
    features = Features(np.stack([shifted[0], np.full_like(shifted[0], 128)]))
    assert len(features.of(1).points) == 0
    assert len(features.match(0, 1)[0]) == 0


def test_a_match_must_be_mutual_and_clearly_the_best() -> None:
    first = np.eye(128, dtype=np.float32)[:4]
    doubtful = (first[2] + first[3]) / np.sqrt(np.float32(2))
    second = np.stack([first[1], first[0], doubtful, doubtful])
    here, there = match_descriptors(first, second)
    assert dict(zip(here.tolist(), there.tolist(), strict=True)) == {0: 1, 1: 0}


def test_finer_features_are_many_more_and_as_exact() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (800, 1100, 3), dtype=np.uint8)
    detailed = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), np.zeros_like(noise), 0, 255, cv2.NORM_MINMAX)
    coarse = Features(np.stack([detailed[30:750, 30:990], detailed[41:761, 7:967]]))
    fine = coarse.finer()
    assert fine is coarse.finer()
    assert len(fine.of(0).points) > 2 * len(coarse.of(0).points)
    here, there = fine.match(0, 1)
    moved = fine.of(1).points[there] - fine.of(0).points[here]
    assert np.abs(np.median(moved, axis=0) - SHIFT).max() < 0.1
