"""Scores of a network's own poses: finite, beside those of trivial answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.model.checkpoint import read_checkpoint, write_checkpoint
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import small_config
from flowcam_ns.synthetic.clip import make_clip
from score_network import score


def test_a_network_is_scored_beside_trivial_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_checkpoint(tmp_path / "net.pt", FlowCamNetwork(small_config()), long_side=48)
    frames = replace(make_clip("forward", 1, frames=8, width=96, height=54).to_frames(), name="clip")
    row = score(frames, read_checkpoint(tmp_path / "net.pt"), AlignmentOptions(cache_dir=tmp_path))
    assert row["sequence"] == "clip"
    numbers = [value for value in row.values() if isinstance(value, float)]
    assert len(numbers) == 6
    assert all(0 <= value < 1000 for value in numbers)
    assert isinstance(row["constant velocity"], float)
    assert row["constant velocity"] < 40, "the camera goes ahead"
    assert row["constant velocity's"] == pytest.approx(0, abs=5)
