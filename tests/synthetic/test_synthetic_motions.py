"""The seeded motions: exact rigid poses, in free space, at a walking pace."""

from __future__ import annotations

import numpy as np
import pytest

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic.motions import BENCHMARK_MOTIONS, MIN_CLEARANCE, MOTIONS, make_poses, scene_kind
from flowcam_ns.synthetic.render import exact_flow, render_depth
from flowcam_ns.synthetic.scene import Scene, build_scene

CAMERA = Camera.from_focal(64, 36, 54.0)


@pytest.fixture(scope="module")
def rooms() -> dict[int, Scene]:
    return {seed: build_scene(seed, texture_size=128) for seed in (0, 1, 2)}


@pytest.fixture(scope="module")
def town() -> Scene:
    return build_scene(0, "town", texture_size=128)


def median_step(scene: Scene, poses: np.ndarray, i: int) -> float:
    """Median flow from frame i to the next in % of the width."""
    depths = [render_depth(scene, CAMERA, poses[k]) for k in (i, i + 1)]
    flow, _ = exact_flow(depths[0], depths[1], CAMERA, np.linalg.inv(poses[i + 1]) @ poses[i])
    return float(np.median(np.linalg.norm(flow, axis=-1))) / CAMERA.width * 100


@pytest.mark.parametrize("motion", sorted(set(MOTIONS) - {"long_walk"}))
def test_poses_are_rigid_and_upright(motion: str, rooms: dict[int, Scene]) -> None:
    poses = make_poses(motion, 0, rooms[0])
    R = poses[:, :3, :3]
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.tile(np.eye(3), (60, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-12)
    assert (poses[:, 2, 1] < -0.9).all(), "the camera's y axis points down, the world's z up"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("motion", sorted(set(MOTIONS) - {"long_walk"}))
def test_no_camera_touches_or_faces_anything(motion: str, seed: int, rooms: dict[int, Scene]) -> None:
    poses = make_poses(motion, seed, rooms[seed])
    assert rooms[seed].clearance(poses[:, :3, 3]).min() >= MIN_CLEARANCE
    nearest = [render_depth(rooms[seed], CAMERA, pose) for pose in poses[::6]]
    assert min(depth.min() for depth in nearest) > 0.3
    assert min(np.median(depth) for depth in nearest) > 1.2


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("motion", BENCHMARK_MOTIONS)
def test_steps_are_those_of_ordinary_video(motion: str, seed: int, rooms: dict[int, Scene]) -> None:
    poses = make_poses(motion, seed, rooms[seed])
    steps = [median_step(rooms[seed], poses, i) for i in range(0, 59, 6)]
    assert 0.5 < np.median(steps) < 3
    assert max(steps) < 4


@pytest.mark.parametrize("motion", BENCHMARK_MOTIONS)
def test_benchmark_motions_have_parallax(motion: str, rooms: dict[int, Scene]) -> None:
    """The camera goes further than a tenth of the depth of what it sees."""
    poses = make_poses(motion, 1, rooms[1])
    far = np.median(render_depth(rooms[1], CAMERA, poses[0]))
    assert np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0)) > 0.3 * far


def test_pure_rotation_and_still_do_what_they_say(rooms: dict[int, Scene]) -> None:
    turning, standing = (make_poses(motion, 0, rooms[0]) for motion in ("pure_rotation", "still"))
    assert np.ptp(turning[:, :3, 3], axis=0).max() == 0
    assert np.degrees(np.arccos(turning[0, :3, 2] @ turning[-1, :3, 2])) > 40
    assert np.ptp(standing, axis=0).max() == 0


def test_fewer_frames_are_a_part_at_normal_speed_and_more_are_finer(rooms: dict[int, Scene]) -> None:
    whole = make_poses("orbit", 0, rooms[0], 60)
    np.testing.assert_allclose(make_poses("orbit", 0, rooms[0], 10), whole[:10], atol=1e-12)
    np.testing.assert_allclose(make_poses("orbit", 0, rooms[0], 10, start=20 / 59), whole[20:30], atol=1e-9)
    np.testing.assert_allclose(make_poses("orbit", 0, rooms[0], 10, start=1.0), whole[50:], atol=1e-9)
    np.testing.assert_allclose(make_poses("orbit", 0, rooms[0], 119)[::2], whole, atol=1e-9)


def test_motions_differ_by_seed(rooms: dict[int, Scene]) -> None:
    assert np.abs(make_poses("walk", 0, rooms[0]) - make_poses("walk", 1, rooms[0])).max() > 0.1


def test_long_walk_is_free_and_closes_one_true_loop(town: Scene) -> None:
    poses = make_poses("long_walk", 0, town, 1000)
    position, ahead = poses[:, :3, 3], poses[:, :3, 2]
    assert len(poses) == 1000
    assert town.clearance(position).min() >= MIN_CLEARANCE
    assert np.linalg.norm(np.diff(position, axis=0), axis=-1).sum() > 80
    apart = np.linalg.norm(position[:, None] - position[None], axis=-1)
    later = np.arange(1000)[None] - np.arange(1000)[:, None] > 100
    revisits = np.argwhere(later & (apart < 1.0))
    assert len(revisits) > 0
    assert revisits[:, 0].max() < 80, "only the start is seen again"
    assert revisits[:, 1].min() > 920, "only at the end"
    i, j = revisits[len(revisits) // 2]
    assert ahead[i] @ ahead[j] > 0.7, "in the same direction, so that frames can be matched"


def test_long_walk_steps_are_those_of_ordinary_video(town: Scene) -> None:
    poses = make_poses("long_walk", 0, town, 1000)
    steps = [median_step(town, poses, i) for i in range(0, 999, 50)]
    assert 0.4 < np.median(steps) < 3
    assert max(steps) < 4


@pytest.mark.parametrize(("motion", "frames"), [("moonwalk", 60), ("orbit", 0)])
def test_what_cannot_be_filmed_is_told_in_one_line(motion: str, frames: int, rooms: dict[int, Scene]) -> None:
    with pytest.raises(FlowCamError):
        make_poses(motion, 0, rooms[0], frames)


def test_every_motion_has_its_kind_of_scene() -> None:
    assert {motion: scene_kind(motion) for motion in MOTIONS}["long_walk"] == "town"
    assert scene_kind("walk") == "room"
