"""The ablation: what is left out is really out, and the field beside it does not notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from _benchmark.ablation import METHOD, PARTS, Ablation, Input, Size, configured, flags
from flowcam_ns.model.checkpoint import write_checkpoint
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import small_config
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.video.options import FrameOptions

SIZE = Size(steps=2, rays=64, long_side=64, every=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Input:
    clip = make_clip("orbit", seed=0, frames=9, width=128, height=72)
    path = tmp_path_factory.mktemp("film") / "clip.mp4"
    write_video(path, clip.rgb)
    return Input("orbit", path, torch.from_numpy(clip.c2w), FrameOptions(thin=False))


def test_every_part_is_a_field_of_the_config_and_a_flag(source: Input, tmp_path: Path) -> None:
    for changes in PARTS.values():
        config = configured(changes, source, SIZE, tmp_path)
        assert (config == configured({}, source, SIZE, tmp_path)) == (not changes)
    assert (
        configured(PARTS["with it, no confidence of flow"], source, SIZE, tmp_path).alignment.flow_confidence is False
    )
    assert flags({"alignment.flow_confidence": False}) == "--pipeline.alignment.flow-confidence False"
    assert METHOD.pipeline.datamanager.data != source.data, "the method itself must stay as it was"
    with pytest.raises(AttributeError, match="has no model"):
        configured({"model.nonsense": 1}, source, SIZE, tmp_path)


def test_the_field_is_the_same_with_and_without_the_network(source: Input, tmp_path: Path) -> None:
    ablation = Ablation(source, tmp_path, "cpu", warm_up=False)
    whole = ablation.run("with the network", PARTS["with the network (steps 3-4)"], SIZE)
    part = ablation.run("default", {}, SIZE)
    shared = ("ATE, %", "AUC@5", "rotation, degrees", "PSNR", "solve, s")
    assert {name: whole[name] for name in shared} == {name: part[name] for name in shared}
    for name in ("network's ATE, %", "network's AUC@5", "network, s"):
        assert part[name] is None
        assert isinstance(whole[name], float)


def test_a_checkpoint_changes_the_solve(source: Input, tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_checkpoint(tmp_path / "net.pt", FlowCamNetwork(small_config()), long_side=48)
    config = configured({"model.checkpoint": tmp_path / "net.pt"}, source, SIZE, tmp_path)
    assert config.model.network.long_side == 48
