"""Joint refinement: pictures pull poses to where they belong, flow holds and leads, and a step never makes it worse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowcam_ns.alignment.camera_information import CameraInformation
from flowcam_ns.alignment.lens import LENS_SIZE, lens_from_camera
from flowcam_ns.alignment.photometric import photometric_equations
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.model.blend_field import BlendField, BlendFieldConfig
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.joint_refinement import JointRefinement, JointRefinementConfig
from flowcam_ns.model.photometric_view import photometric_view
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

COUNT, HELD_OUT = 14, 4
TURNED = torch.deg2rad(torch.tensor(0.3, dtype=torch.float64))
"""About .7 px."""


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=2, frames=COUNT, width=192, height=108)


def errors_of(frames: int) -> Tensor:
    """Small turns of all frames but the first."""
    turn = torch.randn(frames, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turn[:, :3] = 0
    turn[0] = 0
    return turn / turn.norm(dim=1, keepdim=True).clamp(min=1) * TURNED


def field_at(clip: SyntheticClip, c2w: Tensor) -> BlendField:
    usable = torch.arange(COUNT) != HELD_OUT
    depth = 1 / torch.from_numpy(clip.depth)
    images = torch.from_numpy(clip.rgb)
    field = BlendField(BlendFieldConfig(refiner_width=0))
    field.set_scene(ContextScene(images, c2w, clip.camera, depth, torch.ones_like(depth), usable))
    return field


def loose(strength: float) -> CameraInformation:
    """Flow that says about as little of every frame by itself."""
    return CameraInformation(torch.arange(COUNT), strength * torch.eye(6 * COUNT + LENS_SIZE, dtype=torch.float64))


def chained(strength: float) -> CameraInformation:
    """Flow that knows how neighbours lie to each other, and nothing else."""
    matrix = loose(1e-6).matrix
    for i in range(COUNT - 1):
        a, b = slice(6 * i, 6 * i + 6), slice(6 * i + 6, 6 * i + 12)
        unit = strength * torch.eye(6, dtype=torch.float64)
        matrix[a, a] += unit
        matrix[b, b] += unit
        matrix[a, b] -= unit
        matrix[b, a] -= unit
    return CameraInformation(torch.arange(COUNT), matrix)


def cameras_at(clip: SyntheticClip, c2w: Tensor) -> EstimatedCameras:
    return EstimatedCameras(c2w, clip.camera, torch.ones(COUNT, dtype=torch.bool))


def turn_between(c2w: Tensor, truth: Tensor) -> Tensor:
    """Error of the turn from each frame to the next, degrees."""
    now, then = (poses[:-1, :3, :3].transpose(1, 2) @ poses[1:, :3, :3] for poses in (c2w, truth))
    return se3.rotation_angle_deg(now.transpose(1, 2) @ then)


def refinement(clip: SyntheticClip, c2w: Tensor, information: CameraInformation, **settings: float) -> JointRefinement:
    return JointRefinement(JointRefinementConfig(**{"stride": 2, **settings}), information, cameras_at(clip, c2w))


def test_pictures_pull_turned_cameras_back_and_leave_the_held_out_frame_alone(clip: SyntheticClip) -> None:
    truth = torch.from_numpy(clip.c2w).double()
    c2w = truth @ se3.exp(errors_of(COUNT))
    field = field_at(clip, c2w)
    joint = refinement(clip, c2w, loose(1e-3))
    first, second = joint.step(field), joint.step(field)
    assert first.taken
    assert first.after < first.before
    used = torch.arange(COUNT) != HELD_OUT
    wrong, right = turn_between(c2w[used], truth[used]), turn_between(second.cameras.c2w[used], truth[used])
    assert right.median() < 0.5 * wrong.median()
    # But for the free choice of world, which all frames share.
    moved = (second.cameras.c2w - c2w).flatten(1).norm(dim=1)
    assert moved[HELD_OUT] < 0.1 * moved[used].median()
    assert field.scene is not None
    assert torch.equal(field.scene.c2w, second.cameras.c2w)
    assert second.cameras.camera == clip.camera


def test_flow_leads_the_held_out_frame_after_its_neighbours(clip: SyntheticClip) -> None:
    truth = torch.from_numpy(clip.c2w).double()
    shifts = torch.zeros(COUNT, 6, dtype=torch.float64)
    shifts[HELD_OUT - 1 : HELD_OUT + 2, 4] = TURNED
    c2w = truth @ se3.exp(shifts)
    found = refinement(clip, c2w, chained(1e3)).step(field_at(clip, c2w))
    assert found.taken
    errors = se3.rotation_angle_deg(found.cameras.c2w[:, :3, :3].transpose(1, 2) @ truth[:, :3, :3])
    assert (errors[[HELD_OUT - 1, HELD_OUT, HELD_OUT + 1]] < 0.8 * torch.rad2deg(TURNED)).all()
    # Nothing but its neighbours says where it belongs: it turns as they do in the mean.
    assert errors[HELD_OUT] == pytest.approx(float(errors[[HELD_OUT - 1, HELD_OUT + 1]].mean()), abs=0.01)


def test_stiff_flow_hardly_gives_way(clip: SyntheticClip) -> None:
    c2w = torch.from_numpy(clip.c2w).double() @ se3.exp(errors_of(COUNT))
    stiff, stiffer = (
        refinement(clip, c2w, loose(strength)).step(field_at(clip, c2w)).cameras.c2w - c2w for strength in (1e6, 1e7)
    )
    assert float(stiff.norm()) > 0
    assert float(stiff.norm() / stiffer.norm()) == pytest.approx(10, rel=0.05)


def test_a_step_that_shows_the_other_frames_worse_is_not_taken(clip: SyntheticClip) -> None:
    truth = torch.from_numpy(clip.c2w).double()
    field = field_at(clip, truth)
    # Uphill: away from what the pictures say, by so little that flow's quadratic still decides the step's length.
    joint = refinement(clip, truth @ se3.exp(errors_of(COUNT)), loose(1e6), weight=-1.0)
    field.move_cameras(joint.cameras.c2w, clip.camera)
    result = joint.step(field)
    assert not result.taken
    assert result.after >= result.before
    assert result.cameras is joint.cameras
    assert field.scene is not None
    assert torch.equal(field.scene.c2w, joint.cameras.c2w)
    assert not joint.moved.any()


def test_another_exposure_is_no_reason_to_move(clip: SyntheticClip) -> None:
    truth = torch.from_numpy(clip.c2w).double()
    lens = lens_from_camera(clip.camera)
    view = photometric_view(field_at(clip, truth), 7, lens, 2)
    dimmed = replace(view, error=view.error + 0.2 * view.brightness + 0.1)
    plain, other = (photometric_equations(v, truth, lens) for v in (view, dimmed))
    strength = plain.gradient.norm()
    assert (plain.gradient - other.gradient).norm() < 0.05 * strength


def test_a_held_out_frame_is_never_compared(clip: SyntheticClip) -> None:
    truth = torch.from_numpy(clip.c2w).double()
    with pytest.raises(FlowCamError, match="held out"):
        photometric_view(field_at(clip, truth), HELD_OUT, lens_from_camera(clip.camera), 2)


def test_large_frames_are_compared_in_as_many_pixels_as_small_ones(clip: SyntheticClip) -> None:
    c2w = torch.from_numpy(clip.c2w).double()
    depth = 1 / torch.from_numpy(clip.depth)
    found: list[tuple[int, int]] = []
    for width, height in ((480, 270), (960, 540)):
        images = torch.zeros(COUNT, height, width, 3, dtype=torch.uint8)
        field = BlendField(BlendFieldConfig(refiner_width=0))
        lens = clip.camera.scaled_to(width, height)
        field.set_scene(ContextScene(images, c2w, lens, depth, torch.ones_like(depth), torch.ones(COUNT) > 0))
        view = photometric_view(field, 5, lens_from_camera(lens), stride=4)
        found.append((view.brightness.numel(), len(view.cells.unique())))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.02)
    assert found[0][1] == found[1][1]
