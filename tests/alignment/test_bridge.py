"""Bridges over jumps: what overlaps is tied in the right place and scale, what does not is named, and by what rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from flowcam_ns.alignment import bridge
from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.feature_tie import tied_firmly
from flowcam_ns.alignment.measure import Measurements
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.pnp import solve_pnp
from flowcam_ns.alignment.problem import FlowState
from flowcam_ns.alignment.resection import KnownPart, Resection, agreement
from flowcam_ns.alignment.tie import Similarity, moved
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.synthetic.clip import ClipPlan, plan_clip
from flowcam_ns.video.frames import Frames

WIDTH, HEIGHT = 320, 180
UNCACHED = AlignmentOptions(cache=False)
BEFORE, AFTER = range(0, 12), range(26, 38)


@pytest.fixture(scope="module")
def rendered() -> Callable[[str, int, list[int]], np.ndarray]:
    """Some frames of a 60-frame clip (motion, seed), each rendered once."""
    views: dict[tuple[str, int, int], np.ndarray] = {}

    def get(motion: str, seed: int, which: list[int]) -> np.ndarray:
        plan = planned(motion, seed)
        for index in which:
            if (motion, seed, index) not in views:
                views[motion, seed, index] = plan.view(index)[0]
        return np.stack([views[motion, seed, index] for index in which])

    return get


def planned(motion: str, seed: int) -> ClipPlan:
    return plan_clip(motion, seed, 60, WIDTH, HEIGHT)


def frames_of(images: np.ndarray) -> Frames:
    return Frames(images, [str(index) for index in range(len(images))], np.arange(len(images)) / 30, "clip")


def random_motion(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random, Rotation.from_rotvec(random.normal(size=3)).as_matrix(), random.normal(size=3)


# Whole videos


@pytest.mark.parametrize("led", [True, False])
def test_frames_cut_out_of_an_orbit_are_tied_in_place_and_scale(
    rendered: Callable, led: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jump of 14 frames, then one lone frame of the beginning: 25 frames in three pieces.

    Plain flow does not tie these: features lead the flow over the jump; where they may not, they bridge the parts.
    """
    if not led:
        monkeypatch.setattr("flowcam_ns.flow.lead.WEAK", 0.0)
    which = [*BEFORE, *AFTER, 4]
    found = estimate_poses(frames_of(rendered("orbit", 2, which)), options=UNCACHED)
    assert found.posed.all()
    assert found.unposed_reasons == {}
    assert found.warnings == []
    assert led or "bridges" in found.seconds
    truth = torch.from_numpy(planned("orbit", 2).c2w[which])
    scores = score_trajectory(found.c2w, truth, found.posed)
    assert scores.max_rotation_deg < 1.0
    assert scores.max_position_relative < 0.03


@pytest.fixture
def unconfirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flow is found across any bridge, and none is led over a jump."""
    monkeypatch.setattr("flowcam_ns.flow.lead.WEAK", 0.0)
    nothing = Measurements([], np.zeros((0, 1, 2), np.float32), np.zeros((0, 1), np.float32))
    monkeypatch.setattr("flowcam_ns.alignment.bridge.measure_far_pairs", lambda *_: nothing)


def test_where_flow_confirms_nothing_frames_with_many_features_are_tied_all_the_same(
    rendered: Callable, unconfirmed: None
) -> None:
    which = [*BEFORE, *AFTER]
    found = estimate_poses(frames_of(rendered("orbit", 2, which)), options=UNCACHED)
    assert found.posed.all()
    truth = torch.from_numpy(planned("orbit", 2).c2w[which])
    scores = score_trajectory(found.c2w, truth, found.posed)
    assert scores.max_rotation_deg < 1.0
    assert scores.max_position_relative < 0.03


def test_finer_features_are_tried_a_few_times_at_most(
    rendered: Callable, unconfirmed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame tied lets all the others be tried once more: without a bound that never ends in a long video."""
    tries = []

    def counted(known: KnownPart, frame: int, others: list[int]) -> list[Resection]:
        tries.append(frame)
        return tied_firmly(known, frame, others)

    monkeypatch.setattr(bridge, "tied_firmly", counted)
    monkeypatch.setattr(bridge, "MAX_SINGLE_FRAMES", 3)
    found = estimate_poses(frames_of(rendered("orbit", 2, [*BEFORE, *AFTER])), options=UNCACHED)
    assert len(tries) == 3
    assert len(BEFORE) < int(found.posed.sum()) <= len(BEFORE) + 3


def test_where_flow_confirms_nothing_another_scene_stays_untied(rendered: Callable, unconfirmed: None) -> None:
    images = np.concatenate([rendered("orbit", 2, [*BEFORE]), rendered("sideways", 7, [*range(10)])]).copy()
    images[:, 10:40, 250:310] = np.random.default_rng(0).integers(0, 255, (30, 60, 3), dtype=np.uint8)
    found = estimate_poses(frames_of(images), options=UNCACHED)
    assert not (found.posed[:12].any() and found.posed[12:].any())


def test_two_scenes_are_not_tied_and_the_report_says_why(rendered: Callable) -> None:
    images = np.concatenate([rendered("orbit", 2, [*BEFORE]), rendered("sideways", 7, [*range(10)])])
    found = estimate_poses(frames_of(images), options=UNCACHED)
    assert found.posed.tolist() == [True] * 12 + [False] * 10
    assert set(found.unposed_reasons) == set(range(12, 22))
    assert all(
        "features" in reason and "selected frames 12 to 21" in reason for reason in found.unposed_reasons.values()
    )
    assert "10 of 22" in found.warnings[0]


def test_a_logo_on_two_scenes_does_not_tie_them(rendered: Callable) -> None:
    """The same small picture burnt into every frame matches perfectly, but is no scene."""
    images = np.concatenate([rendered("orbit", 2, [*BEFORE]), rendered("sideways", 7, [*range(10)])]).copy()
    images[:, 10:40, 250:310] = np.random.default_rng(0).integers(0, 255, (30, 60, 3), dtype=np.uint8)
    found = estimate_poses(frames_of(images), options=UNCACHED)
    assert not (found.posed[:12].any() and found.posed[12:].any())


# The pose of one frame


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_frame_is_posed_by_known_points_though_a_third_are_wrong(seed: int) -> None:
    random, rotation, _ = random_motion(seed)
    ray = random.uniform(-0.5, 0.5, (90, 2))
    cam = np.concatenate([ray, np.ones((90, 1))], axis=1) * random.uniform(1, 4, (90, 1))
    shift = random.normal(size=3)
    points = (cam - shift) @ rotation
    points[:30] += random.normal(size=(30, 3))
    pose = solve_pnp(points, ray, 0.005)
    assert pose is not None
    assert np.abs(pose[:3, :3] - rotation).max() < 1e-4
    assert np.abs(pose[:3, 3] - shift).max() < 1e-3
    assert agreement(points, ray, pose, 0.005)[30:].all()


def test_points_behind_the_camera_do_not_agree() -> None:
    points = np.array([[0.1, 0.2, 1.0], [-0.1, -0.2, -1.0]])
    assert agreement(points, np.array([[0.1, 0.2]] * 2), np.eye(4), 0.01).tolist() == [True, False]


# Parts in one world


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 5))
def test_a_similarity_moves_cameras_and_surface_together(seed: int, scale: float) -> None:
    random, rotation, translation = random_motion(seed)
    c2w = se3.exp(torch.from_numpy(random.normal(size=(3, 6))))
    ray, depth = random.uniform(-0.5, 0.5, (3, 5, 2)), random.uniform(1, 4, (3, 5))
    part = Part(torch.arange(3), FlowState(c2w, torch.from_numpy(1 / depth), torch.zeros(7, dtype=torch.float64)))
    motion = Similarity(scale, rotation, translation)
    result = moved(part, motion, part.state.lens)

    def surface(of: Part) -> np.ndarray:
        cam = np.concatenate([ray, np.ones((3, 5, 1))], axis=-1) / of.state.inverse_depth.numpy()[..., None]
        return se3.transform(of.state.c2w[:, None], torch.from_numpy(cam)).numpy()

    assert np.allclose(surface(result), scale * surface(part) @ rotation.T + translation, atol=1e-9)
    own = np.linalg.inv(c2w[1].numpy())
    assert np.allclose(np.linalg.inv(motion.camera_pose(own)), result.state.c2w[1].numpy(), atol=1e-9)


def test_parts_join_in_the_order_of_their_frames() -> None:
    def part(frames: list[int]) -> Part:
        value = torch.tensor(frames, dtype=torch.float64)
        c2w = torch.eye(4, dtype=torch.float64).repeat(len(frames), 1, 1)
        c2w[:, 0, 3] = value
        return Part(torch.tensor(frames), FlowState(c2w, value[:, None], torch.zeros(7, dtype=torch.float64)))

    joined = part([5, 6, 9]).joined(part([0, 7, 8]))
    assert joined.frames.tolist() == [0, 5, 6, 7, 8, 9]
    assert joined.state.c2w[:, 0, 3].tolist() == joined.state.inverse_depth[:, 0].tolist() == [0, 5, 6, 7, 8, 9]
    assert joined.place()[7] == 3
    assert len(joined) == 6
