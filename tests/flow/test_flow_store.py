"""The flow store against exact warps: accuracy, pixel conventions, confidence, masks, memory."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from flowcam_ns.flow.confidence import forward_backward_confidence
from flowcam_ns.flow.corners import points_in_cells
from flowcam_ns.flow.dis import DISFlow
from flowcam_ns.flow.estimator import make_estimator
from flowcam_ns.flow.flow_images import flow_size
from flowcam_ns.flow.pair import FlowPair
from flowcam_ns.flow.store import FlowStore

WIDTH, HEIGHT = 640, 400


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 2.0) + 2 * cv2.GaussianBlur(noise, (0, 0), 8.0)
    return np.clip(128 + 45 * image / image.std(), 0, 255)


def warped(affine: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Two RGB frames; a point p (centres at +0.5) of the first lies at affine @ (p, 1) in the second."""
    plane = texture(height + 200, width + 200)
    middle = np.array([[1, 0, 100], [0, 1, 100]], np.float64)  # the first frame looks at the middle of the plane
    in_opencv_px = affine.astype(np.float64).copy()
    in_opencv_px[:, 2] += affine[:, :2] @ [0.5, 0.5] - 0.5
    back = np.vstack([in_opencv_px, [0, 0, 1]])
    from_second = middle @ np.linalg.inv(back)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    frames = [cv2.warpAffine(plane, m, (width, height), flags=flags) for m in (middle, from_second)]
    return np.stack([np.repeat(np.clip(f, 0, 255).round().astype(np.uint8)[..., None], 3, axis=2) for f in frames])


def interior(points: np.ndarray, margin: float = 40) -> np.ndarray:
    return ((points > margin) & (points < np.array([WIDTH, HEIGHT]) - margin)).all(-1)


AFFINES = {
    "translation": np.array([[1, 0, 7.25], [0, 1, -3.5]]),
    "zoom": np.array([[1.03, 0, -9.6], [0, 1.03, -6.0]]),
    "roll": np.array([[0.9998, -0.02, 4.0], [0.02, 0.9998, -6.4]]),
}


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("long_side", [640, 412])
def test_samples_follow_an_affine_warp_both_ways(name: str, long_side: int) -> None:
    affine = AFFINES[name]
    store = FlowStore(warped(affine), long_side=long_side)
    points = store.good_points(40)
    inverse = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2]
    targets, confidence = store.sample([(0, 1), (1, 0)], points)
    for row, matrix in enumerate((affine, inverse)):
        inside = interior(points[row])
        error = (targets[row] - (points[row] @ matrix[:, :2].T + matrix[:, 2]))[inside]
        assert np.abs(error).mean() < 0.12
        assert np.abs(error.mean(axis=0)).max() < 0.1
        assert confidence[row][inside].mean() > 0.9


class ExactAffine:
    """The exact flow of an affine warp given in fractions of the image, at whatever size it is asked for."""

    name = key = "exact"
    color = uses_initial = False
    max_workers = 8

    def __init__(self, affine: np.ndarray) -> None:
        self.affine = affine
        self.inverse = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2]

    def __call__(self, first: np.ndarray, second: np.ndarray, initial: np.ndarray | None = None) -> np.ndarray:
        matrix = self.affine if first.mean() < second.mean() else self.inverse
        size = np.array(first.shape[::-1])
        grid = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in size)), -1) / size
        return ((grid @ matrix[:, :2].T + matrix[:, 2] - grid) * size).astype(np.float32)


@pytest.mark.parametrize("shape", [(400, 640), (401, 637), (90, 61)])
@pytest.mark.parametrize("long_side", [640, 212])
def test_pixel_conventions_are_exact(shape: tuple[int, int], long_side: int) -> None:
    affine = np.array([[1.2, 0.1, -0.1], [-0.05, 0.8, 0.1]])  # half a pixel of confusion would be wrong by 0.1 px
    images = np.stack([np.full((*shape, 3), value, np.uint8) for value in (50, 90)])
    store = FlowStore(images, ExactAffine(affine), long_side=long_side)
    size = np.array([store.width, store.height])
    points = (np.random.default_rng(0).uniform(0.15, 0.85, (1, 200, 2)).repeat(2, axis=0) * size).astype(np.float32)
    targets, confidence = store.sample([(0, 1), (1, 0)], points)
    for row, matrix in enumerate((affine, store.estimator.inverse)):
        expected = (points[row] / size @ matrix[:, :2].T + matrix[:, 2]) * size
        assert np.abs(targets[row] - expected).max() < 0.02 * max(1, max(shape) / long_side)
        inside = ((expected > 0) & (expected < size)).all(-1)
        assert ((confidence[row] > 0.9) == inside).mean() > 0.95
    flow, _ = store.dense(0, 1)
    height, width = flow.shape[:2]
    y, x = height // 2, width // 3
    at = np.array([(x + 0.5) / width, (y + 0.5) / height])
    np.testing.assert_allclose(flow[y, x], affine[:, :2] @ at + affine[:, 2] - at, atol=2e-4)


def test_dense_flow_is_a_fraction_of_the_image_on_a_half_size_grid() -> None:
    affine = AFFINES["zoom"]
    store = FlowStore(warped(affine), long_side=512)
    flow, confidence = store.dense(0, 1)
    assert flow.shape == (store.flow_height // 2, store.flow_width // 2, 2)
    assert flow.dtype == confidence.dtype == np.float32
    height, width = confidence.shape
    x, y = np.meshgrid((np.arange(width) + 0.5) / width * WIDTH, (np.arange(height) + 0.5) / height * HEIGHT)
    points = np.stack([x, y], -1)
    truth = (points @ affine[:, :2].T + affine[:, 2] - points) / [WIDTH, HEIGHT]
    error = (flow - truth)[interior(points)] * [WIDTH, HEIGHT]
    assert np.abs(error).mean() < 0.12
    backward, _ = store.dense(1, 0)
    assert np.abs(flow + backward)[height // 2, width // 2].max() < 0.01


def test_points_may_be_given_for_each_pair() -> None:
    store = FlowStore(warped(AFFINES["translation"]))
    points = store.good_points(60)
    by_frame = store.sample([(1, 0), (0, 1)], points)
    by_pair = store.sample([(1, 0), (0, 1)], points[::-1], per_pair=True)
    for left, right in zip(by_frame, by_pair, strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(ValueError, match="points must have shape"):
        store.sample([(0, 1)], points, per_pair=True)


def test_an_empty_list_of_pairs_gives_empty_arrays() -> None:
    store = FlowStore(warped(AFFINES["translation"]))
    targets, confidence = store.sample([], store.good_points(60))
    assert targets.shape[0] == confidence.shape[0] == 0


def test_a_frame_that_is_not_there_is_refused() -> None:
    store = FlowStore(warped(AFFINES["translation"]))
    for pair in [(0, 2), (0, 0), (-1, 1)]:
        with pytest.raises(ValueError, match="no pair"):
            store.compute([pair])


def test_confidence_is_low_where_a_thing_covers_the_background() -> None:
    plane = texture(HEIGHT, WIDTH)
    box = texture(120, 120, seed=5)
    frames = []
    for x in (240, 270):
        frame = plane.copy()
        frame[140:260, x : x + 120] = box
        frames.append(np.repeat(frame.astype(np.uint8)[..., None], 3, axis=2))
    store = FlowStore(np.stack(frames))
    y, x = np.meshgrid(np.arange(165, 240, 5.0), np.arange(365, 386, 4.0))
    covered = np.stack([x, y], -1).reshape(-1, 2)
    still = covered - [250, 0]
    points = np.stack([np.concatenate([covered, still])] * 2).astype(np.float32)
    _, confidence = store.sample([(0, 1)], points)
    assert confidence[0, : len(covered)].mean() < 0.2
    assert confidence[0, len(covered) :].mean() > 0.9


def test_confidence_is_zero_outside_the_image_at_either_end() -> None:
    store = FlowStore(warped(np.array([[1, 0, 30], [0, 1, 0.0]])))
    points = np.array([[[-5, 50], [300, 401], [625, 200], [np.nan, 10], [300, 200]]] * 2, np.float32)
    _, confidence = store.sample([(0, 1)], points)
    np.testing.assert_array_equal(confidence[0, :4], 0)
    assert confidence[0, 4] > 0.9


def test_masked_sources_and_targets_have_no_confidence() -> None:
    masks = np.ones((2, HEIGHT, WIDTH), bool)
    masks[0, :, :200] = False
    masks[1, :, 400:] = False
    store = FlowStore(warped(np.array([[1, 0, 20], [0, 1, 0.0]])), masks=masks)
    # Neither what is masked nor the pixels around it, which the masked thing's flow may have reached.
    points = np.array([[[201, 200], [209, 200], [370, 200], [379, 200]]] * 2, np.float32)
    _, confidence = store.sample([(0, 1)], points)
    assert (confidence[0] > 0.5).tolist() == [False, True, True, False]
    _, dense = store.dense(0, 1)
    across = dense[dense.shape[0] // 2]
    column = np.array([190, 214, 366, 390]) * dense.shape[1] // WIDTH
    assert (across[column] > 0.5).tolist() == [False, True, True, False]


def test_one_good_point_lies_in_each_cell_at_its_corner_or_middle() -> None:
    image = np.full((2, 240, 320, 3), 90, np.uint8)
    image[0, 80:160, 80:200] = 200
    store = FlowStore(image)
    points = store.good_points(40)
    assert points.shape == (2, 5 * 7, 2)
    assert ((points > 0) & (points < [320, 240])).all()
    corners = np.array([[80, 80], [200, 80], [80, 160], [200, 160]])
    distance = np.linalg.norm(points[0][:, None] - corners, axis=-1).min(axis=0)
    assert distance.max() < 4
    # Every second cell shows its middle, whatever is there.
    rows, columns = np.nonzero(np.add.outer(np.arange(5), np.arange(7)) % 2)
    middles = points[0].reshape(5, 7, 2)[rows, columns]
    cell = np.ptp(middles, axis=0) / [6, 4]
    np.testing.assert_allclose(middles - middles[0], (np.stack([columns, rows], axis=-1) - [1, 0]) * cell)


def test_points_avoid_what_is_masked_where_a_cell_leaves_a_choice() -> None:
    image = np.random.default_rng(0).integers(0, 30, (2, 240, 320, 3), dtype=np.uint8)
    image[:, 100:140, 100:140] = np.random.default_rng(1).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    masks = np.ones((2, 240, 320), bool)
    masks[:, 100:140, 100:140] = False
    around = slice(96, 144)

    def on_logo(store: FlowStore) -> int:
        columns, rows = np.floor(store.good_points(60)[0]).astype(int).T
        return int(((columns >= around.start) & (columns < around.stop) & (rows >= around.start) & (rows < 144)).sum())

    assert on_logo(FlowStore(image)) > 0
    assert on_logo(FlowStore(image, masks=masks)) == 0


@pytest.mark.parametrize(("height", "width", "cell"), [(20, 30, 50), (64, 100, 1), (61, 83, 7)])
def test_good_points_exist_at_any_size(height: int, width: int, cell: int) -> None:
    points = points_in_cells(texture(height, width).astype(np.uint8), cell, cell)
    assert len(points) >= 1
    assert ((points > 0) & (points < [width, height])).all()


def test_flow_images_are_even_and_never_enlarged() -> None:
    assert flow_size(803, 960, 512) == (428, 512)
    assert flow_size(135, 241, 512) == (136, 240)
    assert flow_size(4000, 3, 512) == (512, 16)


def test_memory_is_bounded_and_what_was_dropped_comes_back_the_same() -> None:
    images = np.concatenate([warped(AFFINES["translation"]), warped(AFFINES["zoom"])])
    roomy, tight = FlowStore(images, long_side=256), FlowStore(images, long_side=256, memory_bytes=1)
    pairs = [(0, 1), (1, 2), (2, 3), (1, 0), (0, 1)]
    points = roomy.good_points(50)
    tight.compute(pairs)
    assert len(tight._pairs) == 1
    for left, right in zip(roomy.sample(pairs, points), tight.sample(pairs, points), strict=True):
        np.testing.assert_array_equal(left, right)


def test_progress_counts_each_unordered_pair_once() -> None:
    seen: list[tuple[int, int]] = []
    store = FlowStore(np.concatenate([warped(AFFINES["translation"])] * 2), long_side=128)
    store.compute([(0, 1), (1, 0), (2, 1)], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_ctrl_c_stops_the_workers_and_leaves_opencv_as_it_was() -> None:
    store = FlowStore(np.concatenate([warped(AFFINES["translation"])] * 6), long_side=256)
    before = cv2.getNumThreads()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.compute([(i, j) for i in range(12) for j in range(i)], progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flow")]
    assert cv2.getNumThreads() == before
    assert len(store._pairs) <= 12
    store.compute([(0, 1)])


def test_workers_change_nothing() -> None:
    images = np.concatenate([warped(AFFINES["zoom"]), warped(AFFINES["roll"])])
    pairs = [(i, j) for i in range(4) for j in range(i)]
    stores = [FlowStore(images, long_side=320, workers=workers) for workers in (1, 3)]
    points = stores[0].good_points(50)
    one, three = (store.sample(pairs, points)[0] for store in stores)
    np.testing.assert_array_equal(one, three)


def test_a_start_lets_dis_follow_a_motion_beyond_its_reach_and_is_left_alone() -> None:
    grey = [frame[..., 0] for frame in warped(np.array([[1, 0, 95], [0, 1, 0.0]]))]
    start = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    start[..., 0] = 93
    kept = start.copy()
    flow = DISFlow()(grey[0], grey[1], start)
    np.testing.assert_array_equal(start, kept)
    assert np.abs(flow[60:-60, 60:-160] - [95, 0]).mean() < 0.2


def test_frames_further_apart_start_from_the_flows_between_them() -> None:
    plane = texture(HEIGHT, 1100).astype(np.uint8)
    frames = [np.repeat(plane[:, 45 * k : 45 * k + WIDTH, None], 3, axis=2) for k in range(8)]
    grid = np.stack(np.meshgrid(np.arange(370, 600, 20), [150, 200, 250]), -1).reshape(-1, 2)
    points = np.stack([grid] * 8).astype(np.float32)
    found = []
    for chain in (0, 16):
        store = FlowStore(np.stack(frames), chain=chain)
        targets, confidence = store.sample([(0, 7)], points)
        right = np.linalg.norm(targets[0] - points[0] + [315, 0], axis=-1) < 0.5
        found.append((right & (confidence > 0.5)).sum())
    assert found[0] < 0.3 * len(grid)
    assert found[1] > 0.9 * len(grid)


def test_a_chained_flow_does_not_depend_on_what_was_computed_before() -> None:
    images = np.concatenate([warped(AFFINES["translation"]), warped(AFFINES["zoom"])])
    fresh, tight = FlowStore(images, long_side=256), FlowStore(images, long_side=256, memory_bytes=1)
    tight.compute([(0, 2), (1, 3), (0, 1)])
    for left, right in zip(fresh.dense(0, 3), tight.dense(0, 3), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_start_has_no_effect_on_later_calls_without_one() -> None:
    grey = [frame[..., 0] for frame in warped(AFFINES["zoom"])]
    estimator = DISFlow()
    before = estimator(grey[0], grey[1])
    estimator(grey[1], grey[0], np.full((HEIGHT, WIDTH, 2), 20, np.float32))
    np.testing.assert_array_equal(estimator(grey[0], grey[1]), before)


def test_flow_longer_than_the_fixed_point_has_no_confidence() -> None:
    forward = np.full((20, 2000, 2), (900.0, 0.0), np.float32)
    pair = FlowPair.from_dense(forward, -forward)
    assert pair.confidence.max() == 0
    forward[:] = np.nan
    assert FlowPair.from_dense(forward, forward).confidence.max() == 0


def test_confidence_falls_with_the_forward_backward_distance() -> None:
    forward = np.zeros((40, 40, 2), np.float32)
    values = [forward_backward_confidence(forward, forward + e)[20, 20] for e in (0.0, 0.25, 0.5, 2.0)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.1


def test_auto_is_dis_on_a_cpu_and_raft_on_cuda() -> None:
    assert make_estimator("auto", "cpu").name == "dis"
    assert make_estimator("auto", "cuda").name == "raft"
    assert make_estimator("raft-small", "cpu").name == "raft-small"
    assert DISFlow(patch_stride=5).key != DISFlow().key


def test_without_confidence_all_flow_counts_that_stays_inside() -> None:
    frames = warped(AFFINES["translation"])
    frames[1] = texture(HEIGHT, WIDTH, seed=5)[..., None].astype(np.uint8)  # nothing of the first frame is left
    points = np.tile(np.array([[100, 100], [WIDTH + 5, 100]], np.float32), (2, 1, 1))
    weighed, trusting = FlowStore(frames), FlowStore(frames, use_confidence=False)
    targets, confidence = weighed.sample([(0, 1)], points)
    same_targets, all_trusted = trusting.sample([(0, 1)], points)
    assert np.array_equal(targets, same_targets)
    assert confidence[0, 0] < 0.5
    inside = ((same_targets[0] >= 0) & (same_targets[0] < (WIDTH, HEIGHT))).all(-1)
    assert all_trusted[0].tolist() == [float(inside[0]), 0.0]
    (_, doubted), (flow, trusted) = weighed.dense(0, 1), trusting.dense(0, 1)
    assert set(np.unique(trusted)) <= {0.0, 1.0}
    assert trusted.mean() > 2 * doubted.mean()
    assert trusted[0, 0] == float((flow[0, 0] >= 0).all())


def test_released_flow_is_computed_once_more_and_is_the_same() -> None:
    store = FlowStore(warped(AFFINES["translation"]))
    points = store.good_points(40)
    before = store.sample([(0, 1)], points)
    assert store._bytes > 0
    store.release()
    assert (store._bytes, len(store._pairs)) == (0, 0)
    for first, second in zip(before, store.sample([(0, 1)], points), strict=True):
        assert np.array_equal(first, second)
    assert store._bytes > 0
