"""The dataset folder: nerfstudio, COLMAP's reader and open3d load it, and find the scene where it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowcam_ns.alignment.export import write_dataset
from flowcam_ns.alignment.point_cloud import point_cloud
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.geometry.se3 import inverse, opencv_to_opengl, transform
from flowcam_ns.video.frames import Frames


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, clip_and_alignment: tuple[Frames, Alignment]) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "out"
    write_dataset(folder, *clip_and_alignment)
    return folder


def test_everything_promised_is_there(dataset: Path) -> None:
    names = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()}
    assert names >= {
        "transforms.json", "sparse_pc.ply", "trajectory_tum.txt", "trajectory.png", "report.json",
        "colmap/sparse/0/cameras.txt", "colmap/sparse/0/images.txt", "colmap/sparse/0/points3D.txt",
    }  # fmt: skip
    assert not any("partial" in name for name in names)


def test_no_frame_is_dropped_silently(dataset: Path, clip_and_alignment: tuple[Frames, Alignment]) -> None:
    content = json.loads((dataset / "transforms.json").read_text())
    assert [frame["source"] for frame in content["frames"]] == [str(i) for i in range(10) if i != 3]
    assert content["unposed"] == [{"source": "3", "reason": "no flow to its neighbours"}]
    assert content["thinned"] == 5
    assert content["lens_std_px"] == {"fl_x": 1.5, "fl_y": 1.5}
    for frame in content["frames"]:
        image = np.asarray(Image.open(dataset / frame["file_path"])).astype(float)
        truth = clip_and_alignment[0].images[int(frame["source"])].astype(float)
        assert np.abs(image - truth).mean() < 4
        assert frame["timestamp"] == pytest.approx(int(frame["source"]) / 30)
        assert frame["rotation_std_deg"] == pytest.approx(0.02)


def test_report_scores_against_the_truth(dataset: Path) -> None:
    report = json.loads((dataset / "report.json").read_text())
    assert report["frames"] == {"selected": 10, "posed": 9, "thinned": 5}
    assert report["scores"]["ate_relative"] < 1e-9
    assert report["scores"]["auc_5"] == pytest.approx(36 / 45, abs=1e-5)
    assert report["scores_of_constant_velocity"]["auc_5"] < report["scores"]["auc_5"]
    assert report["focal_std_px"] == 1.5
    assert set(report["seconds"]) == {"flow", "solve", "write"}


def test_points_lie_where_the_cameras_see_their_colour(clip_and_alignment: tuple[Frames, Alignment]) -> None:
    frames, alignment = clip_and_alignment
    cloud = point_cloud(frames, alignment)
    assert len(cloud) > 500
    assert 3 not in cloud.frame
    points_cam = transform(inverse(alignment.c2w)[cloud.frame], torch.from_numpy(cloud.xyz).double())
    seen = alignment.camera.project(points_cam)
    torch.testing.assert_close(seen, torch.from_numpy(cloud.pixels), atol=1e-3, rtol=0)
    columns, rows = cloud.pixels.astype(int).T
    np.testing.assert_array_equal(cloud.rgb, frames.images[cloud.frame, rows, columns])


def test_uncertain_masked_and_held_out_points_are_left_out(clip_and_alignment: tuple[Frames, Alignment]) -> None:
    frames, alignment = clip_and_alignment
    held_out = torch.arange(10) == 5
    assert 5 not in point_cloud(frames, alignment, use_frames=~held_out).frame
    doubtful = replace(alignment, inverse_depth_std=torch.full_like(alignment.inverse_depth, float("inf")))
    assert len(point_cloud(frames, doubtful)) == 0
    at_infinity = replace(alignment, inverse_depth=-alignment.inverse_depth)
    assert len(point_cloud(frames, at_infinity)) == 0
    left = np.zeros((10, 96, 160), dtype=bool)
    left[:, :, :80] = True
    assert point_cloud(replace(frames, masks=left), alignment).pixels[:, 0].max() < 80


def parsed(folder: Path, **changes: Any) -> Any:
    """What nerfstudio's own parser makes of a folder; no reorientation, so that poses compare as they were written."""
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = NerfstudioDataParserConfig(
        data=folder,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        eval_mode="all",
        **changes,
    )
    return config.setup().get_dataparser_outputs("train")


def test_nerfstudio_loads_the_poses_and_the_lens(dataset: Path, clip_and_alignment: tuple[Frames, Alignment]) -> None:
    outputs = parsed(dataset)
    alignment = clip_and_alignment[1]
    expected = opencv_to_opengl(alignment.c2w[alignment.posed])[:, :3].float()
    torch.testing.assert_close(outputs.cameras.camera_to_worlds, expected, atol=1e-5, rtol=0)
    assert outputs.cameras.fx[0].item() == pytest.approx(alignment.camera.fx)


def test_nerfstudio_loads_the_points_in_front_of_their_cameras(
    dataset: Path, clip_and_alignment: tuple[Frames, Alignment]
) -> None:
    pytest.importorskip("open3d", exc_type=OSError)  # needs a system library that may be missing
    outputs = parsed(dataset, load_3D_points=True)
    points, colours = outputs.metadata["points3D_xyz"], outputs.metadata["points3D_rgb"]
    cloud = point_cloud(*clip_and_alignment)
    torch.testing.assert_close(points, torch.from_numpy(cloud.xyz), atol=1e-5, rtol=0)
    assert np.abs(colours.numpy().astype(int) - cloud.rgb.astype(int)).max() <= 1
    posed = torch.nonzero(clip_and_alignment[1].posed)[:, 0].tolist()
    for camera_to_world, frame in zip(outputs.cameras.camera_to_worlds, posed, strict=True):
        own = points[cloud.frame == frame]
        assert ((own - camera_to_world[:, 3]) @ -camera_to_world[:, 2] > 0).all()


def test_a_dataset_without_points_and_truth_but_with_masks(
    tmp_path: Path, clip_and_alignment: tuple[Frames, Alignment]
) -> None:
    frames, alignment = clip_and_alignment
    frames = replace(frames, ground_truth=None, masks=np.ones((10, 96, 160), dtype=bool))
    alignment = replace(alignment, inverse_depth=-alignment.inverse_depth, rotation_std_deg=None)
    report = write_dataset(tmp_path / "out", frames, alignment, image_format="png")
    content = json.loads((tmp_path / "out/transforms.json").read_text())
    assert "ply_file_path" not in content
    assert not (tmp_path / "out/sparse_pc.ply").exists()
    assert all((tmp_path / "out" / frame["mask_path"]).is_file() for frame in content["frames"])
    assert report.scores is None
    image = Image.open(tmp_path / "out" / content["frames"][0]["file_path"])
    np.testing.assert_array_equal(np.asarray(image), frames.images[0])
