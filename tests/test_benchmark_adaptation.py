"""Adaptation: two starts on the same cameras, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import benchmark_adaptation
from _benchmark.ablation import Ablation, Input
from benchmark_adaptation import NEAREST, STARTS, AdaptationOptions, curve, steps_to_reach
from flowcam_ns.model.checkpoint import write_checkpoint
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import small_config
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.video.options import FrameOptions


def test_an_untrained_and_a_trained_network_are_set_side_by_side(tmp_path: Path) -> None:
    clip = make_clip("orbit", seed=0, frames=9, width=128, height=72)
    write_video(tmp_path / "clip.mp4", clip.rgb)
    torch.manual_seed(7)
    write_checkpoint(tmp_path / "net.pt", FlowCamNetwork(small_config()), long_side=48)
    source = Input("orbit", tmp_path / "clip.mp4", torch.from_numpy(clip.c2w), FrameOptions(thin=False))
    options = AdaptationOptions(tmp_path / "net.pt", steps=(0, 2), rays=64, long_side=48)
    ablation = Ablation(source, tmp_path / "cache", "cpu", warm_up=False)
    nothing, trained = (dict(curve(ablation, options, 0, start)) for start in STARTS)
    assert nothing.keys() == trained.keys() == {0, 2, NEAREST}
    assert nothing[NEAREST] == trained[NEAREST]
    assert nothing[0] != trained[0]
    assert nothing[0] != nothing[2]


def test_the_rows_of_several_seeds_can_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = SimpleNamespace(truth=SimpleNamespace(c2w=np.tile(np.eye(4), (3, 1, 1))))
    monkeypatch.setattr("_benchmark.ablation.load_sequence", lambda *_: recorded)
    monkeypatch.setattr(benchmark_adaptation, "curve", lambda *_: iter([(0, 10.0), (9, 20.0), (NEAREST, 15.0)]))
    options = AdaptationOptions(sequences=("a", "b"), steps=(0, 9), seeds=(0, 3), output_dir=tmp_path)
    scores, speed = benchmark_adaptation.main(options)
    told = [(row["sequence"], row["seed"]) for row in speed.rows]
    assert told == [("a", 0), ("a", 3), ("b", 0), ("b", 3)]
    assert len({(row["sequence"], row["seed"], row["start"]) for row in scores.rows}) == len(scores.rows) == 8


def test_the_first_step_with_as_high_a_psnr_counts() -> None:
    nothing, trained = {0: 10.0, 5: 15.0, 9: 20.0}, {0: 14.0, 5: 16.0, 9: 15.0}
    assert steps_to_reach(nothing, trained, (0, 5, 9)) == {"5": 5, "9": None}
    assert steps_to_reach(nothing, {0: 21.0, 5: 0.0, 9: 0.0}, (0, 5, 9)) == {"5": 0, "9": 0}
