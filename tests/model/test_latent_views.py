"""Views by the network's own field through known cameras: what lends, what may not, and in which unit."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from flowcam_ns.data.frame_source import SharedFrames
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.se3 import opencv_to_opengl
from flowcam_ns.model.blend_field import BlendField
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.clip_training import NetworkVideo
from flowcam_ns.model.flowcam_model import FlowCamModel, FlowCamModelConfig
from flowcam_ns.model.joint_refinement import JointRefinement, Refined
from flowcam_ns.model.latent_views import LatentViews
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.network_stage import NetworkStageConfig
from flowcam_ns.model.view import View
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

COUNT, WIDTH, HEIGHT = 10, 96, 64
HELD_OUT = [3, 6]
START = 1
"""The network's video begins with this frame of the clip, as where the first one has no pose."""
PUBLISHED_GRID = replace(small_config(), authors_conventions=True)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


def as_video(clip: SyntheticClip) -> NetworkVideo:
    later = range(START + 1, COUNT)
    flow = np.stack([clip.flow(t, t - 1)[0] for t in later]) / (WIDTH, HEIGHT)
    return NetworkVideo(
        frames=torch.from_numpy(clip.rgb[START:]).permute(0, 3, 1, 2).float() / 127.5 - 1,
        backward_flow=torch.from_numpy(flow).permute(0, 3, 1, 2).float(),
        intrinsics=clip.camera.matrix(torch.float32) / torch.tensor([[WIDTH], [HEIGHT], [1]]),
    )


def new_model(clip: SyntheticClip, layers: NetworkConfig, world_unit: float = 1.0) -> FlowCamModel:
    """A model that knows the clip's cameras and depths, in a world whose positions are multiplied by `world_unit`."""
    torch.manual_seed(0)
    config = FlowCamModelConfig(
        views="latent", network=NetworkStageConfig(layers=layers), eval_num_rays_per_chunk=WIDTH * 20
    )
    metadata = {
        "frames": SharedFrames(clip.to_frames()),
        "frame_count": COUNT,
        "held_out": HELD_OUT,
        "render_size": (WIDTH, HEIGHT),
    }
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    model = FlowCamModel(config, scene_box=box, num_train_data=COUNT, metadata=metadata, device="cpu").eval()
    c2w = torch.from_numpy(clip.c2w).clone()
    c2w[:, :3, 3] *= world_unit
    cameras = EstimatedCameras(c2w, clip.camera, torch.ones(COUNT, dtype=torch.bool))
    inverse_depth = 1 / torch.from_numpy(clip.depth) / world_unit
    model.adopt(cameras, inverse_depth, torch.ones_like(inverse_depth))
    assert model.network is not None
    model.network.teach(as_video(clip), c2w[START:], inverse_depth, START)
    return model


def views_of(model: FlowCamModel) -> LatentViews:
    assert isinstance(model.views, LatentViews)
    return model.views


def rendered(model: FlowCamModel, frame: int, known: bool = True) -> dict[str, Tensor]:
    """The view of a frame's camera; `known`: it is said to be that frame's."""
    assert model.field.scene is not None
    lens, c2w = model.field.scene.camera.scaled_to(WIDTH, HEIGHT), model.field.scene.c2w[frame : frame + 1, :3]
    return model.get_outputs_for_camera(
        Cameras(
            camera_to_worlds=opencv_to_opengl(c2w).float(),
            fx=torch.tensor([[lens.fx]]), fy=torch.tensor([[lens.fy]]),
            cx=torch.tensor([[lens.cx]]), cy=torch.tensor([[lens.cy]]),
            width=torch.tensor([[WIDTH]]), height=torch.tensor([[HEIGHT]]),
            camera_type=torch.tensor([[CameraType.PERSPECTIVE.value]]),
            metadata={"frame_index": torch.tensor([[frame]])} if known else None,
        )
    )  # fmt: skip


@pytest.mark.parametrize("layers", [small_config(), PUBLISHED_GRID])
def test_a_frame_looks_as_the_network_itself_rerenders_it(clip: SyntheticClip, layers: NetworkConfig) -> None:
    model = new_model(clip, layers)
    views, frame = views_of(model), 5
    contexts, _ = views.contexts_of(View(model.camera_optimizer.c2w[frame].float(), frame))
    assert sorted(contexts.tolist()) == [4, 7]  # 6 is held out
    taught = views.stage.taught()
    whole = taught.video.clip(0, COUNT - START)
    with torch.no_grad():
        features = views.stage.network.encode(whole)
        uv = views.stage.network.pixel_coordinates(torch.arange(WIDTH * HEIGHT), (HEIGHT, WIDTH), features)
        if layers.authors_conventions:  # nerfstudio's rays pass through the middle of a pixel
            uv = uv + 0.5 / torch.tensor([WIDTH, HEIGHT])
        expected = views.stage.network.renderer.render_from_context(
            features, taught.c2w[None].float(), whole.intrinsics, torch.tensor([frame - START]),
            (contexts - START)[None], uv[None, None],
        )  # fmt: skip
    outputs = rendered(model, frame)
    assert torch.allclose(outputs["rgb"].reshape(-1, 3), expected.rgb[0, 0], atol=1e-4)
    assert torch.allclose(outputs["depth"].reshape(-1) * taught.scale, expected.depth[0, 0, :, 0], rtol=1e-3)


def test_nothing_of_held_out_frames_or_of_the_frame_itself_shows(clip: SyntheticClip) -> None:
    model = new_model(clip, small_config())
    before = rendered(model, 5)["rgb"]
    video = views_of(model).stage.taught().video
    for frame in (*HELD_OUT, 5):
        video.frames[frame - START] = 1.0
    assert torch.equal(rendered(model, 5)["rgb"], before)
    video.frames[4 - START] = 1.0
    assert not torch.allclose(rendered(model, 5)["rgb"], before, atol=1e-3)


def test_views_and_teacher_follow_refined_cameras(clip: SyntheticClip) -> None:
    c2w = torch.from_numpy(clip.c2w) @ se3.exp(0.02 * torch.randn(COUNT, 6, dtype=torch.float64))
    lens = replace(clip.camera, fx=1.1 * clip.camera.fx, fy=1.1 * clip.camera.fy)
    cameras = EstimatedCameras(c2w, lens, torch.ones(COUNT, dtype=torch.bool))

    class Refinement:
        """A step that finds these."""

        def step(self, field: BlendField) -> Refined:
            field.move_cameras(cameras.c2w, cameras.camera)
            return Refined(cameras, taken=True, before=1.0, after=0.5)

    model, anew = new_model(clip, small_config()), new_model(clip, small_config())
    model.config.refinement = replace(model.config.refinement, steps=(5,))
    model.refinement = cast(JointRefinement, Refinement())
    model.refine_cameras(5)
    inverse_depth = 1 / torch.from_numpy(clip.depth)
    anew.adopt(cameras, inverse_depth, torch.ones_like(inverse_depth))
    assert anew.network is not None
    K = lens.matrix(torch.float32) / torch.tensor([[WIDTH], [HEIGHT], [1]])
    anew.network.teach(replace(as_video(clip), intrinsics=K), c2w[START:], inverse_depth, START)
    assert torch.allclose(rendered(model, 5)["rgb"], rendered(anew, 5)["rgb"], atol=1e-5)
    assert torch.allclose(views_of(model).stage.taught().c2w, anew.network.taught().c2w)


def test_frames_that_the_network_does_not_see_lend_nothing(clip: SyntheticClip) -> None:
    model = new_model(clip, small_config())
    views = views_of(model)
    pose = model.camera_optimizer.c2w[0].float()
    assert 0 not in views.contexts_of(View(pose))[0].tolist()
    assert model.field.scene is not None
    model.field.scene = replace(model.field.scene, usable=torch.arange(COUNT) == 0)
    with pytest.raises(FlowCamError, match="at least one frame"):
        views.contexts_of(View(pose))


def test_the_worlds_unit_changes_depths_alone(clip: SyntheticClip) -> None:
    one, three = (rendered(new_model(clip, small_config(), unit), 5, known=False) for unit in (1.0, 3.0))
    assert torch.allclose(one["rgb"], three["rgb"], atol=1e-4)
    assert torch.allclose(3 * one["depth"], three["depth"], rtol=1e-3)


def test_confidence_and_contexts_tell_which_frames_hold_the_surface(clip: SyntheticClip) -> None:
    outputs = rendered(new_model(clip, small_config()), 5)
    confidence = outputs["confidence"][..., 0]
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert confidence[HEIGHT // 2, WIDTH // 2] == 1
    assert set(outputs) >= {"rgb", "depth", "trusted_depth", "accumulation", "contexts", "flow", "normals"}
    assert bool(((outputs["contexts"].sum(-1) > 0) == (confidence > 0)).all())


def test_training_reaches_all_that_renders_and_nothing_else(clip: SyntheticClip) -> None:
    model = new_model(clip, small_config()).train()
    assert set(model.get_param_groups()) == {"network"}
    views = views_of(model)
    view = View(model.camera_optimizer.c2w[5].float(), 5)
    directions = torch.nn.functional.normalize(model.field.depth_rays[::4, ::4], dim=-1) @ view.pose[:3, :3].T
    truth = torch.from_numpy(clip.rgb[5, ::4, ::4]).float() / 255
    optimizer = torch.optim.Adam(model.get_param_groups()["network"], lr=2e-3)
    losses = []
    for _ in range(30):
        plan = views.plan(directions, view, training=True)
        rgb = views.render(view.pose[:3, 3].expand_as(directions), directions, view, plan)["rgb"]
        loss = views.losses(rgb, truth)["rgb"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for p in views.stage.network.encoder.parameters())
    assert all(p.grad is not None for p in views.stage.network.field.parameters())
    assert all(p.grad is None for p in model.field.parameters())


def test_no_colour_of_a_held_out_frame_trains_the_network(clip: SyntheticClip) -> None:
    model = new_model(clip, small_config())
    assert model.network is not None
    losses, _ = model.network.step(with_colours=False)
    assert "network_rgb" not in losses
    assert float(losses["network_ctxt_rgb"].detach()) == 0
    assert float(losses["network_flow"].detach()) > 0
