"""`ns-train flowcam --pipeline.model.checkpoint FILE`: its network, its size, its poses as the start of the solve."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flowcam_ns.method_configs.flowcam import flowcam_method

from flowcam_ns.alignment import attempt
from flowcam_ns.model.checkpoint import read_checkpoint, to_our_names, write_checkpoint
from flowcam_ns.model.flowcam_model import FlowCamModelConfig
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.network_stage import EVERY
from flowcam_ns.pipeline import FlowCamPipeline
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.trainer import FlowCamTrainerConfig


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", make_clip("orbit", seed=0, frames=12, width=192, height=108).rgb)
    return tmp_path / "clip.mp4"


def configured(video: Path, checkpoint: Path) -> FlowCamTrainerConfig:
    config = copy.deepcopy(flowcam_method.config)
    assert isinstance(config, FlowCamTrainerConfig)
    config.data = config.pipeline.datamanager.data = video
    config.output_dir = video.parent / "outputs"
    config.max_num_iterations = 1
    config.vis = "tensorboard"
    config.pipeline.model.checkpoint = checkpoint  # type: ignore[attr-defined]
    return config


def test_the_network_is_trained_where_it_starts_from_a_checkpoint_rules_the_poses_or_is_asked_for() -> None:
    model = flowcam_method.config.pipeline.model
    assert isinstance(model, FlowCamModelConfig)

    def every(paper: bool = False, asked: int | None = None, **changes: Path) -> int:
        return replace(model, network=replace(model.network, paper=paper, every=asked), **changes).network_every

    assert every() == 0
    assert not model.uses_network
    assert every(paper=True) == every(checkpoint=Path("net.pt")) == EVERY
    assert replace(model, views="latent").network_every == EVERY
    assert every(asked=3) == 3
    assert every(paper=True, asked=0) == every(checkpoint=Path("net.pt"), asked=0) == 0


def test_a_run_starts_from_the_network_of_a_checkpoint(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = NetworkConfig(**{**vars(small_config()), "field_width": 24})
    write_checkpoint(tmp_path / "net.pt", FlowCamNetwork(layers), long_side=48)
    starts = []
    solve = attempt.segment_from_poses

    def remember(problem: object, c2w: torch.Tensor, belief: object) -> object:
        starts.append(c2w)
        return solve(problem, c2w, belief)  # type: ignore[arg-type]

    monkeypatch.setattr(attempt, "segment_from_poses", remember)
    config = configured(video, tmp_path / "net.pt")
    config.set_timestamp()
    config.save_config()
    assert "field_width: 24" in (config.get_base_dir() / "config.yml").read_text()
    trainer = config.setup()
    trainer.setup()
    pipeline = trainer.pipeline
    assert isinstance(pipeline, FlowCamPipeline)
    stage = pipeline.flowcam.network
    assert stage is not None
    assert stage.config.long_side == 48
    trainer.pipeline.get_train_loss_dict(1)  # solves; not one of the steps in which the network trains
    assert [len(c2w) for c2w in starts] == [12]
    trained = to_our_names(read_checkpoint(tmp_path / "net.pt").network)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in stage.network.state_dict().items())


def test_a_wrong_checkpoint_ends_the_run_before_it_leaves_anything(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model_state_dict": {"a": torch.ones(1)}}, tmp_path / "wrong.pt")
    with pytest.raises(SystemExit) as end:
        configured(video, tmp_path / "wrong.pt").set_timestamp()
    assert end.value.code == 1
    assert "is missing" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
