"""RAFT with published weights, what happens without them, and the colour wheel."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.color_wheel import flow_to_rgb
from flowcam_ns.flow.raft import RAFTFlow
from flowcam_ns.flow.store import FlowStore


def shifted_pair() -> np.ndarray:
    """RGB frames of 150 x 202 px; the second shows everything 4 px further right and 2 px further down."""
    noise = np.random.default_rng(0).normal(size=(200, 260, 3)).astype(np.float32)
    plane = cv2.GaussianBlur(noise, (0, 0), 3.0)
    plane = np.clip(128 + 50 * plane / plane.std(), 0, 255).astype(np.uint8)
    return np.stack([plane[20:170, 20:222], plane[18:168, 16:218]])


@pytest.fixture
def weights(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shared / "weights"
    if not any(folder.glob("hub/checkpoints/raft_small*")):
        pytest.skip("no RAFT weights at hand")
    monkeypatch.setenv("TORCH_HOME", str(folder))
    return folder


def test_raft_finds_a_shift_at_a_size_it_must_pad(weights: Path) -> None:
    first, second = shifted_pair()
    estimator = RAFTFlow(small=True, updates=8)
    flow = estimator(first, second)
    assert flow.shape == (150, 202, 2)
    assert flow.dtype == np.float32
    assert np.abs(flow[20:-20, 20:-20] - [4, 2]).mean() < 0.2
    assert estimator.key == "raft-small C_T_V1 8 updates cpu"


def test_raft_works_in_the_store(weights: Path) -> None:
    store = FlowStore(shifted_pair(), RAFTFlow(small=True))
    points = np.full((2, 1, 2), 75, np.float32)
    targets, confidence = store.sample([(0, 1), (1, 0)], points)
    np.testing.assert_allclose(targets[:, 0], [[79, 77], [71, 73]], atol=0.3)
    assert confidence.min() > 0.7


def test_missing_weights_and_no_network_give_one_line_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    first, second = shifted_pair()
    began = time.monotonic()
    with pytest.raises(FlowCamError) as raised:
        RAFTFlow()(first, second)
    message = str(raised.value)
    assert time.monotonic() - began < 10
    assert "\n" not in message
    assert str(tmp_path / "hub" / "checkpoints" / "raft_large") in message
    assert "'dis'" in message


def test_damaged_weights_give_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "raft_small_C_T_V2-01064c6d.pth").write_bytes(b"not weights")
    with pytest.raises(FlowCamError, match="raft_small_C_T_V2"):
        RAFTFlow(small=True)(*shifted_pair())


def test_colours_tell_direction_and_length() -> None:
    flow = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [-1.0, 0.0], [0.0, 1.0], [9.0, 0.0], [float("nan"), 0.0]])
    rgb = flow_to_rgb(flow, largest=1.0)
    torch.testing.assert_close(rgb[0], torch.ones(3))
    torch.testing.assert_close(rgb[1], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(rgb[2], torch.tensor([1.0, 0.5, 0.5]))
    torch.testing.assert_close(rgb[5], torch.tensor([0.75, 0.0, 0.0]))
    torch.testing.assert_close(rgb[6], torch.zeros(3))
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    assert (rgb[3] - rgb[4]).abs().max() > 0.3


def test_neighbouring_directions_have_neighbouring_colours() -> None:
    angle = torch.linspace(-4, 4, 2000)
    rgb = flow_to_rgb(torch.stack([angle.cos(), angle.sin()], -1).reshape(40, 50, 2), largest=1.0).reshape(-1, 3)
    assert (rgb[1:] - rgb[:-1]).abs().max() < 0.02


def test_the_length_scale_comes_from_the_flow_itself() -> None:
    flow = torch.rand(30, 40, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow_to_rgb(flow), flow_to_rgb(100 * flow))
    assert flow_to_rgb(torch.zeros(0, 2)).shape == (0, 3)


def test_weights_of_a_checkpoint_are_used_and_told_apart() -> None:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    state = raft_small(weights=None).state_dict()
    other = {name: tensor.clone() for name, tensor in state.items()}
    other["mask_predictor.conv.bias" if "mask_predictor.conv.bias" in other else next(iter(other))] += 1
    first, second = (RAFTFlow.with_small_weights(weights) for weights in (state, other))
    assert first.key != second.key
    assert first.key.startswith("raft-small checkpoint ")
    assert first(*shifted_pair()).shape == (150, 202, 2)
    with pytest.raises(FlowCamError, match="not those of RAFT-small"):
        RAFTFlow.with_small_weights({"x": torch.ones(1)})
