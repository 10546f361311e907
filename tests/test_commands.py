"""Every ns-* command, run for real on one trained run of a small synthetic video, and what it wrote looked into."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor

from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.geometry.se3 import opencv_to_opengl
from flowcam_ns.geometry.trajectory import align_sim3
from flowcam_ns.model.fading import LEAST
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.synthetic.video_file import write_video

FRAMES, WIDTH, HEIGHT = 24, 240, 136
STEPS = 30
HELD_OUT = [4, 12, 20]
VIEWER_PORT = 17_007
SECONDS = 240


@dataclass
class TrainedRun:
    """One `ns-train flowcam` and everything known about what it saw."""

    clip: SyntheticClip
    video: Path
    folder: Path
    log: str

    @property
    def config(self) -> Path:
        return self.folder / "config.yml"

    @property
    def transforms(self) -> dict[str, Any]:
        return json.loads((self.folder / "transforms.json").read_text())

    def c2w(self) -> Tensor:
        """Estimated OpenCV camera-to-world of all frames, from transforms.json."""
        opengl = torch.tensor([frame["transform_matrix"] for frame in self.transforms["frames"]], dtype=torch.float64)
        return opencv_to_opengl(opengl)


def command(*args: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run an installed command as a user would, with one thread so that two of them share two cores."""
    program = Path(sys.executable).with_name(str(args[0]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
    done = subprocess.run(
        [program, *map(str, args[1:])], cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    if check:
        assert done.returncode == 0, f"{args[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("commands")
    clip = make_clip("orbit", seed=0, frames=FRAMES, width=WIDTH, height=HEIGHT)
    write_video(folder / "walk through.mp4", clip.rgb)
    # The viewer is on, as by default, so that its side of training is exercised too.
    options = ["--max-num-iterations", str(STEPS), "--timestamp", "first", "--output-dir", "out"]
    quiet = ["--vis", "viewer", "--viewer.quit-on-train-completion", "True"]
    port = ["--viewer.websocket-port", str(VIEWER_PORT)]
    done = command("ns-train", "flowcam", "--data", "walk through.mp4", *options, *quiet, *port, cwd=folder)
    run_folder = folder / "out" / "walk through" / "flowcam" / "first"
    return TrainedRun(clip, folder / "walk through.mp4", run_folder, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def jobs(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Path]]]:
    """All commands that read the trained run, two at a time; each future gives the path it wrote to."""
    out = tmp_path_factory.mktemp("written")
    (out / "path.json").write_text(json.dumps(camera_path(run)))
    load = ["--load-config", str(run.config)]
    shrink = ["--downscale-factor", "2"]
    spec: dict[str, tuple[list[str], str]] = {
        "eval": (["ns-eval", *load, "--output-path", "eval.json"], "eval.json"),
        "dataset": (["ns-render", "dataset", *load, "--output-path", "all", "--split", "train+test"], "all"),
        "interpolate": (
            ["ns-render", "interpolate", *load, *shrink, "--interpolation-steps", "4", "--output-path", "between.mp4"],
            "between.mp4",
        ),
        "spiral": (
            ["ns-render", "spiral", *load, *shrink, "--seconds", "0.4", "--output-path", "spiral.mp4"],
            "spiral.mp4",
        ),
        "camera-path": (
            ["ns-render", "camera-path", *load, "--camera-path-filename", "path.json", "--output-path", "path.mp4"],
            "path.mp4",
        ),
        "cameras": (["ns-export", "cameras", *load, "--output-dir", "cameras"], "cameras"),
        "pointcloud": (
            ["ns-export", "pointcloud", *load, "--num-points", "20000", "--output-dir", "cloud"],
            "cloud/point_cloud.ply",
        ),
        "tsdf": (
            ["ns-export", "tsdf", *load, "--resolution", "64", "--texture-method", "tsdf", "--output-dir", "tsdf",
             "--use-bounding-box", "False", "--depth-output-name", "trusted_depth"],
            "tsdf/tsdf_mesh.ply",
        ),
        "resume": (
            ["ns-train", "flowcam", "--data", str(run.video), "--load-dir", str(run.folder / "nerfstudio_models"),
             "--max-num-iterations", "2", "--timestamp", "second", "--output-dir", "out", "--vis", "tensorboard"],
            "out/walk through/flowcam/second",
        ),
    }  # fmt: skip

    def work(args: list[str], target: str) -> Path:
        command(*args, cwd=out)
        return out / target

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(work, args, target) for name, (args, target) in spec.items()}


def camera_path(run: TrainedRun) -> dict[str, Any]:
    """Three cameras of the clip as the viewer's render tab writes them."""
    poses = opencv_to_opengl(run.c2w())[[2, 10, 18]].tolist()
    cameras = [{"camera_to_world": np.ravel(pose).tolist(), "fov": 40.0, "aspect": WIDTH / HEIGHT} for pose in poses]
    size = {"render_width": 128, "render_height": 72, "camera_type": "perspective"}
    return {**size, "camera_path": cameras, "fps": 3, "seconds": 1.0, "is_cycle": False, "smoothness_value": 0}


def read_video(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(image.astype(float) - truth).mean() / 255**2))


def surface_errors(points: Tensor, run: TrainedRun) -> Tensor:
    """Relative depth error of estimated world points against the scene: the best over the frames that see them."""
    aligned = align_sim3(run.c2w(), torch.from_numpy(run.clip.c2w)).apply_points(points.double())
    best = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for c2w, depth in zip(torch.from_numpy(run.clip.c2w), torch.from_numpy(run.clip.depth), strict=True):
        local = (aligned - c2w[:3, 3]) @ c2w[:3, :3]
        pixels = run.clip.camera.project(local).floor().long()
        x, y = pixels[:, 0].clamp(0, WIDTH - 1), pixels[:, 1].clamp(0, HEIGHT - 1)
        seen = (local[:, 2] > 0) & (pixels[:, 0] == x) & (pixels[:, 1] == y)
        error = (local[:, 2] / depth[y, x] - 1).abs()
        best = torch.where(seen, torch.minimum(best, error), best)
    return best


def true_surface(run: TrainedRun, frames: tuple[int, ...]) -> Tensor:
    """Points that the clip's true depth maps show, in the world that was estimated."""
    y, x = torch.meshgrid(torch.arange(0, HEIGHT, 3), torch.arange(0, WIDTH, 3), indexing="ij")
    rays = run.clip.camera.unproject(torch.stack([x, y], dim=-1).double() + 0.5)
    points = []
    for frame in frames:
        c2w = torch.from_numpy(run.clip.c2w[frame])
        local = rays * torch.from_numpy(run.clip.depth[frame])[y, x, None].double()
        points.append(local.reshape(-1, 3) @ c2w[:3, :3].T + c2w[:3, 3])
    to_truth = align_sim3(run.c2w(), torch.from_numpy(run.clip.c2w))
    return to_truth.inverse().apply_points(torch.cat(points))


def test_training_estimates_the_true_trajectory_and_writes_it(run: TrainedRun) -> None:
    scores = score_trajectory(run.c2w(), torch.from_numpy(run.clip.c2w))
    assert scores.posed == FRAMES
    assert scores.ate_relative < 0.02
    assert scores.auc_5 > 0.8
    transforms = run.transforms
    assert transforms["fl_x"] == pytest.approx(run.clip.camera.fx, rel=0.05)
    assert transforms["unposed"] == []
    assert [frame["source"] for frame in transforms["frames"]] == [str(i) for i in range(FRAMES)]
    assert all((run.folder / frame["file_path"]).is_file() for frame in transforms["frames"])


def test_training_leaves_a_checkpoint_and_a_config_with_absolute_paths(run: TrainedRun) -> None:
    assert (run.folder / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt").is_file()
    config = run.config.read_text()
    assert "walk through.mp4" in config
    assert f"Posed {FRAMES} of {FRAMES} frames" in run.log
    assert "Traceback" not in run.log


def test_checkpoint_loads_without_trusting_it(run: TrainedRun) -> None:
    state = torch.load(next((run.folder / "nerfstudio_models").glob("*.ckpt")), weights_only=True)
    poses = state["pipeline"]["_model.camera_optimizer.c2w"]
    assert torch.allclose(poses, run.c2w(), atol=1e-9)


def test_the_field_ends_at_a_low_learning_rate(run: TrainedRun) -> None:
    state = torch.load(next((run.folder / "nerfstudio_models").glob("*.ckpt")), weights_only=True)
    assert state["optimizers"]["fields"]["param_groups"][0]["lr"] == pytest.approx(1e-3 * LEAST)


def test_estimated_cameras_reach_every_copy(run: TrainedRun) -> None:
    """On CUDA the copies are independent: here each is cloned first, so that none follows another by aliasing."""
    from nerfstudio.utils.eval_utils import eval_setup

    from flowcam_ns.model.camera_optimizer import EstimatedCameras

    config, pipeline, _, _ = eval_setup(run.config, test_mode="test")
    manager = pipeline.datamanager
    holders = [
        (manager.train_dataset, "cameras"),
        (manager.eval_dataset, "cameras"),
        (manager.train_dataset._dataparser_outputs, "cameras"),
        (manager.eval_dataset._dataparser_outputs, "cameras"),
        (manager.train_ray_generator, "cameras"),
        (manager.eval_ray_generator, "cameras"),
        (manager.fixed_indices_eval_dataloader, "cameras"),
        (manager.eval_dataloader, "cameras"),
    ]

    def check(expected: EstimatedCameras) -> None:
        for holder, name in holders:
            cameras = getattr(holder, name)
            is_train = len(cameras) == FRAMES - len(HELD_OUT)
            frames = [i for i in range(FRAMES) if (i in HELD_OUT) != is_train]
            truth = opencv_to_opengl(expected.c2w[frames])[:, :3].float()
            assert torch.allclose(cameras.camera_to_worlds.cpu(), truth, atol=1e-5), type(holder)
            assert not torch.allclose(cameras.camera_to_worlds[0].cpu(), torch.eye(4)[:3], atol=1e-2)
            lens = expected.camera.scaled_to(int(cameras.width[0]), int(cameras.height[0]))
            assert torch.allclose(cameras.fx.cpu(), torch.tensor(lens.fx).float())
            assert torch.allclose(cameras.cy.cpu(), torch.tensor(lens.cy).float())
            assert torch.allclose(cameras.distortion_params[:, 0].cpu(), torch.tensor(lens.k1).float())

    loaded = pipeline.model.camera_optimizer.cameras()
    assert torch.allclose(loaded.c2w, run.c2w(), atol=1e-9)
    check(loaded)
    for holder, name in holders:
        setattr(holder, name, copy.deepcopy(getattr(holder, name)))
    moved = loaded.c2w.clone()
    moved[:, :3, 3] += torch.arange(FRAMES)[:, None] * 0.1
    changed = EstimatedCameras(moved, dataclasses.replace(loaded.camera, fx=99.0, k1=0.05), loaded.posed)
    manager.set_cameras(changed)
    check(changed)
    # `ns-render dataset` builds a second datamanager from the same config object.
    second = config.pipeline.datamanager.setup(test_mode="test", device="cpu")
    holders[:] = [(second.train_dataset, "cameras"), (second.eval_dataset, "cameras")]
    check(changed)


def test_eval_scores_beat_a_copy_of_the_nearest_frame(jobs: dict[str, Future[Path]]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    results = json.loads(jobs["eval"].result().read_text(), parse_constant=refuse)["results"]
    assert results["psnr"] > results["nearest_psnr"] + 3
    assert results["psnr"] > 24
    assert results["ssim"] > results["nearest_ssim"]
    assert ("lpips" in results) == ("nearest_lpips" in results)
    assert not any(name.startswith("pose_") for name in results), "the video came without true poses"


def test_render_dataset_shows_the_right_view_of_every_frame(run: TrainedRun, jobs: dict[str, Future[Path]]) -> None:
    folder = jobs["dataset"].result()
    files = sorted((folder / "test" / "rgb").iterdir())
    assert len(files) == len(HELD_OUT)
    assert len(list((folder / "train" / "rgb").iterdir())) == FRAMES - len(HELD_OUT)
    rendered = [np.asarray(Image.open(file)) for file in files]
    for image, frame in zip(rendered, HELD_OUT, strict=True):
        own = psnr(image, run.clip.rgb[frame])
        assert own > 22
        assert own > max(psnr(image, run.clip.rgb[other]) for other in HELD_OUT if other != frame) + 3
    names = {path.name for path in (folder / "test").iterdir()}
    assert {"rgb", "gt-rgb", "depth", "accumulation", "confidence", "flow", "normals"} <= names


@pytest.mark.parametrize(("name", "count"), [("interpolate", 8), ("spiral", 9), ("camera-path", 3)])
def test_render_videos_move(name: str, count: int, jobs: dict[str, Future[Path]]) -> None:
    frames = read_video(jobs[name].result())
    assert len(frames) == count
    assert frames.std() > 15, "a picture, not a blank"
    assert np.abs(frames[0] - frames[-1]).mean() > 1.5
    assert np.abs(frames[0] - frames[1]).mean() > 0.05


def test_export_cameras_holds_the_estimated_poses(run: TrainedRun, jobs: dict[str, Future[Path]]) -> None:
    folder = jobs["cameras"].result()
    truth = opencv_to_opengl(run.c2w())[:, :3].numpy()
    for split, frames in (("eval", HELD_OUT), ("train", [i for i in range(FRAMES) if i not in HELD_OUT])):
        exported = json.loads((folder / f"transforms_{split}.json").read_text())
        poses = np.array([frame["transform"] for frame in exported])
        np.testing.assert_allclose(poses, truth[frames], atol=1e-5)


def test_export_pointcloud_lies_on_the_scene(run: TrainedRun, jobs: dict[str, Future[Path]]) -> None:
    o3d = pytest.importorskip("open3d", reason="open3d needs the system package libusb-1.0-0")
    cloud = o3d.io.read_point_cloud(str(jobs["pointcloud"].result()))
    points = torch.from_numpy(np.asarray(cloud.points))
    assert len(points) > 10_000
    errors = surface_errors(points, run)
    # A cloud a third too large, or with two axes swapped, has under a quarter of its points this near.
    assert float((errors < 0.1).float().mean()) > 0.7
    assert float(errors.median()) < 0.06
    assert np.asarray(cloud.colors).std() > 0.05
    assert np.linalg.norm(np.asarray(cloud.normals), axis=1) == pytest.approx(np.ones(len(points)), abs=0.02)


def test_export_tsdf_covers_the_scenes_own_box(run: TrainedRun, jobs: dict[str, Future[Path]]) -> None:
    o3d = pytest.importorskip("open3d", reason="open3d needs the system package libusb-1.0-0")
    mesh = o3d.io.read_triangle_mesh(str(jobs["tsdf"].result()))
    assert len(mesh.triangles) > 500
    vertices = np.asarray(mesh.vertices)
    points = true_surface(run, frames=(0, 12, 23))
    low, high = torch.from_numpy(vertices.min(0)), torch.from_numpy(vertices.max(0))
    inside = points[((points > low) & (points < high)).all(dim=1)]
    distance, _ = cKDTree(vertices).query(inside.numpy())
    assert len(inside) > 0.6 * len(points)
    voxel = float((high - low).max()) / 64
    # Of a scene moved by 3 voxels a third to a half lies so near, of one with two axes swapped a tenth.
    assert np.mean(distance < voxel) > 0.65


def test_resume_continues_with_the_same_poses(run: TrainedRun, jobs: dict[str, Future[Path]]) -> None:
    folder = jobs["resume"].result() / "nerfstudio_models"
    resumed = torch.load(folder / f"step-{STEPS + 1:09d}.ckpt", weights_only=True)
    assert torch.allclose(resumed["pipeline"]["_model.camera_optimizer.c2w"], run.c2w(), atol=1e-12)
    before = torch.load(next((run.folder / "nerfstudio_models").glob("*.ckpt")), weights_only=True)
    name = next(key for key in before["pipeline"] if key.startswith("_model.field."))
    assert not torch.equal(before["pipeline"][name], resumed["pipeline"][name]), "the field trained on"


def test_viewer_starts_and_answers(run: TrainedRun, jobs: dict[str, Future[Path]], tmp_path: Path) -> None:
    for job in jobs.values():
        job.exception()  # wait: the viewer shall not compete with them
    program = Path(sys.executable).with_name("ns-viewer")
    port = str(VIEWER_PORT + 1)
    with (tmp_path / "log").open("w") as log:
        viewer = subprocess.Popen(
            [program, "--load-config", run.config, "--viewer.websocket-port", port], stdout=log, stderr=log
        )
        try:
            page = b""
            while not page and viewer.poll() is None:
                time.sleep(0.5)
                try:
                    page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).read()
                except OSError:
                    continue
            assert b"<html" in page.lower(), (tmp_path / "log").read_text()
            time.sleep(1)
            assert viewer.poll() is None
        finally:
            viewer.terminate()
            viewer.wait(20)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_dataset_folder_is_scored_against_its_own_poses(run: TrainedRun, tmp_path: Path) -> None:
    data = tmp_path / "captured"
    (data / "images").mkdir(parents=True)
    truth = opencv_to_opengl(torch.from_numpy(run.clip.c2w)).tolist()
    frames = []
    for i in range(FRAMES):
        Image.fromarray(run.clip.rgb[i]).save(data / "images" / f"{i}.png")
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": truth[i]})
    lens = run.clip.camera
    intrinsics = {"w": WIDTH, "h": HEIGHT, "fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy}
    (data / "transforms.json").write_text(json.dumps({**intrinsics, "frames": frames}))
    options = ["--max-num-iterations", "2", "--vis", "tensorboard", "--timestamp", "t", "--output-dir", "out"]
    command("ns-train", "flowcam", "--data", data, *options, cwd=tmp_path)
    config = tmp_path / "out/captured/flowcam/t/config.yml"
    command("ns-eval", "--load-config", config, "--output-path", tmp_path / "eval.json", cwd=Path.home())
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["pose_posed"] == FRAMES
    assert 0 < results["pose_ate_relative"] < 0.05
    assert results["pose_mean_rotation_deg"] < 1
