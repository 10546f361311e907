"""Exposures: gains and dark corners are found again, views show no step between frames of different brightness."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.blend_field import BlendField, BlendFieldConfig
from flowcam_ns.model.blend_training import camera_rays
from flowcam_ns.model.exposure import Exposures, brightened
from flowcam_ns.model.exposure_fit import fit_exposures
from flowcam_ns.model.scene import ContextScene

FRAMES, H, W = 9, 72, 96
HELD_OUT = 4
CAMERA = Camera(W, H, 80.0, 80.0, 48.0, 36.0)
DARKER = torch.tensor([-0.25, -0.1])
"""Of the lens: the corners show .70 of what the middle does."""


def look(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Colour and depth along z of a painted wall that stands at an angle."""
    origins, directions, _ = camera_rays(CAMERA, c2w)
    normal = torch.tensor([0.2, 0.0, 1.0])
    distance = ((torch.tensor([0.0, 0.0, 3.0]) - origins) @ normal) / (directions @ normal)
    points = origins + distance[..., None] * directions
    phases = points @ torch.tensor([[5.0, 3.0, 1.0], [-2.0, 4.0, 3.0], [1.0, 2.0, 3.0]])
    return 0.35 + 0.15 * torch.sin(phases), (directions @ c2w[:3, 2]) * distance


@pytest.fixture(scope="module")
def plain() -> ContextScene:
    """A wall that all frames show equally bright."""
    tangent = torch.zeros(FRAMES, 6)
    tangent[:, 0] = torch.linspace(-0.6, 0.6, FRAMES)
    tangent[:, 1] = 0.1 * torch.sin(torch.arange(FRAMES) * 1.5)
    c2w = se3.exp(tangent)
    colours, depths = zip(*(look(pose) for pose in c2w), strict=True)
    usable = torch.arange(FRAMES) != HELD_OUT
    return ContextScene(
        _bytes(torch.stack(colours)), c2w, CAMERA, 1 / torch.stack(depths), torch.ones(FRAMES, H, W), usable
    )


@pytest.fixture(scope="module")
def gains() -> Tensor:
    """Logarithms of each frame's gain in red, green and blue."""
    return 0.15 * (2 * torch.rand(FRAMES, 3, generator=torch.Generator().manual_seed(0)) - 1)


@pytest.fixture(scope="module")
def uneven(plain: ContextScene, gains: Tensor) -> ContextScene:
    """The wall under automatic exposure and white balance, through a lens that darkens its corners."""
    return replace(plain, images=_bytes(plain.images / 255 * taken(gains)))


def _bytes(colours: Tensor) -> Tensor:
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8)


def taken(gains: Tensor, falloff: Tensor = DARKER) -> Tensor:
    """What the pixels of frames [n, H, W, 3] are multiplied with."""
    y, x = torch.meshgrid(torch.arange(H) + 0.5 - H / 2, torch.arange(W) + 0.5 - W / 2, indexing="ij")
    square = (x.square() + y.square()) / (H**2 + W**2) * 4
    return (gains[:, None, None] + (square * (falloff[0] + falloff[1] * square))[..., None]).exp()


def between(values: Tensor) -> Tensor:
    """Differences of the usable frames' values from one to the next."""
    return values[torch.arange(FRAMES) != HELD_OUT].diff(dim=0)


def test_gains_and_dark_corners_are_found(uneven: ContextScene, gains: Tensor) -> None:
    found = fit_exposures(uneven)
    assert (between(found.log_gain) - between(gains)).abs().max() < 0.02
    for square in (0.25, 0.5, 1.0):
        place = torch.tensor(square)
        assert abs(float(found.at(place) - place * (DARKER[0] + DARKER[1] * place))) < 0.03
    assert (found.log_gain[HELD_OUT] == 0).all()


def test_nothing_is_found_where_all_is_even(plain: ContextScene) -> None:
    found = fit_exposures(plain)
    assert found.log_gain.abs().max() < 0.005
    assert not found.darkens


def test_a_held_out_frame_tells_nothing(uneven: ContextScene) -> None:
    images = uneven.images.clone()
    images[HELD_OUT] //= 2
    first, second = fit_exposures(uneven), fit_exposures(replace(uneven, images=images))
    assert torch.equal(first.log_gain, second.log_gain)


def test_what_a_mask_hides_tells_nothing(uneven: ContextScene, gains: Tensor) -> None:
    images, masks = uneven.images.clone(), torch.ones(FRAMES, H, W, dtype=torch.bool)
    masks[2, :, :50] = False
    images[2][~masks[2]] //= 2
    hidden = fit_exposures(replace(uneven, images=images, masks=masks))
    assert (between(hidden.log_gain) - between(gains)).abs().max() < 0.03
    assert (between(fit_exposures(replace(uneven, images=images)).log_gain) - between(gains)).abs().max() > 0.1


def test_frames_that_share_nothing_are_left_as_they_are(uneven: ContextScene) -> None:
    found = fit_exposures(replace(uneven, confidence=torch.zeros(FRAMES, H, W)))
    assert (found.log_gain == 0).all()
    assert not found.darkens


def test_white_stays_white_and_little_is_nearly_multiplied() -> None:
    gain = torch.tensor([-0.3, 0.0, 0.3])
    assert torch.allclose(brightened(torch.ones(3), gain), torch.ones(3))
    assert torch.allclose(brightened(torch.full((3,), 0.2), gain), 0.2 * gain.exp(), rtol=0.01)
    ramp = brightened(torch.linspace(0, 1, 100)[:, None].expand(-1, 3), gain)
    assert (ramp.diff(dim=0) > 0).all()
    assert ramp.max() < 1 + 1e-6
    assert torch.isfinite(brightened(torch.full((3,), 1.3), 3 * gain)).all()
    assert torch.allclose(brightened(ramp, -gain), torch.linspace(0, 1, 100)[:, None].expand(-1, 3), atol=1e-5)


def test_the_corners_bound_how_much_a_lens_darkens() -> None:
    lens = Exposures(torch.zeros(1, 3), DARKER)
    assert torch.equal(lens.at(torch.tensor(4.0)), lens.at(torch.tensor(1.0)))


def shown(scene: ContextScene, frame: int, even: bool, exclude: int | None) -> Tensor:
    field = BlendField(BlendFieldConfig(even_exposure=even))
    field.set_scene(scene)
    origins, directions, forward = camera_rays(CAMERA, scene.c2w[frame])
    with torch.no_grad():
        return field(origins, directions, exclude=exclude, forward=forward)["rgb"]


def test_a_frame_rendered_from_the_others_is_as_bright_as_it_is(uneven: ContextScene) -> None:
    truth = uneven.images[2] / 255
    errors = [(shown(uneven, 2, even, exclude=2) - truth).abs().mean() for even in (True, False)]
    assert errors[0] < 0.01
    assert errors[1] > 3 * errors[0]


def test_a_held_out_view_shows_no_step_between_its_frames(uneven: ContextScene, plain: ContextScene) -> None:
    """Against the wall as the lens shows it, but for one gain of the whole picture, which nothing tells."""
    lens = plain.images[HELD_OUT] / 255 * taken(torch.zeros(1, 3))[0]
    left = []
    for even in (True, False):
        ratio = (shown(uneven, HELD_OUT, even, exclude=HELD_OUT) / lens).log()
        left.append(float((ratio - ratio.mean((0, 1))).std()))
    assert left[0] < 0.015
    assert left[1] > 2 * left[0]


def test_mixed_precision_changes_no_brightness(uneven: ContextScene) -> None:
    whole = shown(uneven, HELD_OUT, even=True, exclude=HELD_OUT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = shown(uneven, HELD_OUT, even=True, exclude=HELD_OUT)
    assert (whole - half).abs().max() < 0.01
