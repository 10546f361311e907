"""Features that lead flow: a smooth motion through the matches that agree, and pictures too far apart without it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.flow import lead as lead_module
from flowcam_ns.flow.cache import FlowCache
from flowcam_ns.flow.dis import DISFlow
from flowcam_ns.flow.lead import MIN_MATCHES, agreeing, lead, smooth_motion
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3

HEIGHT, WIDTH = 96, 160

seeds = st.integers(0, 10**6)


# A smooth motion


def scattered(random: np.random.Generator) -> np.ndarray:
    """Points all over a picture, about 12 px apart."""
    y, x = np.mgrid[6:HEIGHT:12, 6:WIDTH:12]
    points = np.stack([x, y], axis=-1).reshape(-1, 2) + random.uniform(-4, 4, (x.size, 2))
    return points.astype(np.float32)


def at_every_pixel(affine: np.ndarray) -> np.ndarray:
    """The motion of an affine map [2, 3] at the centres of all pixels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    places = np.stack([x, y], axis=-1)
    return places @ affine[:, :2].T + affine[:, 2]


@given(seeds)
@settings(max_examples=25)
def test_an_affine_motion_is_found_again(seed: int) -> None:
    random = np.random.default_rng(seed)
    affine = np.concatenate([random.uniform(-0.1, 0.1, (2, 2)), random.uniform(-50, 50, (2, 1))], axis=1)
    points = scattered(random)
    motion = (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
    error = np.linalg.norm(smooth_motion(points, motion, HEIGHT, WIDTH) - at_every_pixel(affine), axis=-1)
    assert error.mean() < 0.25
    assert error[12:-12, 12:-12].max() < 0.5
    assert error.max() < 2.5


def test_a_motion_that_is_the_same_everywhere_is_found_exactly() -> None:
    points = np.random.default_rng(0).uniform(0, 60, (MIN_MATCHES, 2)).astype(np.float32)
    field = smooth_motion(points, np.tile(np.float32([31.5, -7.0]), (MIN_MATCHES, 1)), 61, 83)
    assert field.shape == (61, 83, 2)
    assert field.dtype == np.float32
    np.testing.assert_allclose(field, np.broadcast_to([31.5, -7.0], field.shape), atol=1e-4)


def test_pixel_centres_lie_at_halves() -> None:
    places = np.stack(np.meshgrid(np.arange(0.5, WIDTH, 4), np.arange(0.5, HEIGHT, 4)), axis=-1).reshape(-1, 2)
    field = smooth_motion(places.astype(np.float32), (0.2 * places).astype(np.float32), HEIGHT, WIDTH)
    zoom = np.array([[0.2, 0, 0], [0, 0.2, 0]])
    error = (field - at_every_pixel(zoom))[24:-24, 24:-24]
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.03  # half a pixel of confusion would be 0.1


@given(seeds)
@settings(max_examples=25)
def test_the_motion_passes_near_the_matches_that_it_was_made_from(seed: int) -> None:
    points = (np.random.default_rng(seed).uniform(0, 1, (60, 2)) * [WIDTH, HEIGHT]).astype(np.float32)
    x, y = points.T
    motion = np.stack([40 + 10 * np.sin(x / 30), 6 * np.cos(y / 30)], axis=-1).astype(np.float32)
    field = smooth_motion(points, motion, HEIGHT, WIDTH)
    there = cv2.remap(field, x[:, None] - 0.5, y[:, None] - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = np.linalg.norm(there[:, 0] - motion, axis=-1)
    assert np.median(error) < 0.7
    assert error.max() < 4
    assert np.median(np.linalg.norm(motion - motion.mean(axis=0), axis=-1)) > 6


# Matches that agree


def two_views(seed: int, count: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a scene in two pictures of a camera that moved; the first few are matched wrongly."""
    random = np.random.default_rng(seed)
    size, focal = np.array([320, 200]), 260
    points = random.uniform(0, 1, (count, 2)) * size
    inverse_depth = 1 / random.uniform(1, 4, count)
    motion = se3.exp(torch.tensor([*random.normal(0, 0.3, 3), *random.normal(0, 0.05, 3)])).numpy()
    there = np.c_[(points - size / 2) / focal, np.ones(count)] @ motion[:3, :3].T
    there += inverse_depth[:, None] * motion[:3, 3]
    targets = there[:, :2] / there[:, 2:] * focal + size / 2
    targets[:wrong] = random.uniform(0, 1, (wrong, 2)) * size
    return points.astype(np.float32), targets.astype(np.float32)


@given(seeds)
@settings(max_examples=25)
def test_wrong_matches_are_dropped_and_right_ones_are_kept(seed: int) -> None:
    agree = agreeing(*two_views(seed, count=60, wrong=20))
    assert agree.shape == (60,)
    assert agree[:20].sum() <= 6  # by chance a wrong one may lie on its line
    assert agree[20:].sum() >= 36


def lost(height: int = 200, width: int = 320) -> np.ndarray:
    """A flow that found nothing."""
    return np.zeros((height, width, 2), np.float32)


def test_few_matches_lead_nowhere() -> None:
    points, targets = two_views(3, count=MIN_MATCHES, wrong=0)
    assert lead(points, targets, lost()) is not None
    assert lead(points[1:], targets[1:], lost()) is None
    assert lead(points[:0], targets[:0], lost()) is None


@pytest.mark.parametrize("seed", range(5))
def test_few_that_agree_among_many_lead_nowhere(seed: int) -> None:
    points, targets = two_views(seed, count=MIN_MATCHES + 2, wrong=6)
    assert lead(points, targets, lost()) is None


def test_matches_on_which_opencv_gives_up_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a clip in training: its robust search asserts a model where no sample has made one."""

    def fail(*_: object) -> None:
        raise cv2.error("(-215:Assertion failed) !model.empty() in function 'setModelParameters'")

    monkeypatch.setattr(cv2, "findFundamentalMat", fail)
    points = np.random.default_rng(0).uniform(0, 128, (59, 2)).astype(np.float32)
    assert not agreeing(points, points + 3).any()


def test_matches_all_in_one_place_lead_nowhere() -> None:
    points = np.full((20, 2), 5, np.float32)
    assert lead(points, points + 30, lost()) is None


@pytest.mark.parametrize(
    ("share", "off", "lost_its_way"), [(1, 2, False), (0.9, 0, False), (0.6, 0, True), (1, 4, True)]
)
def test_matches_have_nothing_to_add_to_a_flow_that_ends_where_they_do(
    share: float, off: float, lost_its_way: bool
) -> None:
    points, targets = two_views(3, count=80, wrong=0)
    known = round(share * len(points))
    column, row = points[:known].astype(int).T
    found = lost()
    found[row, column] = (targets - points)[:known] + np.float32([off, 0])
    assert (lead(points, targets, found) is not None) == lost_its_way


def test_the_lead_goes_there_and_back() -> None:
    points, targets = two_views(0, count=80, wrong=20)
    both = lead(points, targets, lost())
    assert both is not None
    for field, places, motion in ((both[0], points, targets - points), (both[1], targets, points - targets)):
        assert field.shape == (200, 320, 2)
        inside = ((places > 0) & (places < [320, 200])).all(axis=1)
        inside[:20] = False
        assert inside.sum() > 20
        column, row = places[inside].astype(int).T
        error = np.linalg.norm(field[row, column] - motion[inside], axis=-1)
        assert np.median(error) < 0.4 * np.median(np.linalg.norm(motion[inside], axis=-1))


# Pictures too far apart for the search

WIDE, HIGH = 320, 200
SHIFT = WIDE // 4


class CountingDIS(DISFlow):
    calls = 0

    def __call__(self, first: np.ndarray, second: np.ndarray, initial: np.ndarray | None = None) -> np.ndarray:
        self.calls += 1
        return super().__call__(first, second, initial)


def texture(width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(HIGH, width)).astype(np.float32)
    plane = cv2.GaussianBlur(noise, (0, 0), 2.0) + 2 * cv2.GaussianBlur(noise, (0, 0), 8.0)
    return np.clip(128 + 45 * plane / plane.std(), 0, 255).astype(np.uint8)


def in_colour(*pictures: np.ndarray) -> np.ndarray:
    return np.stack([np.repeat(picture[..., None], 3, axis=2) for picture in pictures])


@pytest.fixture(scope="module")
def far_apart() -> np.ndarray:
    """Two pictures of one plane, a quarter of their width apart."""
    plane = texture(WIDE + SHIFT)
    return in_colour(plane[:, :WIDE], plane[:, SHIFT:])


def seen_in_both() -> np.ndarray:
    """Points that both pictures show, for each of them."""
    grid = np.stack(np.meshgrid(np.arange(SHIFT + 10, WIDE - 10, 12), np.arange(10, HIGH - 10, 12)), axis=-1)
    points = grid.reshape(-1, 2)
    return np.stack([points, points - [SHIFT, 0]]).astype(np.float32)


def followed(store: FlowStore) -> tuple[np.ndarray, np.ndarray]:
    """How far (px) the flow there and back ends from the truth, and its confidence."""
    points = seen_in_both()
    targets, confidence = store.sample([(0, 1), (1, 0)], points)
    return np.linalg.norm(targets - points[::-1], axis=-1), confidence


@pytest.mark.parametrize("long_side", [320, 200])
def test_features_lead_flow_between_pictures_that_lie_too_far_apart(
    far_apart: np.ndarray, long_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, confidence = followed(FlowStore(far_apart, long_side=long_side))
    assert ((error < 1) & (confidence > 0.5)).mean(axis=1).min() > 0.9
    assert confidence.mean() > 0.9
    monkeypatch.setattr(lead_module, "WEAK", 0.0)
    error, confidence = followed(FlowStore(far_apart, long_side=long_side))
    assert (error < 1).mean() < 0.05
    assert confidence.mean() < 0.3


def test_led_flow_comes_back_from_the_cache_the_same(far_apart: np.ndarray, tmp_path: Path) -> None:
    estimators = [CountingDIS(), CountingDIS()]
    found = [followed(FlowStore(far_apart, estimator, cache=FlowCache(tmp_path))) for estimator in estimators]
    assert [estimator.calls for estimator in estimators] == [4, 0]
    for computed, cached in zip(*found, strict=True):
        np.testing.assert_array_equal(computed, cached)
    assert found[1][1].mean() > 0.9


@pytest.fixture(scope="module")
def near() -> np.ndarray:
    """Two pictures of one plane, 5 px apart."""
    plane = texture(WIDE + 5)
    return in_colour(plane[:, :WIDE], plane[:, 5:])


def test_flow_that_needs_no_lead_is_searched_once(near: np.ndarray) -> None:
    estimator = CountingDIS()
    FlowStore(near, estimator).compute([(0, 1)])
    assert estimator.calls == 2


def test_weak_flow_is_searched_once_where_matches_say_the_same_or_nothing(
    near: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lead_module, "WEAK", 2.0)  # all flow counts as weak
    flat = np.full_like(near[1], 128)
    for second in (near[1], flat):
        estimator = CountingDIS()
        store = FlowStore(np.stack([near[0], second]), estimator)
        targets, _ = store.sample([(0, 1), (1, 0)], store.good_points(40))
        assert np.isfinite(targets).all()
        assert estimator.calls == 2


def test_a_lead_into_the_wrong_is_not_followed(near: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead_module, "WEAK", 2.0)
    wrong, estimator = np.full((HIGH, WIDE, 2), (60.0, 90.0), np.float32), CountingDIS()
    monkeypatch.setattr(lead_module, "lead", lambda *_: (wrong, wrong))
    points = np.tile(np.float32([[100, 100], [200, 50], [250, 150]]), (2, 1, 1))
    targets, confidence = FlowStore(near, estimator).sample([(0, 1)], points)
    assert estimator.calls == 4
    np.testing.assert_allclose(targets[0] - points[0], np.broadcast_to([-5, 0], (3, 2)), atol=0.2)
    assert confidence.min() > 0.8


@pytest.mark.parametrize("seed", [0, 12])
def test_unrelated_pictures_get_no_confidence_either_way(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = in_colour(texture(WIDE, seed), texture(WIDE, seed + 1))
    trusted = []
    for weak in (0.0, lead_module.WEAK):
        monkeypatch.setattr(lead_module, "WEAK", weak)
        store = FlowStore(pictures)
        _, confidence = store.sample([(0, 1), (1, 0)], store.good_points(12))
        trusted.append(float((confidence > 0.3).mean()))
    assert trusted[1] < 0.2
    assert trusted[1] <= trusted[0] + 0.05
