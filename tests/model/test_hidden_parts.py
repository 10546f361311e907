"""Hidden parts of frames are filled with what other frames show there, as exactly as depths tell; never from others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flowcam_ns.model.hidden_parts import FILLED_CONFIDENCE, without_hidden
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

COUNT, WIDTH, HEIGHT = 10, 128, 80
MIDDLE = slice(30, 50), slice(50, 80)
GREEN = torch.tensor([0, 255, 0], dtype=torch.uint8)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("sideways", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


@pytest.fixture
def scene(clip: SyntheticClip) -> ContextScene:
    inverse = 1 / torch.from_numpy(clip.depth).float()
    images, c2w = torch.from_numpy(clip.rgb), torch.from_numpy(clip.c2w)
    usable = torch.ones(COUNT, dtype=torch.bool)
    return ContextScene(images, c2w, clip.camera, inverse, torch.ones_like(inverse), usable)


def plated(scene: ContextScene, frames: list[int]) -> ContextScene:
    """A green plate over the middle of some frames, whose depth there is nonsense; masked."""
    images, inverse = scene.images.clone(), scene.inverse_depth.clone()
    masks = torch.ones(images.shape[:3], dtype=torch.bool)
    for frame in frames:
        images[frame][MIDDLE] = GREEN
        inverse[frame][MIDDLE] = 5.0
        masks[frame][MIDDLE] = False
    return replace(scene, images=images, inverse_depth=inverse, masks=masks)


def error(filled: ContextScene, clip: SyntheticClip, frame: int) -> float:
    """Root mean square difference from the truth behind the plate, grey levels."""
    difference = filled.images[frame][MIDDLE].float() - torch.from_numpy(clip.rgb[frame][MIDDLE]).float()
    return float(difference.square().mean().sqrt())


def test_a_plate_gives_way_to_what_neighbours_see_behind_it(scene: ContextScene, clip: SyntheticClip) -> None:
    filled = without_hidden(plated(scene, [4]))
    assert error(filled, clip, 4) < 12
    depth = filled.inverse_depth[4][MIDDLE] / scene.inverse_depth[4][MIDDLE]
    assert float((depth - 1).abs().median()) < 0.02
    assert filled.masks is not None
    assert float(filled.masks[4].float().mean()) > 0.99
    confidence = filled.confidence[4][MIDDLE]
    assert float((confidence == FILLED_CONFIDENCE).float().mean()) > 0.9


def test_other_frames_and_what_is_not_hidden_stay(scene: ContextScene) -> None:
    given = plated(scene, [4])
    filled = without_hidden(given)
    others = [i for i in range(COUNT) if i != 4]
    for name in ("images", "inverse_depth", "confidence"):
        assert torch.equal(getattr(filled, name)[others], getattr(given, name)[others]), name
    assert torch.equal(filled.images[4, :20], given.images[4, :20])
    assert torch.equal(given.images[4][MIDDLE], GREEN.expand(20, 30, 3)), "what was given is not changed"


def test_held_out_frames_lend_nothing(scene: ContextScene) -> None:
    """Whatever the frames that are not usable show, the filling is the same."""
    usable = torch.ones(COUNT, dtype=torch.bool)
    usable[[3, 5]] = False
    given = replace(plated(scene, [4]), usable=usable)
    painted = given.images.clone()
    painted[[3, 5]] = GREEN
    assert torch.equal(without_hidden(given).images[4], without_hidden(replace(given, images=painted)).images[4])


def test_what_no_frame_shows_gets_the_colours_around_it_and_stays_masked(scene: ContextScene) -> None:
    still = replace(scene, c2w=scene.c2w[:1].expand(COUNT, 4, 4), images=scene.images[:1].expand(COUNT, -1, -1, -1))
    still = replace(still, inverse_depth=scene.inverse_depth[:1].expand(COUNT, -1, -1))
    filled = without_hidden(plated(still, list(range(COUNT))))
    assert filled.masks is not None
    assert not filled.masks[:, MIDDLE[0], MIDDLE[1]].any()
    assert not filled.confidence[:, MIDDLE[0], MIDDLE[1]].any()
    green = (filled.images[4][MIDDLE].float() - GREEN.float()).norm(dim=-1)
    assert float(green.min()) > 60, "nothing of the plate is left"


def test_a_scene_without_masks_is_handed_through(scene: ContextScene) -> None:
    assert without_hidden(scene) is scene
    free = replace(scene, masks=torch.ones(scene.images.shape[:3], dtype=torch.bool))
    assert without_hidden(free) is free
