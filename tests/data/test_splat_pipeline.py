"""Gaussian splats up to the rasteriser, on any machine: cameras, seed points, checkpoint, export."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from flowcam_ns.method_configs.flowcam_splat import flowcam_splat_method
from nerfstudio.models.splatfacto import SplatfactoModel, get_viewmat
from torch.nn.functional import grid_sample

from flowcam_ns.data import splat_datamanager
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.data.solve import Reconstruction
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.decay import PlainDecayConfig
from flowcam_ns.splat_pipeline import FlowCamSplatPipeline
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.synthetic.video_file import write_video

COUNT, WIDTH, HEIGHT, UNPOSED = 14, 96, 64, 7
SEEDS = 3_000


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def video(clip: SyntheticClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("splats") / "clip.mp4"
    write_video(path, clip.rgb)
    return path


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS weights may be out of reach, and nothing here scores pictures."""
    monkeypatch.setattr(
        "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", lambda **_: torch.nn.Identity()
    )


@pytest.fixture(autouse=True)
def solved(clip: SyntheticClip, true_reconstruction: Callable, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The true cameras and depths in place of a solve; counts how often one was asked for."""
    calls: list[int] = []

    def truth(*_: object) -> Reconstruction:
        calls.append(1)
        return true_reconstruction(clip, UNPOSED)

    monkeypatch.setattr(splat_datamanager, "reconstruct", truth)
    return calls


def new_pipeline(video: Path, test_mode: str = "val") -> FlowCamSplatPipeline:
    config = copy.deepcopy(flowcam_splat_method.config.pipeline)
    config.datamanager.data = video
    config.datamanager.seed_points = SEEDS
    config.datamanager.cache_images = "gpu"  # on the pipeline's device, whatever that is; "cpu" pins, which needs CUDA
    config.datamanager.dataparser.frames.thin = False
    return config.setup(device="cpu", test_mode=test_mode)


@pytest.fixture
def pipeline(video: Path) -> FlowCamSplatPipeline:
    return new_pipeline(video)


def test_gaussians_start_at_our_points_and_lie_where_the_images_show_them(pipeline: FlowCamSplatPipeline) -> None:
    """Projected as gsplat does, through nerfstudio's cameras, each Gaussian falls on a pixel of its own colour."""
    model = pipeline.splats
    assert 500 < len(model.means) <= SEEDS
    errors = []
    for step in range(6):
        camera, batch = pipeline.datamanager.next_train(step)
        world_to_camera = get_viewmat(model.camera_optimizer.apply_to_camera(camera))[0]
        points = model.means @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
        projected = points @ camera.get_intrinsics_matrices()[0].T
        xy = projected[:, :2] / projected[:, 2:]
        image = batch["image"].permute(2, 0, 1)[None].float() / 255
        size = torch.tensor([image.shape[3], image.shape[2]])
        grid = xy / size * 2 - 1
        inside = (grid.abs() < 0.9).all(-1) & (points[:, 2] > 0)
        shown = grid_sample(image, grid[None, None], align_corners=False)[0, :, 0].T
        errors.append((shown - model.colors).abs().mean(-1)[inside])
    error = torch.cat(errors)
    assert len(error) > 500
    # Some of them are hidden behind others in that view.
    assert float(error.detach().median()) < 0.05


def test_only_posed_frames_that_are_not_held_out_train(pipeline: FlowCamSplatPipeline) -> None:
    expected = [i for i in range(COUNT) if i != UNPOSED and i not in held_out_frames(COUNT)]
    assert pipeline.datamanager.train_dataset.metadata["frame_index"].tolist() == expected
    assert pipeline.datamanager.eval_dataset.metadata["frame_index"].tolist() == held_out_frames(COUNT)
    assert pipeline.splats.camera_optimizer.pose_adjustment.shape == (len(expected), 6)
    assert len(pipeline.datamanager.fixed_indices_eval_dataloader) == len(held_out_frames(COUNT))
    seen = {int(pipeline.datamanager.next_train(i)[0].metadata["frame_index"]) for i in range(2 * COUNT)}
    assert seen == set(expected)


def test_camera_refinement_gets_gradients(pipeline: FlowCamSplatPipeline) -> None:
    groups = pipeline.get_param_groups()
    assert set(groups) <= set(flowcam_splat_method.config.optimizers)
    camera, _ = pipeline.datamanager.next_train(0)
    pipeline.splats.camera_optimizer.apply_to_camera(camera)[0, :, 3].sum().backward()
    assert float(groups["camera_opt"][0].grad.abs().max()) > 0


def test_a_lens_with_distortion_is_straightened_once(
    video: Path, clip: SyntheticClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = splat_datamanager.reconstruct

    def bent(*args: object) -> Reconstruction:
        solved = truth(*args)
        lens = clip.camera
        solved.alignment.camera = Camera(WIDTH, HEIGHT, lens.fx, lens.fy, lens.cx, lens.cy, k1=-0.1)
        return solved

    monkeypatch.setattr(splat_datamanager, "reconstruct", bent)
    manager = new_pipeline(video).datamanager
    sizes = {tuple(manager.next_train(i)[1]["image"].shape) for i in range(COUNT)}
    camera, batch = manager.next_train(COUNT)
    assert len(sizes) == 1
    assert (int(camera.height), int(camera.width)) == batch["image"].shape[:2]
    assert float(camera.fx) != pytest.approx(clip.camera.fx)


def test_tools_take_cameras_and_gaussians_from_the_checkpoint_without_solving_again(
    pipeline: FlowCamSplatPipeline, video: Path, clip: SyntheticClip, solved: list[int]
) -> None:
    with torch.no_grad():
        pipeline.splats.means[:, 0] += 0.5
    for mode in ("inference", "test"):
        loaded = new_pipeline(video, mode)
        assert len(solved) == 1
        loaded.load_pipeline(copy.deepcopy(pipeline.state_dict()), 100)
        assert torch.equal(loaded.splats.means, pipeline.splats.means)
        assert torch.equal(
            loaded.splats.camera_optimizer.pose_adjustment, pipeline.splats.camera_optimizer.pose_adjustment
        )
        held_out = held_out_frames(COUNT)
        centres = loaded.datamanager.eval_dataset.cameras.camera_to_worlds[:, :, 3].numpy()
        assert centres == pytest.approx(clip.c2w[held_out, :3, 3], abs=1e-5)
        # `ns-render dataset` makes a second datamanager from the same config object.
        again = loaded.config.datamanager.setup(device="cpu", test_mode="test")
        assert torch.equal(
            again.train_dataset.cameras.camera_to_worlds, loaded.datamanager.train_dataset.cameras.camera_to_worlds
        )
    assert len(solved) == 1


def test_a_resumed_run_trains_the_gaussians_that_are_shown(pipeline: FlowCamSplatPipeline, video: Path) -> None:
    resumed = new_pipeline(video)
    in_optimizer = resumed.get_param_groups()["means"][0]
    state = copy.deepcopy(pipeline.state_dict())
    for name in [key for key in state if ".gauss_params." in key]:
        state[name] = state[name][:100]
    resumed.load_pipeline(state, 5)
    assert in_optimizer is resumed.splats.means
    assert len(in_optimizer) == 100


def test_ns_export_writes_the_splats(
    pipeline: FlowCamSplatPipeline, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=(ImportError, OSError))
    config = copy.deepcopy(flowcam_splat_method.config)
    config.data, config.output_dir, config.timestamp = video, tmp_path, "t"
    config.pipeline = copy.deepcopy(pipeline.config)
    del config.pipeline.datamanager._estimated_cameras
    config.set_experiment_name()
    folder = config.get_checkpoint_dir()
    folder.mkdir(parents=True)
    torch.save({"step": 7, "pipeline": pipeline.state_dict()}, folder / "step-000000007.ckpt")
    (config.get_base_dir() / "config.yml").write_text(yaml.dump(config))
    exporter.ExportGaussianSplat(load_config=config.get_base_dir() / "config.yml", output_dir=tmp_path / "out").main()
    content = (tmp_path / "out" / "splat.ply").read_bytes()
    head, _, body = content.partition(b"end_header\n")
    count = len(pipeline.splats.means)
    assert f"element vertex {count}".encode() in head
    floats = np.frombuffer(body, dtype=np.float32).reshape(count, -1)
    assert floats[:, :3] == pytest.approx(pipeline.splats.means.detach().numpy())
    assert isinstance(pipeline.model, SplatfactoModel)


def test_without_cuda_one_line_says_what_to_do(
    pipeline: FlowCamSplatPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = copy.deepcopy(flowcam_splat_method.config)
    for refused in (config.set_timestamp, lambda: pipeline.model(pipeline.datamanager.next_train(0)[0])):
        with pytest.raises(SystemExit) as raised:
            refused()
        assert raised.value.code == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "CUDA" in line
        assert "ns-train flowcam --data" in line


def test_masked_pixels_lower_no_score(pipeline: FlowCamSplatPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = torch.rand(HEIGHT, WIDTH, 3)
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[20:40, 30:60] = False
    monkeypatch.setattr(type(pipeline.splats.lpips), "forward", lambda *_: torch.zeros(()))
    pipeline.eval()
    outputs = {"rgb": torch.where(mask, truth, 1 - truth), "background": torch.zeros(3)}
    scores, _ = pipeline.splats.get_image_metrics_and_images(outputs, {"image": truth, "mask": mask})
    assert scores["psnr"] > 60
    assert scores["ssim"] == pytest.approx(1)


def test_run_folder_gets_the_poses(pipeline: FlowCamSplatPipeline, tmp_path: Path) -> None:
    trainer = SimpleNamespace(base_dir=tmp_path)
    attributes = SimpleNamespace(trainer=trainer, optimizers=None, grad_scaler=None, pipeline=pipeline)
    assert pipeline.get_training_callbacks(attributes)  # type: ignore[arg-type]
    assert (tmp_path / "transforms.json").is_file()


def test_a_resumed_run_writes_the_cameras_that_it_adopted(
    pipeline: FlowCamSplatPipeline, video: Path, clip: SyntheticClip, tmp_path: Path
) -> None:
    """Even where its own solve came out differently."""
    state = copy.deepcopy(pipeline.state_dict())
    state["datamanager.estimated.c2w"][:, :3, 3] += 0.25
    resumed = new_pipeline(video)
    resumed.load_pipeline(state, 5)
    attributes = SimpleNamespace(
        trainer=SimpleNamespace(base_dir=tmp_path), optimizers=None, grad_scaler=None, pipeline=resumed
    )
    resumed.get_training_callbacks(attributes)  # type: ignore[arg-type]
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    centres = np.array([frame["transform_matrix"] for frame in frames])[:, :3, 3]
    posed = [i for i in range(COUNT) if i != UNPOSED]
    assert centres == pytest.approx(clip.c2w[posed, :3, 3] + 0.25)


def test_learning_rates_are_nerfstudios_in_plain_numbers() -> None:
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

    settings = {"lr_final": 1e-5, "max_steps": 50, "warmup_steps": 10, "lr_pre_warmup": 0.0}
    rates: list[list[float]] = []
    for kind in (PlainDecayConfig, ExponentialDecaySchedulerConfig):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        scheduler = kind(**settings).setup().get_scheduler(optimizer, lr_init=1e-3)
        found = []
        for _ in range(60):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        rates.append(found)
        if kind is PlainDecayConfig:
            assert all(type(rate) is float for rate in found)
    assert rates[0] == pytest.approx(rates[1])
