"""The bundle adjustment from a network's poses, beside the same from nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import benchmark_start
from flowcam_ns.model.checkpoint import write_checkpoint
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import small_config
from flowcam_ns.synthetic.clip import make_clip


def test_every_way_is_counted_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = make_clip("orbit", seed=0, frames=12, width=240, height=136).to_frames()
    monkeypatch.setattr(
        benchmark_start, "load_sequence", lambda *_: SimpleNamespace(frames=frames, truth=frames.ground_truth)
    )
    torch.manual_seed(0)
    write_checkpoint(tmp_path / "net.pt", FlowCamNetwork(small_config()), long_side=96)
    options = benchmark_start.StartOptions(tmp_path / "net.pt", sequences=("orbit",), output_dir=tmp_path / "out")
    section = benchmark_start.main(options)
    rows = {(row["lens"], row["start"]): row for row in section.rows}
    assert len(rows) == 4
    for row in rows.values():
        assert isinstance(row["ATE, %"], float)
        assert row["ATE, %"] < 3
    given = {start: rows["given", start]["steps"] for start in ("nothing", "net.pt")}
    assert 0 < given["net.pt"] < given["nothing"]  # type: ignore[operator]
    assert (tmp_path / "out" / "benchmark.md").exists()
