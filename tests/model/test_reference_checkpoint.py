"""Checkpoints in the authors' format: what is read, what is refused, and the way back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.checkpoint import read_checkpoint, shapes_of, to_authors_names, write_checkpoint
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.reference import load_reference

RAFT_KEY = "raft_midas_net.raft.feature_encoder.convnormrelu.0.bias"


@pytest.fixture(scope="module")
def network() -> FlowCamNetwork:
    torch.manual_seed(0)
    return FlowCamNetwork(NetworkConfig())


def saved(path: Path, state: dict[str, torch.Tensor], **rest: object) -> Path:
    torch.save({"model_state_dict": state, **rest}, path)
    return path


def test_the_network_has_the_keys_and_shapes_of_the_authors() -> None:
    import json

    listed = json.loads((Path(__file__).parents[1] / "data" / "flowcam_checkpoint_keys.json").read_text())
    expected = {name: tuple(shape) for name, shape in listed.items() if not name.startswith("raft_midas_net.")}
    assert {name: tuple(shape) for name, shape in shapes_of(NetworkConfig()).items()} == expected


@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_bare_names_are_read_with_and_without_raft(
    tmp_path: Path, network: FlowCamNetwork, prefix: str
) -> None:
    state = to_authors_names(network.state_dict())
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    bias = torch.arange(32.0)
    with_raft = read_checkpoint(saved(tmp_path / "a.pt", wrapped | {prefix + RAFT_KEY: bias}, step=7))
    without = read_checkpoint(saved(tmp_path / "b.pt", wrapped))
    assert with_raft.step == 7
    assert torch.equal(with_raft.raft["feature_encoder.convnormrelu.0.bias"], bias)
    assert without.step is None
    assert not without.raft
    for checkpoint in (with_raft, without):
        assert checkpoint.network.keys() == state.keys()
        assert all(torch.equal(checkpoint.network[name], state[name]) for name in state)


def test_what_is_written_reads_back_and_loads(tmp_path: Path, network: FlowCamNetwork) -> None:
    path = tmp_path / "ours.pt"
    write_checkpoint(path, network, step=3, raft={"x": torch.ones(2)})
    checkpoint = read_checkpoint(path)
    assert checkpoint.step == 3
    assert torch.equal(checkpoint.raft["x"], torch.ones(2))
    loaded = load_reference(checkpoint.network, num_views=2).network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())
    assert [entry.name for entry in tmp_path.iterdir()] == ["ours.pt"]


def test_a_differing_network_is_refused_by_name(tmp_path: Path, network: FlowCamNetwork) -> None:
    state = to_authors_names(network.state_dict())
    state["renderer.phi2.out.bias"] = torch.zeros(5)
    del state["ray_comb.0.bias"]
    state["stranger"] = torch.zeros(1)
    with pytest.raises(FlowCamError) as caught:
        read_checkpoint(saved(tmp_path / "wrong.pt", state))
    message = str(caught.value)
    assert "\n" not in message
    for part in ("ray_comb.0.bias is missing", "stranger is not part", "renderer.phi2.out.bias is [5] instead of [4]"):
        assert part in message


def test_a_network_of_our_sizes_goes_there_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = FlowCamNetwork(small_config(num_context_views=3))
    write_checkpoint(tmp_path / "small.pt", small, step=9, long_side=96)
    checkpoint = read_checkpoint(tmp_path / "small.pt")
    assert (checkpoint.step, checkpoint.long_side, checkpoint.layers) == (9, 96, small.config)
    loaded = checkpoint.build().state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in small.state_dict().items())


def test_safetensors_hold_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = FlowCamNetwork(small_config())
    for name in ("net.pt", "net.safetensors"):
        write_checkpoint(tmp_path / name, small, 7, {"encoder.weight": torch.ones(2)}, long_side=96)
    first, second = (read_checkpoint(tmp_path / name) for name in ("net.pt", "net.safetensors"))
    assert (
        (first.step, first.long_side, first.layers)
        == (second.step, second.long_side, second.layers)
        == (7, 96, small.config)
    )
    for ours, theirs in ((first.network, second.network), (first.raft, second.raft)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt", "net.safetensors"]
    (tmp_path / "broken.safetensors").write_bytes(b"{" * 40)
    for name, said in (("broken.safetensors", "is not a safetensors file"), ("none.safetensors", "there is no")):
        with pytest.raises(FlowCamError, match=said):
            read_checkpoint(tmp_path / name)


def test_a_network_can_do_without_learned_confidence(tmp_path: Path) -> None:
    plain = FlowCamNetwork(replace(small_config(), learned_confidence=False))
    assert not any(name.startswith("confidence") for name in plain.state_dict())
    write_checkpoint(tmp_path / "plain.pt", plain)
    assert not read_checkpoint(tmp_path / "plain.pt").build().config.learned_confidence
    clip = Clip(torch.zeros(1, 3, 3, 16, 24), torch.full((1, 2, 2, 16, 24), 0.01), torch.eye(3).expand(1, 3, 3, 3))
    assert torch.equal(plain.estimate_motion(clip, torch.arange(5)).weights, torch.ones(1, 2, 5, 1))


@pytest.mark.parametrize(
    "layers",
    [
        {"encoder_width": 10**9},
        {"encoder_width": 4.5},
        {"encoder": "vgg"},
        {"size": 3},
        {"opaque_far": 1},
        [1],
        "small",
    ],
)
def test_a_network_that_cannot_be_is_refused(tmp_path: Path, layers: object) -> None:
    path = saved(tmp_path / "odd.pt", to_authors_names(FlowCamNetwork(small_config()).state_dict()), layers=layers)
    with pytest.raises(FlowCamError, match=r"odd\.pt holds"):
        read_checkpoint(path)


def test_a_run_s_own_checkpoint_is_told_from_the_exported_one(tmp_path: Path) -> None:
    torch.save({"step": 1, "pipeline": {}, "optimizers": {}}, tmp_path / "step-000000001.ckpt")
    with pytest.raises(FlowCamError, match=r"flowcam\.pt beside it"):
        read_checkpoint(tmp_path / "step-000000001.ckpt")


class Harmful:
    """Unpickled without care, this would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model_state_dict": {"a": 1}}, tmp_path / "numbers.pt")
    torch.save({"model_state_dict": Harmful()}, tmp_path / "harmful.pt")
    for name in ("text", "empty", "list", "numbers", "harmful", "absent"):
        with pytest.raises(FlowCamError):
            read_checkpoint(tmp_path / f"{name}.pt")
    with pytest.raises(FlowCamError):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "harm").exists()
