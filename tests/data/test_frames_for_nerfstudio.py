"""Frames and cameras as nerfstudio's datamanager hands them out, compared with our own camera model."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowcam_ns.data.dataparser import FlowCamDataParserConfig, _file_name
from flowcam_ns.data.frame_source import SharedFrames, decode_frames
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.video.options import FrameOptions

COUNT, WIDTH, HEIGHT = 14, 96, 64
LENS = Camera(WIDTH, HEIGHT, 80.0, 78.0, 47.0, 33.0, k1=-0.08, k2=0.01, p1=0.002, p2=-0.001)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def video(clip: SyntheticClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clip.mp4"
    write_video(path, clip.rgb)
    return path


@pytest.fixture
def manager(video: Path):
    from flowcam_ns.data.datamanager import FlowCamDataManagerConfig

    parser = FlowCamDataParserConfig(data=video, frames=FrameOptions(thin=False), train_long_side=WIDTH)
    config = FlowCamDataManagerConfig(data=video, dataparser=parser, train_num_rays_per_batch=256)
    return config.setup(device="cpu", test_mode="val")


def estimated(posed: list[bool] | None = None) -> EstimatedCameras:
    tangent = torch.from_numpy(np.random.default_rng(0).normal(size=(COUNT, 6)))
    mask = torch.ones(COUNT, dtype=torch.bool) if posed is None else torch.tensor(posed)
    return EstimatedCameras(se3.exp(tangent), LENS, mask)


@given(st.integers(1, 400))
def test_held_out_frames_are_inside_and_never_most_of_the_clip(count: int) -> None:
    held_out = held_out_frames(count)
    assert all(0 < i < count - 1 for i in held_out)
    assert held_out == sorted(set(held_out))
    assert len(held_out) <= max(count // 3, 0)
    assert count < 6 or len(held_out) >= 2


def test_held_out_frames_of_a_long_clip_are_every_eighth_from_the_fifth() -> None:
    assert held_out_frames(30) == [4, 12, 20, 28]
    assert held_out_frames(29) == [4, 12, 20]


def test_frames_are_decoded_once_and_never_copied(video: Path) -> None:
    options = FrameOptions(thin=False)
    first = decode_frames(video, options)
    assert decode_frames(video, FrameOptions(thin=False)) is first
    assert copy.deepcopy({"frames": first})["frames"] is first
    assert decode_frames(video, FrameOptions(thin=False, max_frames=5)) is not first


def test_resized_frames_average_what_they_cover(clip: SyntheticClip) -> None:
    shared = SharedFrames(clip.to_frames())
    assert shared.images(WIDTH, HEIGHT) is shared.frames.images
    half = shared.images(WIDTH // 2, HEIGHT // 2)
    boxes = clip.rgb.reshape(COUNT, HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(2, 4))
    assert np.abs(half - boxes).max() <= 1


def test_frames_and_masks_at_their_own_size_and_at_two_others_are_made_once(clip: SyntheticClip) -> None:
    """The datasets read one size while the field reads another."""
    masks = np.ones((COUNT, HEIGHT, WIDTH), dtype=bool)
    shared = SharedFrames(dataclasses.replace(clip.to_frames(), masks=masks))
    assert shared.masks(WIDTH, HEIGHT) is masks
    assert shared.own_size_within(WIDTH) == shared.own_size_within(10 * WIDTH) == (WIDTH, HEIGHT)
    views, contexts = shared.size_within(WIDTH // 4), shared.own_size_within(WIDTH // 2)
    first, second = shared.images(*views), shared.images(*contexts)
    assert shared.images(*views) is first
    assert shared.images(*contexts) is second
    shared.images(WIDTH - 2, HEIGHT)
    assert shared.images(*contexts) is second
    assert shared.images(*views) is not first, "memory is bounded"


def test_missing_input_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FlowCamError, match="does not exist"):
        decode_frames(tmp_path / "nowhere", FrameOptions())
    with pytest.raises(FlowCamError, match="--data"):
        decode_frames(Path(), FrameOptions())


def test_rays_are_those_of_our_own_camera(manager) -> None:
    cameras = estimated()
    manager.set_cameras(cameras)
    bundle, batch = manager.next_train(0)
    row, y, x = batch["indices"][3, 5].tolist()
    frame = int(manager.train_dataset.metadata["frame_index"][row])
    assert int(bundle.metadata["frame_index"][3, 5]) == frame
    local = LENS.unproject(torch.tensor([x + 0.5, y + 0.5], dtype=torch.float64))
    direction = cameras.c2w[frame, :3, :3] @ torch.nn.functional.normalize(local, dim=0)
    assert torch.allclose(bundle.directions[3, 5].double(), direction, atol=1e-4)
    assert torch.allclose(bundle.origins[3, 5].double(), cameras.c2w[frame, :3, 3], atol=1e-5)


def test_batches_are_windows_with_the_frames_own_colours(manager) -> None:
    manager.set_cameras(estimated())
    bundle, batch = manager.next_train(0)
    assert bundle.origins.shape == (16, 16, 3)
    row = int(batch["indices"][0, 0, 0])
    y, x = batch["indices"][..., 1], batch["indices"][..., 2]
    assert torch.allclose(batch["image"], manager.train_dataset[row]["image"][y, x])
    manager.train_pixel_sampler.num_rays_per_batch = 1024
    assert manager.next_train(0)[0].origins.shape == (32, 32, 3)


def test_unposed_frames_are_neither_trained_on_nor_scored(manager) -> None:
    posed = [i in (0, 3, 4) for i in range(COUNT)]
    manager.set_cameras(estimated(posed))
    seen = {int(manager.next_train(0)[0].metadata["frame_index"][0, 0]) for _ in range(60)}
    assert seen == {0, 3}
    scored = [int(camera.metadata["frame_index"]) for camera, _ in manager.fixed_indices_eval_dataloader]
    assert scored == [4]
    manager.drop_unposed(estimated(posed))
    assert manager.train_dataset.metadata["frame_index"].tolist() == [0, 3]
    assert manager.eval_dataset.metadata["frame_index"].tolist() == [4]
    assert len(manager.train_dataset.image_filenames) == len(manager.train_dataset.cameras) == 2


def test_images_of_the_same_name_in_two_folders_keep_apart(tmp_path: Path, clip: SyntheticClip) -> None:
    """`ns-render dataset` names its files by these, below the folder that they share."""
    names = ["a/0000.png", "a/0001.png", "b/0000.png", "b/0001.png"]
    for image, name in zip(clip.rgb, names, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [{"file_path": name} for name in names]}))
    parser = FlowCamDataParserConfig(data=tmp_path, frames=FrameOptions(thin=False)).setup()
    found = {str(name) for split in ("train", "test") for name in parser.get_dataparser_outputs(split).image_filenames}
    assert found == {f"frames/{name}" for name in names}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("7", "frames/frame_00007.png"),
        ("a/b.jpg", "frames/a/b.jpg"),
        ("a/b", "frames/a/00003_b.png"),
        ("../../a/b.jpg", "frames/a/b.jpg"),
        ("/a/b.jpg", "frames/a/b.jpg"),
    ],
)
def test_virtual_file_names_stay_in_their_folder(source: str, name: str) -> None:
    assert _file_name(source, 3).as_posix() == name


def test_views_have_even_sizes_so_that_every_player_shows_their_videos(video: Path) -> None:
    for side in (95, 61, 33):
        parser = FlowCamDataParserConfig(data=video, frames=FrameOptions(thin=False), train_long_side=side).setup()
        width, height = parser.render_size()
        assert width % 2 == height % 2 == 0
        assert abs(width - side) <= 1
        assert height / width == pytest.approx(HEIGHT / WIDTH, rel=0.06)
