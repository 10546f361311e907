"""The nerfstudio model over a known scene: views, checkpoints, and what no frame may lend itself."""

from __future__ import annotations

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox

from flowcam_ns.data.frame_source import SharedFrames
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.se3 import opencv_to_opengl
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.flowcam_model import FlowCamModel, FlowCamModelConfig
from flowcam_ns.model.image_scores import nearest_frame_copy
from flowcam_ns.model.view_outputs import induced_flow, normals_from_depth_map, pose_of_rays
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

COUNT, WIDTH, HEIGHT = 10, 96, 64
HELD_OUT = [3, 6]
OUTPUTS = {
    "rgb": 3,
    "depth": 1,
    "trusted_depth": 1,
    "accumulation": 1,
    "confidence": 1,
    "contexts": 3,
    "flow": 3,
    "normals": 3,
}


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


def new_model(
    clip: SyntheticClip, shared: SharedFrames | None = None, view: tuple[int, int] = (WIDTH, HEIGHT)
) -> FlowCamModel:
    metadata = {
        "frames": shared or SharedFrames(clip.to_frames()),
        "frame_count": COUNT,
        "held_out": HELD_OUT,
        "render_size": view,
    }
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    config = FlowCamModelConfig(eval_num_rays_per_chunk=WIDTH * 20)
    return FlowCamModel(config, scene_box=box, num_train_data=COUNT, metadata=metadata, device="cpu").eval()


@pytest.fixture(scope="module")
def model(clip: SyntheticClip) -> FlowCamModel:
    model = new_model(clip)
    cameras = EstimatedCameras(torch.from_numpy(clip.c2w), clip.camera, torch.ones(COUNT, dtype=torch.bool))
    inverse_depth = 1 / torch.from_numpy(clip.depth)
    model.adopt(cameras, inverse_depth, torch.ones_like(inverse_depth))
    return model


def camera_of(clip: SyntheticClip, frame: int, named: bool) -> Cameras:
    lens = clip.camera
    return Cameras(
        camera_to_worlds=opencv_to_opengl(torch.from_numpy(clip.c2w[frame : frame + 1, :3])).float(),
        fx=torch.tensor([[lens.fx]]), fy=torch.tensor([[lens.fy]]),
        cx=torch.tensor([[lens.cx]]), cy=torch.tensor([[lens.cy]]),
        width=torch.tensor([[WIDTH]]), height=torch.tensor([[HEIGHT]]),
        camera_type=torch.tensor([[CameraType.PERSPECTIVE.value]]),
        metadata={"frame_index": torch.tensor([[frame]])} if named else None,
    )  # fmt: skip


def test_before_poses_are_known_every_output_is_there_and_blank(clip: SyntheticClip) -> None:
    outputs = new_model(clip).get_outputs_for_camera(camera_of(clip, 3, named=True))
    assert {name: value.shape[-1] for name, value in outputs.items()} == OUTPUTS
    assert float(outputs["rgb"].std()) == 0


def test_a_held_out_frame_is_rendered_from_the_others(clip: SyntheticClip, model: FlowCamModel) -> None:
    outputs = model.get_outputs_for_camera(camera_of(clip, 3, named=True))
    assert {name: value.shape for name, value in outputs.items()} == {
        name: (HEIGHT, WIDTH, channels) for name, channels in OUTPUTS.items()
    }
    truth = torch.from_numpy(clip.rgb[3]).float() / 255
    scores, images = model.get_image_metrics_and_images(outputs, {"image": truth, "frame_index": torch.tensor(3)})
    assert scores["psnr"] > scores["nearest_psnr"] + 3
    assert all(image.shape[-1] == 3 for image in images.values())
    rays = torch.nn.functional.normalize(clip_rays(clip), dim=-1)
    depth = torch.from_numpy(clip.depth[3]) / rays[..., 2]
    error = (outputs["depth"][..., 0] / depth - 1).abs()
    assert float(error.median()) < 0.04


def test_speed_is_that_of_views_that_are_not_tiny(clip: SyntheticClip, model: FlowCamModel) -> None:
    camera = camera_of(clip, 3, named=False)
    model.view_speed = None
    camera.width[:], camera.height[:] = 32, 20
    model.get_outputs_for_camera(camera)
    assert model.view_speed is None
    model.get_outputs_for_camera(camera_of(clip, 3, named=False))
    assert model.view_speed is not None
    assert model.view_speed > 0


@pytest.mark.parametrize("kind", ["EQUIRECTANGULAR", "VR180_L", "OMNIDIRECTIONALSTEREO_R", "ORTHOPHOTO"])
def test_views_that_cannot_be_rendered_end_a_command_and_are_grey_in_a_viewer(
    kind: str, clip: SyntheticClip, model: FlowCamModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """nerfstudio's viewer renders in threads that end with the first error."""
    camera = camera_of(clip, 3, named=False)
    camera.camera_type[:] = CameraType[kind].value
    with pytest.raises(SystemExit) as end:
        model.get_outputs_for_camera(camera)
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "perspective" in line
    with ThreadPoolExecutor(1) as viewer:
        shown = viewer.submit(model.get_outputs_for_camera, camera).result()
    assert {name: value.shape[-1] for name, value in shown.items()} == OUTPUTS
    assert float(shown["rgb"].std()) == 0
    assert "cannot be rendered" in capsys.readouterr().out


def test_a_fisheye_shows_the_middle_as_a_pinhole_does(clip: SyntheticClip, model: FlowCamModel) -> None:
    camera = camera_of(clip, 3, named=False)
    straight = model.get_outputs_for_camera(camera)["rgb"]
    camera.camera_type[:] = CameraType.FISHEYE.value
    bent = model.get_outputs_for_camera(camera)["rgb"]
    middle = slice(HEIGHT // 2 - 4, HEIGHT // 2 + 4), slice(WIDTH // 2 - 4, WIDTH // 2 + 4)
    assert float((straight - bent)[middle].abs().mean()) < 0.05
    assert float((straight - bent).abs().mean()) > 0.01


def test_masked_pixels_lower_no_score(clip: SyntheticClip, model: FlowCamModel) -> None:
    truth = torch.from_numpy(clip.rgb[3]).float() / 255
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[20:40, 30:60] = False
    spoiled = torch.where(mask, truth, 1 - truth)
    outputs = {name: torch.zeros(HEIGHT, WIDTH, channels) for name, channels in OUTPUTS.items()} | {"rgb": truth}
    batch = {"image": spoiled, "frame_index": torch.tensor(3), "mask": mask}
    scores, images = model.get_image_metrics_and_images(outputs, batch)
    assert scores["psnr"] == pytest.approx(100)
    assert scores["ssim"] == pytest.approx(1)
    assert float(model.get_metrics_dict(outputs, batch)["psnr"]) == pytest.approx(100)
    copy = nearest_frame_copy(model.field.scene, 3)  # type: ignore[arg-type]
    expected = model.scores(torch.where(mask, copy, spoiled), spoiled)
    assert scores["nearest_psnr"] == pytest.approx(expected["psnr"])
    assert torch.equal(images["img"][:, WIDTH:], truth), "the picture shows what was rendered"


def clip_rays(clip: SyntheticClip, lens: Camera | None = None) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return (lens or clip.camera).unproject(torch.stack([x, y], dim=-1) + 0.5)


def test_bands_leave_no_seams(clip: SyntheticClip, model: FlowCamModel) -> None:
    camera = camera_of(clip, 6, named=False)
    banded = model.get_outputs_for_camera(camera)
    whole_config, model.config = model.config, dataclasses.replace(model.config, eval_num_rays_per_chunk=10**6)
    whole = model.get_outputs_for_camera(camera)
    model.config = whole_config
    for name in OUTPUTS:
        assert torch.allclose(banded[name], whole[name], atol=1e-4), name


def test_views_smaller_than_the_frames_are_blended_from_the_frames_themselves(clip: SyntheticClip) -> None:
    """In bands as well as whole; the copy that they are compared with has their size."""
    shared = SharedFrames(clip.to_frames())
    view = WIDTH // 2, HEIGHT // 2
    model = new_model(clip, shared, view)
    cameras = EstimatedCameras(torch.from_numpy(clip.c2w), clip.camera, torch.ones(COUNT, dtype=torch.bool))
    inverse_depth = 1 / torch.from_numpy(clip.depth)
    model.adopt(cameras, inverse_depth, torch.ones_like(inverse_depth))
    scene = model.field.scene
    assert scene is not None
    assert scene.images.data_ptr() == shared.frames.images.ctypes.data
    assert scene.camera == clip.camera
    camera = camera_of(clip, 3, named=True)
    camera.rescale_output_resolution(0.5)
    outputs = model.get_outputs_for_camera(camera)
    model.config = dataclasses.replace(model.config, eval_num_rays_per_chunk=view[0] * 6)
    banded = model.get_outputs_for_camera(camera)
    assert torch.allclose(banded["rgb"], outputs["rgb"], atol=1e-4)
    truth = torch.from_numpy(shared.images(*view)[3]).float() / 255
    scores, _ = model.get_image_metrics_and_images(outputs, {"image": truth, "frame_index": torch.tensor(3)})
    nearest = torch.from_numpy(shared.images(*view)[2]).float() / 255
    assert scores["nearest_psnr"] == pytest.approx(model.scores(nearest, truth)["psnr"])


@pytest.mark.parametrize(("scale", "size"), [(0.5, (24, 16)), (1.0, (48, 32)), (3.0, (WIDTH, HEIGHT))])
def test_the_frames_size_is_bounded(clip: SyntheticClip, scale: float, size: tuple[int, int]) -> None:
    model = new_model(clip, view=(48, 32))
    model.config.blend.context_scale = scale
    cameras = EstimatedCameras(torch.from_numpy(clip.c2w), clip.camera, torch.ones(COUNT, dtype=torch.bool))
    model.adopt(cameras, 1 / torch.from_numpy(clip.depth), torch.ones(clip.depth.shape))
    scene = model.field.scene
    assert scene is not None
    assert (scene.camera.width, scene.camera.height) == size
    assert scene.images.shape[1:3] == size[::-1]


@pytest.mark.parametrize("even_exposure", [False, True])
def test_a_training_frame_never_lends_itself_colour(clip: SyntheticClip, even_exposure: bool) -> None:
    """With its own picture painted over, a frame's rendering stays the same, but for how bright it is altogether."""
    painted = dataclasses.replace(clip, rgb=clip.rgb.copy())
    painted.rgb[5] = 255
    renders = []
    for source in (clip, painted):
        model = new_model(source)
        model.field.config.even_exposure = even_exposure
        cameras = EstimatedCameras(torch.from_numpy(clip.c2w), clip.camera, torch.ones(COUNT, dtype=torch.bool))
        inverse_depth = 1 / torch.from_numpy(clip.depth)
        model.adopt(cameras, inverse_depth, torch.ones_like(inverse_depth))
        renders.append(model.get_outputs_for_camera(camera_of(clip, 5, named=True))["rgb"])
    if not even_exposure:
        assert torch.equal(*renders)
    ratio = (renders[0].clamp(min=0.01) / renders[1].clamp(min=0.01)).log()
    ratio = ratio[(renders[0] > 0.1).all(-1) & (renders[0] < 0.7).all(-1)]
    assert (ratio - ratio.mean(0)).abs().max() < 0.01


def test_what_is_foreign_to_the_scene_goes_into_no_view_and_is_kept(clip: SyntheticClip) -> None:
    """A green plate over a part of every other frame, marked where it lies at half the size."""
    plate = slice(16, 40), slice(30, 60)
    painted = dataclasses.replace(clip, rgb=clip.rgb.copy())
    painted.rgb[:, plate[0], plate[1]] = (0, 255, 0)
    foreign = torch.zeros(COUNT, HEIGHT // 2, WIDTH // 2, dtype=torch.bool)
    foreign[1::2, 8:20, 15:30] = True
    painted.rgb[::2] = clip.rgb[::2]
    cameras = EstimatedCameras(torch.from_numpy(clip.c2w), clip.camera, torch.ones(COUNT, dtype=torch.bool))
    inverse_depth = 1 / torch.from_numpy(clip.depth)
    spoiled, model, restored = (new_model(painted) for _ in range(3))
    spoiled.adopt(cameras, inverse_depth, torch.ones_like(inverse_depth))
    model.adopt(cameras, inverse_depth, torch.ones_like(inverse_depth), foreign=foreign)
    restored.load_state_dict(model.state_dict())
    restored.rebuild_scene()
    error = {}
    for name, each in (("spoiled", spoiled), ("masked", model), ("restored", restored)):
        rgb = each.get_outputs_for_camera(camera_of(clip, 4, named=True))["rgb"]
        error[name] = float((rgb - torch.from_numpy(clip.rgb[4]) / 255).square()[plate].mean())
    assert error["masked"] < 0.2 * error["spoiled"]
    assert error["restored"] == error["masked"]


def test_nearest_copy_is_a_neighbour_that_may_be_used(clip: SyntheticClip, model: FlowCamModel) -> None:
    scene = model.field.scene
    assert scene is not None
    assert torch.equal(nearest_frame_copy(scene, 3), torch.from_numpy(clip.rgb[2]).float() / 255)
    assert torch.equal(nearest_frame_copy(scene, 5), torch.from_numpy(clip.rgb[4]).float() / 255)


def test_checkpoint_brings_back_the_same_view(clip: SyntheticClip, model: FlowCamModel) -> None:
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    restored = new_model(clip)
    assert not restored.camera_optimizer.is_solved
    restored.load_state_dict(torch.load(stored, weights_only=True))
    assert restored.camera_optimizer.is_solved
    restored.rebuild_scene()
    camera = camera_of(clip, 3, named=True)
    first, second = (m.get_outputs_for_camera(camera)["rgb"] for m in (model, restored))
    assert torch.equal(first, second)
    assert restored.camera_optimizer.cameras().camera == clip.camera


def test_camera_optimizer_leaves_baked_cameras_alone(clip: SyntheticClip, model: FlowCamModel) -> None:
    optimizer = model.camera_optimizer
    assert torch.equal(optimizer(torch.tensor([0, 5])), torch.eye(4)[:3].repeat(2, 1, 1))
    camera = camera_of(clip, 2, named=True)
    assert torch.equal(optimizer.apply_to_camera(camera), camera.camera_to_worlds)


def test_pose_of_rays_is_the_camera_that_cast_them(clip: SyntheticClip) -> None:
    pose = torch.from_numpy(clip.c2w[4])
    directions = torch.nn.functional.normalize(clip_rays(clip).double(), dim=-1) @ pose[:3, :3].T
    found = pose_of_rays(pose[:3, 3].expand_as(directions), directions)
    assert torch.allclose(found, pose, atol=0.02)


def test_induced_flow_is_the_true_flow(clip: SyntheticClip) -> None:
    here, there = torch.from_numpy(clip.c2w[2]), torch.from_numpy(clip.c2w[4])
    points = clip_rays(clip).double() * torch.from_numpy(clip.depth[2])[..., None]
    world = (points @ here[:3, :3].T + here[:3, 3]).reshape(-1, 3)
    flow = induced_flow(world, here, there, clip.camera).reshape(HEIGHT, WIDTH, 2)
    truth, _ = clip.flow(2, 4)
    assert np.abs(flow.numpy() - truth).max() < 0.01
    behind = here[:3, 3] - here[:3, 2]
    assert torch.equal(induced_flow(behind[None], here, there, clip.camera), torch.zeros(1, 2, dtype=torch.float64))


@pytest.mark.parametrize("k1", [0.0, -0.15])
def test_normals_of_a_plane(k1: float, clip: SyntheticClip) -> None:
    """Depths of the plane n x = d in the camera's frame give n, turned towards the camera and into the world."""
    normal = torch.nn.functional.normalize(torch.tensor([0.3, -0.4, -1.0]), dim=0)
    lens = dataclasses.replace(clip.camera, k1=k1)
    rays = clip_rays(clip, lens).float()
    depth = -2.0 / (rays @ normal)
    c2w = torch.from_numpy(clip.c2w[1]).float()
    points = ((rays * depth[..., None])[8:-8, 8:-8].reshape(-1, 3)) @ c2w[:3, :3].T + c2w[:3, 3]
    found = normals_from_depth_map(points, 1 / depth, c2w, lens, rays)
    assert torch.allclose(found, (c2w[:3, :3] @ normal).expand_as(found), atol=2e-3)


def test_rays_between_pixels_are_those_of_the_lens(clip: SyntheticClip) -> None:
    """Normals read them from a map; the picture is that of the inverted lens."""
    lens = dataclasses.replace(clip.camera, k1=-0.15, k2=0.03, p1=0.002)
    c2w, inverse = torch.from_numpy(clip.c2w[1]).float(), 1 / torch.from_numpy(clip.depth[1])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(500, 2, generator=generator) * torch.tensor([WIDTH - 3.0, HEIGHT - 3.0]) + 1
    points = lens.unproject(pixels) * 2.0 @ c2w[:3, :3].T + c2w[:3, 3]
    found = normals_from_depth_map(points, inverse, c2w, lens, clip_rays(clip, lens).float())
    corners = pixels[None] + torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None]
    grid = corners / torch.tensor([WIDTH, HEIGHT]) * 2 - 1
    depth = 1 / torch.nn.functional.grid_sample(inverse[None, None], grid[None], align_corners=False)[0, 0]
    surface = lens.unproject(corners) * depth[..., None]
    normal = torch.linalg.cross(surface[2] - surface[0], surface[1] - surface[0])
    expected = torch.nn.functional.normalize(normal, dim=-1) @ c2w[:3, :3].T
    assert float((found - expected).norm(dim=-1).quantile(0.99)) < 0.01


def test_a_view_neither_inverts_the_lens_nor_grows_masks(clip: SyntheticClip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would be done for every ray, and are the same for all views."""
    frames = dataclasses.replace(clip.to_frames(), masks=np.ones((COUNT, HEIGHT, WIDTH), dtype=bool))
    model = new_model(clip, SharedFrames(frames))
    inverse_depth = 1 / torch.from_numpy(clip.depth)
    posed = torch.ones(COUNT, dtype=torch.bool)
    model.adopt(
        EstimatedCameras(torch.from_numpy(clip.c2w), clip.camera, posed), inverse_depth, torch.ones_like(inverse_depth)
    )

    pooled: list[tuple[int, ...]] = []
    pool = torch.nn.functional.max_pool2d

    def refuse(*_: object) -> None:
        raise AssertionError("not for a view")

    def watched(image: torch.Tensor, *how: Any, **more: Any) -> torch.Tensor:
        pooled.append(tuple(image.shape[-2:]))
        return pool(image, *how, **more)

    monkeypatch.setattr(type(clip.camera), "unproject", refuse)
    monkeypatch.setattr(torch.nn.functional, "max_pool2d", watched)
    assert model.get_outputs_for_camera(camera_of(clip, 3, named=True))["rgb"].std() > 0.05
    assert (HEIGHT, WIDTH) not in pooled


def test_exports_leave_out_what_no_frame_vouches_for(clip: SyntheticClip, model: FlowCamModel) -> None:
    """nerfstudio exports the points whose alpha is over 0.5."""
    outputs = model.get_outputs_for_camera(camera_of(clip, 3, named=True))
    kept = model.get_rgba_image(outputs)[..., 3] > 0.5
    assert kept.float().mean() > 0.7
    assert outputs["confidence"][..., 0][kept].min() >= 0.25
    nowhere = {**outputs, "confidence": torch.zeros_like(outputs["confidence"])}
    assert not (model.get_rgba_image(nowhere)[..., 3] > 0.5).any()
