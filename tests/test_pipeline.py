"""The order of things in a run, with known cameras in place of a solve: what a resumed run writes and says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flowcam_ns.method_configs.flowcam import flowcam_method
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerControl
from PIL import Image

from flowcam_ns import pipeline as pipeline_module
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.se3 import opencv_to_opengl
from flowcam_ns.model.network_stage import EVERY
from flowcam_ns.pipeline import FlowCamPipeline
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.trainer import FlowCamTrainer

COUNT, WIDTH, HEIGHT, UNPOSED = 10, 96, 64, 7


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def video(clip: SyntheticClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "clip.mp4"
    write_video(path, clip.rgb)
    return path


@pytest.fixture(autouse=True)
def solved(clip: SyntheticClip, true_reconstruction: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true cameras and depths in place of a solve."""
    monkeypatch.setattr(pipeline_module, "reconstruct", lambda *_: true_reconstruction(clip, UNPOSED))


def new_pipeline(video: Path, refined_at: tuple[int, ...] = (), views: str = "blend") -> FlowCamPipeline:
    config: Any = copy.deepcopy(flowcam_method.config.pipeline)
    config.model.views = views
    config.datamanager.data = video
    config.datamanager.dataparser.frames.thin = False
    config.model.refinement.steps = refined_at
    return config.setup(device="cpu", test_mode="val")


def callbacks(pipeline: FlowCamPipeline, folder: Path | None) -> tuple[SimpleNamespace, Callable[[int], None]]:
    """A trainer with a run folder, and what it calls after each step."""
    config = SimpleNamespace(max_num_iterations=1_000_000, optimizers={})
    trainer = SimpleNamespace(
        base_dir=folder, stop_training=False, config=config, optimizers=SimpleNamespace(optimizers={})
    )
    attributes = SimpleNamespace(trainer=trainer, optimizers=None, grad_scaler=None, pipeline=pipeline)
    after_step = pipeline.get_training_callbacks(attributes)[-2]  # type: ignore[arg-type]
    return trainer, lambda step: after_step.func(step)


def test_a_resumed_run_writes_the_cameras_that_it_loaded(video: Path, clip: SyntheticClip, tmp_path: Path) -> None:
    first = new_pipeline(video)
    first.get_train_loss_dict(0)
    resumed = new_pipeline(video)
    resumed.load_pipeline(copy.deepcopy(first.state_dict()), 5)
    callbacks(resumed, tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    posed = [i for i in range(COUNT) if i != UNPOSED]
    assert [frame["source"] for frame in content["frames"]] == [str(i) for i in posed]
    written = torch.tensor([frame["transform_matrix"] for frame in content["frames"]], dtype=torch.float64)
    assert torch.allclose(written, opencv_to_opengl(torch.from_numpy(clip.c2w[posed])), atol=1e-9)
    assert [frame["source"] for frame in content["unposed"]] == [str(UNPOSED)]
    assert (tmp_path / content["frames"][0]["file_path"]).is_file()
    assert (tmp_path / content["ply_file_path"]).is_file()
    report = json.loads((tmp_path / "poses" / "report.json").read_text())
    assert report["points"] > 100
    assert report["reprojection_error_px"] is None
    assert any("checkpoint" in warning for warning in report["warnings"])


def test_what_is_foreign_to_the_scene_trains_nothing_but_is_scored_also_in_a_resumed_run(
    video: Path, clip: SyntheticClip, true_reconstruction: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    foreign = torch.zeros(COUNT, HEIGHT // 2, WIDTH // 2, dtype=torch.bool)
    foreign[:, 4:12, 10:20] = True
    solved = true_reconstruction(clip, UNPOSED)
    found = replace(solved, alignment=replace(solved.alignment, foreign=foreign))
    monkeypatch.setattr(pipeline_module, "reconstruct", lambda *_: found)
    first = new_pipeline(video)
    first.get_train_loss_dict(0)
    resumed = new_pipeline(video)
    resumed.load_pipeline(copy.deepcopy(first.state_dict()), 5)
    for pipeline in (first, resumed):
        mask = pipeline.datamanager.train_dataset[0]["mask"][..., 0]
        assert not mask[8:24, 20:40].any()
        assert float(mask.float().mean()) == pytest.approx(1 - 16 * 20 / (WIDTH * HEIGHT))
        assert "mask" not in pipeline.datamanager.eval_dataset[0]
        _, batch = pipeline.datamanager.next_train(0)
        assert "mask" in batch
        callbacks(pipeline, tmp_path / str(pipeline is first))
        written = Image.open(tmp_path / str(pipeline is first) / "poses" / "masks" / "frame_00001.png")
        assert (np.asarray(written) > 0).tolist() == mask.tolist()


@pytest.mark.parametrize(("due", "said"), [((100,), True), ((3,), False), ((), False)])
def test_a_resumed_run_says_that_it_cannot_refine_its_cameras(
    due: tuple[int, ...], said: bool, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = new_pipeline(video)
    first.get_train_loss_dict(0)
    new_pipeline(video, due).load_pipeline(copy.deepcopy(first.state_dict()), 5)
    assert ("Cameras stay as the checkpoint has them" in " ".join(capsys.readouterr().out.split())) == said


def test_pauses_and_views_between_steps_do_not_spend_the_training_time(
    video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = [0.0]
    pipeline = new_pipeline(video)
    pipeline.config.train_seconds = 2.5
    trainer, after_step = callbacks(pipeline, tmp_path)
    monkeypatch.setattr(pipeline_module.time, "monotonic", lambda: clock[0])
    done = 0
    while not trainer.stop_training:
        pipeline.get_train_loss_dict(done)
        clock[0] += 1.0
        after_step(done)
        clock[0] += 100.0
        done += 1
    assert done == 3


def test_views_of_the_networks_own_field_are_trained_and_come_back_from_a_checkpoint(video: Path) -> None:
    torch.manual_seed(0)
    first = new_pipeline(video, views="latent")
    assert first._contexts_of(np.eye(4)) == []
    for step in range(EVERY + 1):
        _, losses, _ = first.get_train_loss_dict(step)
        assert ("network_flow" in losses) == (step % EVERY == 0)
        assert losses["rgb"].requires_grad
    loaded = new_pipeline(video, views="latent").eval()
    assert isinstance(loaded, FlowCamPipeline)
    loaded.load_pipeline(copy.deepcopy(first.state_dict()), 5)
    camera = loaded.datamanager.eval_dataset.cameras[0:1]
    here, there = (pipeline.eval().model.get_outputs_for_camera(camera) for pipeline in (first, loaded))
    assert torch.allclose(here["rgb"], there["rgb"], atol=1e-5)
    assert float(here["rgb"].std()) > 0.01
    pose = loaded.flowcam.camera_optimizer.c2w[2].numpy()
    assert len(loaded._contexts_of(pose)) == loaded.config.model.network.layers.num_context_views


def test_a_network_needs_two_neighbouring_frames_with_a_pose(video: Path) -> None:
    pipeline = new_pipeline(video, views="latent")
    pipeline.get_train_loss_dict(0)
    optimizer = pipeline.flowcam.camera_optimizer
    optimizer.set_cameras(replace(optimizer.cameras(), posed=torch.arange(COUNT) % 2 == 0))
    with pytest.raises(FlowCamError, match="two neighbouring frames"):
        pipeline.teach_network()


def test_a_run_without_a_network_is_not_gone_on_with_as_if_it_had_one(
    video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = new_pipeline(video)
    first.get_train_loss_dict(0)
    with pytest.raises(SystemExit):
        new_pipeline(video, views="latent").load_pipeline(copy.deepcopy(first.state_dict()), 5)
    assert "holds no network" in capsys.readouterr().err


def test_a_run_is_not_gone_on_with_where_other_parts_of_it_train(video: Path, tmp_path: Path) -> None:
    first = new_pipeline(video, views="latent")
    first.get_train_loss_dict(0)
    state = {"step": 3, "pipeline": first.state_dict(), "optimizers": {"network": {}}}
    torch.save(state, tmp_path / "step-000000003.ckpt")
    config: Any = copy.deepcopy(flowcam_method.config)
    config.load_checkpoint = tmp_path / "step-000000003.ckpt"
    trainer = FlowCamTrainer(config)
    trainer.pipeline = new_pipeline(video)
    trainer.optimizers = trainer.setup_optimizers()
    with pytest.raises(FlowCamError, match=r"--pipeline\.model\.views"):
        trainer._load_checkpoint()


@pytest.mark.parametrize("views", ["blend", "latent"])
def test_the_viewer_can_ask_a_run_that_has_no_poses_yet_for_all_it_holds(video: Path, views: str) -> None:
    pipeline = new_pipeline(video, views=views)
    found = [element for _, element in parse_object(pipeline, ViewerControl, "elements")]  # as it does when it starts
    assert pipeline.viewer_panel in found
