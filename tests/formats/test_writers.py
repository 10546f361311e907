"""PLY, TUM and transforms.json, read back by other people's readers where there are any."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from flowcam_ns.formats.colmap_text import write_colmap_text
from flowcam_ns.formats.plot import TrajectoryPlot, write_trajectory_plot
from flowcam_ns.formats.ply import write_ply
from flowcam_ns.formats.point_cloud import PointCloud
from flowcam_ns.formats.report import PoseReport
from flowcam_ns.formats.transforms_json import PosedFrame, UnposedFrame, transforms_dict
from flowcam_ns.formats.tum import write_tum
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.geometry.se3 import exp

LENS = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, k1=-0.1, k2=0.02, p1=0.001, p2=-0.002)


def poses(count: int = 5) -> np.ndarray:
    return exp(torch.randn(count, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).numpy()


def cloud_seen_by(c2w: np.ndarray, points_each: int = 7) -> PointCloud:
    """Points at random depths, and where each camera sees them."""
    generator = torch.Generator().manual_seed(1)
    frame = torch.arange(len(c2w)).repeat_interleave(points_each)
    size = torch.tensor([LENS.width, LENS.height], dtype=torch.float64)
    pixels = torch.rand(len(frame), 2, generator=generator, dtype=torch.float64) * size
    points = LENS.unproject(pixels) * (1 + torch.rand(len(frame), 1, generator=generator, dtype=torch.float64))
    T = torch.from_numpy(c2w)[frame]
    xyz = (T[:, :3, :3] @ points[..., None])[..., 0] + T[:, :3, 3]
    rgb = torch.randint(0, 256, (len(frame), 3), generator=generator, dtype=torch.uint8)
    return PointCloud(xyz.float().numpy(), rgb.numpy(), frame.numpy(), pixels.numpy())


@pytest.mark.parametrize("with_normals", [False, True])
@pytest.mark.parametrize("count", [0, 35])
def test_ply_comes_back_as_it_was(tmp_path: Path, with_normals: bool, count: int) -> None:
    cloud = cloud_seen_by(poses())
    xyz, rgb = cloud.xyz[:count], cloud.rgb[:count]
    write_ply(tmp_path / "a.ply", xyz, rgb, -xyz if with_normals else None)
    vertex = PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    np.testing.assert_array_equal(np.stack([vertex[k] for k in "xyz"], 1), xyz)
    np.testing.assert_array_equal(np.stack([vertex[k] for k in ("red", "green", "blue")], 1), rgb)
    if with_normals:
        np.testing.assert_array_equal(np.stack([vertex[k] for k in ("nx", "ny", "nz")], 1), -xyz)


def test_tum_is_read_by_evo_as_the_same_poses(tmp_path: Path) -> None:
    file_interface = pytest.importorskip("evo.tools.file_interface")
    c2w, times = poses(), np.arange(5) / 30
    write_tum(tmp_path / "t.txt", times, c2w)
    trajectory = file_interface.read_tum_trajectory_file(str(tmp_path / "t.txt"))
    np.testing.assert_allclose(trajectory.timestamps, times, atol=1e-6)
    np.testing.assert_allclose(np.array(trajectory.poses_se3), c2w, atol=1e-7)


def test_colmap_text_is_read_by_colmap_and_its_points_project_where_they_were_seen(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    c2w = poses()
    cloud = cloud_seen_by(c2w)
    write_colmap_text(tmp_path, LENS, c2w, [f"frame_{i}.jpg" for i in range(5)], cloud, 0.3)
    model = pycolmap.Reconstruction()
    model.read_text(str(tmp_path))
    assert model.num_reg_images() == 5
    assert len(model.points3D) == len(cloud)
    (camera,) = model.cameras.values()
    assert camera.model.name == "OPENCV"
    assert (camera.width, camera.height) == (64, 48)
    for image in model.images.values():
        index = int(image.name.removeprefix("frame_").removesuffix(".jpg"))
        pose = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(pose, c2w[index, :3], atol=1e-9)
        for observation in image.points2D:
            seen = image.project_point(model.points3D[observation.point3D_id].xyz)
            np.testing.assert_allclose(seen, observation.xy, atol=2e-3)
    point = model.points3D[1]
    np.testing.assert_array_equal(point.color, cloud.rgb[0])


def test_colmap_reads_points_of_unknown_error_too(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    c2w = poses()
    write_colmap_text(tmp_path, LENS, c2w, [f"{i}.jpg" for i in range(5)], cloud_seen_by(c2w), float("nan"))
    model = pycolmap.Reconstruction()
    model.read_text(str(tmp_path))
    assert {point.error for point in model.points3D.values()} == {-1.0}


def transforms(**changes: object) -> dict[str, object]:
    frames = [PosedFrame(f"images/{i}.jpg", pose, f"{i}.png", i / 30) for i, pose in enumerate(poses())]
    return transforms_dict(LENS, frames, [UnposedFrame("7.png", "no flow")], 12, **changes)  # type: ignore[arg-type]


def test_transforms_hold_every_frame_with_its_origin() -> None:
    content = json.loads(json.dumps(transforms(lens_std_px={"fl_x": 1.5, "fl_y": math.inf}), allow_nan=False))
    assert content["unposed"] == [{"source": "7.png", "reason": "no flow"}]
    assert content["thinned"] == 12
    assert content["lens_std_px"] == {"fl_x": 1.5}
    assert [content[k] for k in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")] == [
        64, 48, 50.0, 51.0, 31.0, 25.0, -0.1, 0.02, 0.001, -0.002,
    ]  # fmt: skip
    for index, frame in enumerate(content["frames"]):
        assert (frame["source"], frame["file_path"]) == (f"{index}.png", f"images/{index}.jpg")
        assert frame["timestamp"] == pytest.approx(index / 30)
        opengl = poses()[index] @ np.diag([1.0, -1.0, -1.0, 1.0])
        np.testing.assert_allclose(frame["transform_matrix"], opengl, atol=1e-12)


def test_a_pose_that_is_not_finite_is_never_written() -> None:
    broken = poses(1)[0]
    broken[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"3\.png"):
        transforms_dict(LENS, [PosedFrame("images/3.jpg", broken, "3.png", 0.0)])


def test_report_is_strict_json_whatever_is_unknown() -> None:
    c2w = torch.from_numpy(poses(3))
    report = PoseReport(
        name="clip", camera=LENS, focal_std=math.inf, posed=3, selected=4, thinned=1, reprojection_error=0.4, points=0,
        seconds={"flow": 1.0, "solve": 2.5}, unposed=[UnposedFrame("7.png", "no flow")],
        scores=score_trajectory(c2w, c2w),
        frame_uncertainty={"position_std": [0.1, math.nan]},
    )  # fmt: skip
    content = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert content["focal_std_px"] is None
    assert content["frame_uncertainty"]["position_std"] == [0.1, None]
    assert content["seconds_total"] == 3.5
    assert content["scores"]["focal_error_percent"] is None
    assert content["scores"]["auc_30"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [1, 60])
def test_plot_is_drawn_with_and_without_truth_and_points(tmp_path: Path, count: int) -> None:
    from PIL import Image

    c2w = poses(count)
    write_trajectory_plot(tmp_path / "plain.png", TrajectoryPlot(c2w, LENS, "clip"))
    write_trajectory_plot(tmp_path / "full.png", TrajectoryPlot(c2w, LENS, "clip", c2w[:2], cloud_seen_by(c2w, 500)))
    plain, full = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("plain.png", "full.png"))
    assert plain.shape == full.shape
    assert (plain != 255).any()
    assert (plain != full).any(axis=-1).sum() > 200


def test_plot_of_cameras_that_stand_still(tmp_path: Path) -> None:
    write_trajectory_plot(tmp_path / "still.png", TrajectoryPlot(np.repeat(np.eye(4)[None], 3, 0), LENS, "still"))
    assert (tmp_path / "still.png").stat().st_size > 10_000
