"""Dataset folders: listed images, poses only to score with, intrinsics only when asked for; the file is not trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video import masks
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions
from flowcam_ns.video.write import write_images, write_masks

Slide = Callable[..., list[np.ndarray]]
LENS = {"camera_model": "OPENCV", "fl_x": 200.0, "fl_y": 202.0, "cx": 82.0, "cy": 47.0, "w": 160, "h": 96, "k1": 0.01}


def pose(x: float) -> list[list[float]]:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix.tolist()


@pytest.fixture
def dataset(tmp_path: Path, slide: Slide) -> Path:
    """Twelve images, of which number 3 has no pose; listed in no order."""
    folder = tmp_path / "desk"
    (folder / "images").mkdir(parents=True)
    for i, picture in enumerate(slide(np.arange(12) * 4.0)):
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
    write_transforms(folder)
    return folder


def write_transforms(folder: Path, **changes: Any) -> None:
    listed = [7, 11, 0, 1, 2, 10, 9, 8, 6, 5, 4]
    frames = [{"file_path": f"./images/{i}.png", "transform_matrix": pose(i)} for i in listed]
    (folder / "transforms.json").write_text(json.dumps({**LENS, "frames": frames, **changes}))


def test_listed_images_in_natural_order_with_opencv_ground_truth(dataset: Path):
    frames = load_frames(dataset)
    assert frames.name == "desk"
    assert frames.sources == [f"{i}.png" for i in range(12) if i != 3]
    assert frames.camera is None
    assert frames.ground_truth is not None
    assert np.allclose(frames.ground_truth.c2w[:, 0, 3], [i for i in range(12) if i != 3])
    assert np.allclose(frames.ground_truth.c2w[0, :3, :3], np.diag([1, -1, -1]))
    camera = frames.ground_truth.camera
    assert camera is not None
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.k1) == (200, 202, 82, 47, 0.01)


def test_images_folder_beside_transforms_has_ground_truth_and_all_images(dataset: Path):
    frames = load_frames(dataset / "images")
    assert frames.name == "desk"
    assert len(frames) == 12
    assert frames.ground_truth is not None
    assert np.flatnonzero(np.isnan(frames.ground_truth.c2w).any(axis=(1, 2))).tolist() == [3]
    assert load_frames(dataset / "images", FrameOptions(ground_truth=False)).ground_truth is None


def test_json_file_itself_may_be_given(dataset: Path):
    assert load_frames(dataset / "transforms.json").sources == load_frames(dataset).sources


def test_intrinsics_when_asked_for_scaled_to_the_loaded_size(dataset: Path):
    camera = load_frames(dataset, FrameOptions(use_dataset_intrinsics=True, max_size=80)).camera
    assert camera is not None
    assert (camera.width, camera.height, camera.fx, camera.cy) == (80, 48, 100.0, 23.5)


def test_intrinsics_for_images_stored_smaller_than_the_file_says(dataset: Path):
    write_transforms(dataset, w=320, h=192)
    camera = load_frames(dataset, FrameOptions(use_dataset_intrinsics=True)).camera
    assert camera is not None
    assert (camera.width, camera.fx) == (160, 100.0)


def test_field_of_view_instead_of_focal_length(dataset: Path):
    write_transforms(dataset, fl_x=None, fl_y=None, camera_angle_x=float(np.pi / 2))
    camera = load_frames(dataset, FrameOptions(use_dataset_intrinsics=True)).camera
    assert camera is not None
    assert camera.fx == camera.fy == pytest.approx(80.0)


def per_frame(focals: list[float]) -> list[dict[str, Any]]:
    return [
        {"file_path": f"images/{i}.png", "transform_matrix": pose(i), "fl_x": f, "fl_y": f, "cx": 80, "cy": 48}
        for i, f in enumerate(focals)
    ]


def test_per_frame_intrinsics_that_agree_are_one_lens_and_others_none(dataset: Path):
    asked = FrameOptions(use_dataset_intrinsics=True)
    write_transforms(dataset, frames=per_frame([200.0, 200.5, 201.0]))
    camera = load_frames(dataset, asked).camera
    assert camera is not None
    assert camera.fx == 200.5
    write_transforms(dataset, frames=per_frame([200.0, 250.0, 300.0]))
    with pytest.raises(FlowCamError, match="no lens that all frames share"):
        load_frames(dataset, asked)
    truth = load_frames(dataset).ground_truth
    assert truth is not None
    assert truth.camera is None


@pytest.mark.parametrize("model", ["OPENCV_FISHEYE", "EQUIRECTANGULAR", "VR180_L", "ORTHOPHOTO"])
@pytest.mark.parametrize("where", ["", "images"])
def test_other_camera_models_are_refused(dataset: Path, model: str, where: str):
    write_transforms(dataset, camera_model=model)
    with pytest.raises(FlowCamError, match=f"camera model {model}") as error:
        load_frames(dataset / where)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "images/../../secret.png", "", ".", "a\0b", 7, None])
@pytest.mark.parametrize("key", ["file_path", "mask_path"])
def test_paths_out_of_the_folder_are_refused(dataset: Path, slide: Slide, name: Any, key: str):
    Image.fromarray(slide([0.0])[0]).save(dataset.parent / "secret.png")
    entry = {"file_path": "images/0.png", "transform_matrix": pose(0), key: name}
    write_transforms(dataset, frames=[entry, *({"file_path": f"images/{i}.png"} for i in (1, 2, 3))])
    if key == "mask_path" and name is None:
        assert load_frames(dataset).masks is None
        return
    with pytest.raises(FlowCamError, match=r"outside of its folder|without a valid"):
        load_frames(dataset)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"frames": 3}', '{"frames": [1]}', '{"frames": []}', "[" * 100_000]
    + [json.dumps({"frames": [{"file_path": "images/0.png", "transform_matrix": m}]}) for m in (3, "x", [[1, 2]])]
    + [
        json.dumps({**entry, "frames": [{"file_path": "images/0.png"}]})
        for entry in (
            {"fl_x": "wide\nand high"},
            {"fl_x": 10**400},
            {"w": 0.5, "h": 96, "fl_x": 200},
            {"w": 160, "h": -96},
            {"camera_model": ["OPENCV"]},
            {"camera_model": "FISH\nEYE"},
        )
    ]
    + [json.dumps({"frames": [{"file_path": name}]}) for name in ("a" * 300, "a/" * 3000, "1" * 5000, "\ud800.png")]
    + [json.dumps({"frames": [{"file_path": "images/0.png", "transform_matrix": [[10**400] * 4] * 4}]})],
)
def test_malformed_files_are_refused_in_one_line(dataset: Path, content: str):
    (dataset / "transforms.json").write_text(content)
    with pytest.raises(FlowCamError) as error:
        load_frames(dataset)
    assert "\n" not in str(error.value)
    if "camera_model" in content:
        return
    frames = load_frames(dataset / "images")
    assert len(frames) == 12
    assert frames.ground_truth is None


def test_missing_images_are_counted(dataset: Path):
    (dataset / "images" / "5.png").unlink()
    frames = load_frames(dataset)
    assert len(frames) == 10
    assert any("1 images named" in warning for warning in frames.warnings)


def test_mask_paths_of_the_dataset(dataset: Path):
    (dataset / "masks").mkdir()
    mask = np.zeros((96, 160), np.uint8)
    mask[:, 80:] = 255
    Image.fromarray(mask).save(dataset / "masks" / "0.png")
    entries = [{"file_path": f"images/{i}.png", "transform_matrix": pose(i)} for i in range(3)]
    entries[0]["mask_path"] = "masks/0.png"
    write_transforms(dataset, frames=entries)
    frames = load_frames(dataset, FrameOptions(max_size=80))
    assert frames.masks is not None
    assert frames.masks.shape == (3, 48, 80)
    assert np.array_equal(frames.masks[0], np.tile(np.arange(80) >= 40, (48, 1)))
    assert frames.masks[1:].all()
    assert any("2 of 3 frames have no mask" in warning for warning in frames.warnings)


def test_masks_by_name_one_for_all_and_for_video_frames(dataset: Path, slide: Slide, write_video: Callable[..., Path]):
    keep = dataset.parent / "keep"
    keep.mkdir()
    for name, value in (("2.jpg.png", 1), ("4.png", 255), ("00003.png", 0)):
        picture = np.zeros((96, 160), np.uint8)
        picture[:48] = value
        Image.fromarray(picture).save(keep / name)
    by_name = load_frames(dataset / "images", FrameOptions(masks=keep)).masks
    assert by_name is not None
    top = np.arange(96)[:, None] < 48
    assert [np.array_equal(mask, np.broadcast_to(top, mask.shape)) for mask in by_name] == [
        i in (2, 4) for i in range(12)
    ]
    one = load_frames(dataset, FrameOptions(masks=keep / "4.png")).masks
    assert one is not None
    assert one.mean() == 0.5
    video = write_video("clip.mp4", slide(np.arange(6) * 5.0))
    of_video = load_frames(video, FrameOptions(masks=keep)).masks
    assert of_video is not None
    assert of_video.mean(axis=(1, 2)).tolist() == [1, 1, 0.5, 0, 0.5, 1]


def test_a_folder_that_holds_far_too_much_is_not_listed_to_its_end(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    def endless(folder: Path, _: str) -> Iterator[Path]:
        for number in range(20):
            yield folder / f"{number}.png"
        raise AssertionError("listed on")

    monkeypatch.setattr(masks, "MAX_MASKS", 10)
    monkeypatch.setattr(Path, "rglob", endless)
    with pytest.raises(FlowCamError, match="more than 10 files"):
        load_frames(dataset, FrameOptions(masks=dataset))


def test_masks_that_fit_nothing_are_refused(dataset: Path, tmp_path: Path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    with pytest.raises(FlowCamError, match="no mask for any frame"):
        load_frames(dataset, FrameOptions(masks=wrong))
    Image.new("L", (96, 160)).save(wrong / "0.png")
    with pytest.raises(FlowCamError, match="another shape"):
        load_frames(dataset, FrameOptions(masks=wrong))


def test_written_images_and_masks_come_back(dataset: Path, tmp_path: Path):
    frames = load_frames(dataset, FrameOptions(masks=None))
    out = tmp_path / "out" / "images"
    files = write_images(frames, out)
    assert [file.name for file in files] == [f"frame_{i:05d}.jpg" for i in range(1, 12)]
    assert sorted(out.iterdir()) == files
    assert np.abs(load_frames(out).images.astype(int) - frames.images).mean() < 2
    lossless = write_images(frames, tmp_path / "png", suffix="png")
    assert np.array_equal(np.asarray(Image.open(lossless[3])), frames.images[3])
    assert write_masks(frames, tmp_path / "masks") == []


def test_unwritable_folder_is_one_line(dataset: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FlowCamError, match="Cannot write"):
        write_images(load_frames(dataset), tmp_path / "file" / "images")


def test_recorded_sequence(shared: Path):
    frames = load_frames(shared / "data" / "flip_phone_desk" / "images")
    assert frames.images.shape == (79, 803, 960, 3)
    assert (frames.thinned, frames.name) == (0, "flip_phone_desk")
    assert frames.ground_truth is not None
    assert np.isfinite(frames.ground_truth.c2w).all()
    assert np.allclose(np.linalg.det(frames.ground_truth.c2w[:, :3, :3]), 1)
    assert frames.ground_truth.camera is not None
    assert frames.ground_truth.camera.fx == pytest.approx(568.08, abs=0.01)
