"""The procedural scene: its depth, flow and colour agree with one another and with the camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic import textures
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip, random_camera
from flowcam_ns.synthetic.primitives import Box, Cylinder, Room, Solid, Sphere
from flowcam_ns.synthetic.render import exact_flow, render, render_depth
from flowcam_ns.synthetic.scene import build_scene
from flowcam_ns.synthetic.trace import PixelRays, sphere_extent

WIDTH, HEIGHT = 160, 90
DISTORTED = replace(Camera.from_focal(WIDTH, HEIGHT, 120.0), k1=-0.12, k2=0.03, p1=0.004, p2=-0.003, cx=85.0, cy=41.0)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("sideways", 3, frames=8, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def distorted_clip() -> SyntheticClip:
    return make_clip("walk", 4, frames=6, camera=DISTORTED)


def grid(height: int, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`image` (of the other frame) seen through `flow`; both flow and cv2.remap count from pixel centres."""
    at = grid(*flow.shape[:2]) + flow
    return cv2.remap(image.astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR)


@pytest.mark.parametrize("name", ["clip", "distorted_clip"])
def test_warping_by_exact_flow_reproduces_the_frame(name: str, request: pytest.FixtureRequest) -> None:
    clip = request.getfixturevalue(name)
    for i, j in [(0, 1), (2, 0), (0, 5)]:
        flow, visible = clip.flow(i, j)
        error = np.abs(warped(clip.rgb[j], flow) - clip.rgb[i]).mean(-1)[visible]
        unmoved = np.abs(clip.rgb[j].astype(float) - clip.rgb[i]).mean(-1)[visible]
        assert visible.mean() > 0.6
        assert error.mean() < 4
        assert error.mean() < 0.4 * unmoved.mean()


def test_half_a_pixel_of_wrong_flow_is_noticed(clip: SyntheticClip) -> None:
    flow, visible = clip.flow(0, 1)
    right = np.abs(warped(clip.rgb[1], flow) - clip.rgb[0])[visible].mean()
    for shift in [(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)]:
        assert np.abs(warped(clip.rgb[1], flow + np.float32(shift)) - clip.rgb[0])[visible].mean() > 1.3 * right


def test_flow_of_no_motion_is_zero_and_sees_all_but_depth_edges(clip: SyntheticClip) -> None:
    flow, visible = exact_flow(clip.depth[0], clip.depth[0], clip.camera, np.eye(4))
    assert np.abs(flow).max() < 1e-4
    assert visible.mean() > 0.99


@pytest.mark.parametrize("name", ["clip", "distorted_clip"])
def test_forward_and_backward_flow_agree_where_visible(name: str, request: pytest.FixtureRequest) -> None:
    clip = request.getfixturevalue(name)
    forward, visible = clip.flow(0, 4)
    backward, _ = clip.flow(4, 0)
    closed = np.linalg.norm(forward + warped(backward, forward), axis=-1)[visible]
    assert np.percentile(closed, 95) < 0.05
    assert np.median(closed) < 0.005


def test_flow_follows_world_points(clip: SyntheticClip) -> None:
    """The definition, point by point: out of camera i at its depth, into camera j."""
    flow, _ = clip.flow(1, 6)
    for row, column in [(10, 20), (45, 80), (80, 150)]:
        pixel = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64)
        point_i = clip.camera.unproject(pixel).numpy() * clip.depth[1, row, column]
        world = clip.c2w[1, :3, :3] @ point_i + clip.c2w[1, :3, 3]
        point_j = clip.c2w[6, :3, :3].T @ (world - clip.c2w[6, :3, 3])
        expected = clip.camera.project(torch.from_numpy(point_j)) - pixel
        np.testing.assert_allclose(flow[row, column], expected.numpy(), atol=1e-3)


def test_hidden_points_are_not_visible(clip: SyntheticClip) -> None:
    """Another view's depth at a visible point is the point's own depth; behind an object it is smaller."""
    flow, visible = clip.flow(0, 7)
    inside = ((grid(HEIGHT, WIDTH) + flow) > 0).all(-1) & ((grid(HEIGHT, WIDTH) + flow) < [WIDTH - 1, HEIGHT - 1]).all(
        -1
    )
    hidden = inside & ~visible
    assert hidden.any()
    at = np.round(grid(HEIGHT, WIDTH) + flow).astype(int)
    there = clip.depth[7][at[..., 1].clip(0, HEIGHT - 1), at[..., 0].clip(0, WIDTH - 1)]
    rays = np.concatenate([PixelRays.of(clip.camera).xy, np.ones((1, HEIGHT, WIDTH))])
    T = np.linalg.inv(clip.c2w[7]) @ clip.c2w[0]
    depth = np.einsum("j,jhw->hw", T[2, :3], rays * clip.depth[0]) + T[2, 3]
    assert np.median(np.abs(there / depth - 1)[visible]) < 0.002
    assert (there < 0.95 * depth)[hidden].mean() > 0.3


def test_distortion_moves_the_picture_as_the_camera_says() -> None:
    """A distorted frame is the undistorted one resampled through the lens model."""
    scene = build_scene(5, texture_size=128)
    pose = make_clip("orbit", 5, frames=1, width=64, height=36).c2w[0]
    plain = Camera.from_focal(3 * WIDTH, 3 * HEIGHT, 225.0)
    wide, depth = render(scene, plain, pose)
    bent, bent_depth = render(scene, DISTORTED, pose)
    pixels = torch.from_numpy(grid(HEIGHT, WIDTH).astype(np.float64) + 0.5)
    at = (plain.project(DISTORTED.unproject(pixels)).numpy() - 0.5).astype(np.float32)
    assert at.min() > 0
    expected = cv2.remap(cv2.GaussianBlur(wide, (0, 0), 0.9), at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    assert np.abs(expected.astype(float) - bent).mean() < 5
    expected_depth = cv2.remap(depth, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    assert np.percentile(np.abs(expected_depth / bent_depth - 1), 80) < 1e-3


def test_the_same_seed_gives_the_same_clip_and_another_seed_another() -> None:
    first, again, other = (make_clip("orbit", seed, frames=2, width=64, height=36) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.c2w, again.c2w)
    assert np.abs(first.rgb.astype(float) - other.rgb).mean() > 10


def test_a_larger_picture_shows_the_same_scene() -> None:
    """Size changes the sampling, not the world: depth and colour agree after shrinking."""
    small = make_clip("orbit", 2, frames=1, width=96, height=54)
    large = make_clip("orbit", 2, frames=1, width=240, height=135)
    shrunk = cv2.resize(large.rgb[0], (96, 54), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - small.rgb[0]).mean() < 6
    near = cv2.resize(large.depth[0], (96, 54), interpolation=cv2.INTER_AREA)
    assert np.percentile(np.abs(near / small.depth[0] - 1), 75) < 5e-3


def test_pictures_are_textured_unevenly_and_well_exposed(clip: SyntheticClip) -> None:
    """Enough for flow nearly everywhere, with much weaker places, as in reality."""
    grey = clip.rgb[0].mean(-1)
    contrast = np.sqrt(np.maximum(cv2.blur(grey**2, (7, 7)) - cv2.blur(grey, (7, 7)) ** 2, 0))
    assert np.percentile(contrast, 5) > 1.5
    assert np.percentile(contrast, 95) > 4 * np.percentile(contrast, 5)
    assert 60 < grey.mean() < 190
    assert (clip.rgb == 255).mean() < 0.05


@pytest.mark.parametrize(
    "maker", sorted({*textures.FLOORS, *textures.WALLS, *textures.OBJECTS}, key=lambda m: m.__name__)
)
def test_textures_repeat_without_a_seam(maker: Callable[[np.random.Generator, int], np.ndarray]) -> None:
    """Across the border neighbours differ no more than elsewhere in the tile."""
    tile = maker(np.random.default_rng(1), 128)
    for axis in (0, 1):
        step = np.abs(np.diff(tile, axis=axis, append=tile.take([0], axis=axis))).mean(axis=(1 - axis, 2))
        assert step[-1] <= 1.15 * step[:-1].max()


def test_depth_alone_is_the_depth_of_the_picture(clip: SyntheticClip) -> None:
    scene = build_scene(3, texture_size=128)
    np.testing.assert_array_equal(render_depth(scene, clip.camera, clip.c2w[0]), clip.depth[0])


SOLIDS: list[Solid] = [
    Box(np.array([0.3, -0.2, 1.0]), np.array([0.5, 0.8, 1.0]), 0.7),
    Sphere(np.array([-0.4, 0.5, 0.9]), np.full(3, 0.9)),
    Cylinder(np.array([0.1, 0.2, 0.8]), np.array([0.6, 0.6, 0.8])),
    Room(np.array([0.0, 0.0, 2.0]), np.array([4.0, 5.0, 2.0])),
]


@pytest.mark.parametrize("solid", SOLIDS, ids=lambda solid: type(solid).__name__)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_rays_hit_solids_at_their_surface_and_nothing_lies_before_it(solid: Solid, seed: int) -> None:
    rng = np.random.default_rng(seed)
    origin = np.array([*rng.uniform(2.0, 3.5, 2) * rng.choice([-1, 1], 2), rng.uniform(0.3, 3.5)])
    directions = (solid.centre + rng.normal(scale=0.7, size=(40, 3)) - origin).T
    depth = solid.hit(origin, directions)
    hits = np.isfinite(depth)
    points = origin[:, None] + depth[hits] * directions[:, hits]
    np.testing.assert_allclose(solid.distance(points), 0, atol=1e-7)
    for part in (0.2, 0.6, 0.95):
        assert (solid.distance(origin[:, None] + part * depth[hits] * directions[:, hits]) > 0).all()
    along = np.linspace(0, 3, 200)
    for column in np.flatnonzero(~hits)[:5]:
        assert solid.distance(origin[:, None] + along * directions[:, column : column + 1]).min() > -1e-9
    face, normal, _ = solid.surface(solid.local(points))
    assert ((face >= 0) & (face < 6)).all()
    np.testing.assert_allclose(np.linalg.norm(normal, axis=0), 1, atol=1e-6)
    assert (np.einsum("in,in->n", solid.turned_back(normal), directions[:, hits]) < 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_screen_extent_of_a_sphere_holds_all_its_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre, radius = rng.normal(scale=2, size=3), rng.uniform(0.1, 1.5)
    directions = rng.normal(size=(500, 3))
    points = centre + radius * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    points = points[points[:, 2] > 1e-3]
    seen = np.abs(points[:, :2]).max(axis=-1) < 5 * points[:, 2]
    extent = sphere_extent(centre, radius)
    if extent is None:
        assert not seen.any()
    else:
        ratio = points[seen, :2] / points[seen, 2:]
        assert (ratio >= extent[0] - 1e-9).all()
        assert (ratio <= extent[1] + 1e-9).all()


def test_cameras_differ_by_seed_and_scale_with_the_picture() -> None:
    focals = {random_camera(seed, 480, 270).fx for seed in range(5)}
    assert len(focals) == 5
    assert random_camera(1, 960, 540).fx == pytest.approx(2 * random_camera(1, 480, 270).fx)


@pytest.mark.parametrize(("kind", "size"), [("castle", 128), ("room", 100)])
def test_an_unknown_scene_or_size_is_told_in_one_line(kind: str, size: int) -> None:
    with pytest.raises(FlowCamError, match="choose"):
        build_scene(0, kind, size)
