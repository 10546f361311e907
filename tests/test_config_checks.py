"""Options that cannot work are refused before the video is even looked at; Ctrl-C while setting up ends quietly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from flowcam_ns.method_configs.flowcam import flowcam_method
from flowcam_ns.method_configs.flowcam_splat import flowcam_splat_method
from nerfstudio.engine.trainer import Trainer

from flowcam_ns import trainer as trainer_module
from flowcam_ns.trainer import FlowCamTrainer

BOTH = {"flowcam": flowcam_method, "flowcam-splat": flowcam_splat_method}
REFUSED = [
    ("flowcam", "machine.num_devices", 2, "flowcam-pretrain"),
    ("flowcam-splat", "machine.num_machines", 2, "flowcam-pretrain"),
    ("flowcam", "pipeline.datamanager.camera_res_scale_factor", 0.5, "train-long-side"),
    ("flowcam-splat", "pipeline.datamanager.camera_res_scale_factor", 0.5, "train-long-side"),
    ("flowcam", "pipeline.model.camera_optimizer.mode", "SO3xR3", "camera-optimizer.mode"),
    ("flowcam", "pipeline.model.camera_optimizer.rot_l2_penalty", 1.0, "rot-l2-penalty"),
    ("flowcam", "pipeline.datamanager.patch_size", 8, "patch-size"),
    ("flowcam", "pipeline.model.enable_collider", True, "enable-collider"),
]


@pytest.fixture(autouse=True)
def any_input(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """No video is needed; tells which were read."""
    read: list[Path] = []
    monkeypatch.setattr(trainer_module, "decode_frames", lambda path, options: read.append(path))
    monkeypatch.setattr(trainer_module, "require_cuda", lambda: None)
    return read


@pytest.mark.parametrize(("method", "option", "value", "named"), REFUSED)
def test_what_cannot_work_is_refused_in_one_line(
    method: str, option: str, value: Any, named: str, any_input: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config: Any = copy.deepcopy(BOTH[method].config)
    *owners, name = option.split(".")
    owner = config
    for step in owners:
        owner = getattr(owner, step)
    setattr(owner, name, value)
    with pytest.raises(SystemExit) as end:
        config.set_timestamp()
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert named in line
    assert any_input == []


def test_the_papers_poses_and_its_field_together_are_refused(
    any_input: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its network is trained on all colours: no view of it would be held out."""
    config: Any = copy.deepcopy(flowcam_method.config)
    config.pipeline.model.views, config.pipeline.model.network.paper = "latent", True
    with pytest.raises(SystemExit):
        config.set_timestamp()
    assert "exclude each other" in capsys.readouterr().err
    assert any_input == []


@pytest.mark.parametrize("method", BOTH)
def test_the_defaults_are_not(method: str, any_input: list[Path]) -> None:
    copy.deepcopy(BOTH[method].config).set_timestamp()
    assert len(any_input) == 1


def test_ctrl_c_while_splats_are_posed_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """nerfstudio's launcher would print a traceback and exit with 0."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "setup", interrupted)
    with pytest.raises(SystemExit) as end:
        FlowCamTrainer.__new__(FlowCamTrainer).setup()
    assert end.value.code == 130
    assert len(capsys.readouterr().out.strip().splitlines()) == 1
