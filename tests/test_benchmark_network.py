"""The network's benchmark runs on whatever device there is; plain fields and half precision give poses too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmark_network import BenchmarkNetwork, main, random_clip
from flowcam_ns.model.checkpoint import read_checkpoint, write_checkpoint
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.losses import NetworkLossConfig, clip_losses
from flowcam_ns.model.network_config import small_config

TINY = BenchmarkNetwork("small", sizes=(32,), frames=4, window=3, repeats=1, device="cpu")


def test_every_combination_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(replace(TINY, output=tmp_path / "figures.json"))
    assert {(row.field, row.precision) for row in rows} >= {
        (field, precision) for field in ("residual", "mlp, torch") for precision in ("float32", "bfloat16")
    }
    assert all(row.poses_per_second > 0 and row.memory_mb > 0 for row in rows)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert len(written["rows"]) == len(rows)
    assert written["flow_pairs_per_second"]["32"]["dis"] > 0
    assert capsys.readouterr().out.count("| 32 |") == len(rows)


@pytest.mark.parametrize("field", ["residual", "mlp"])
def test_half_precision_keeps_poses_in_full_and_every_gradient_finite(field: str) -> None:
    torch.manual_seed(0)
    network = FlowCamNetwork(replace(small_config(), field=field))  # type: ignore[arg-type]
    clip = random_clip(TINY, frames=3, size=32, batch=2)
    rays = torch.arange(0, 32 * 32, 13)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(clip, rays, rays)
        losses = clip_losses(output, clip, rays, rays, NetworkLossConfig())
    assert output.motion.relative.dtype == torch.float32
    rotation = output.motion.relative[..., :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(-1, -2), torch.eye(3).expand_as(rotation), atol=1e-4)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    assert len(gradients) > 10
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_a_network_with_a_plain_field_goes_through_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = FlowCamNetwork(replace(small_config(), field="mlp"))
    write_checkpoint(tmp_path / "mlp.pt", network, long_side=32)
    loaded = read_checkpoint(tmp_path / "mlp.pt").build()
    assert loaded.config.field == "mlp"
    assert all(torch.equal(x, y) for x, y in zip(network.parameters(), loaded.parameters(), strict=True))
