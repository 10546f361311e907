"""The shipped network poses a clip that it was not trained on, by name, far better than trivial answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowcam_ns.data.network_poses import network_alignment
from flowcam_ns.model.checkpoint import SHIPPED, locate, read_checkpoint
from flowcam_ns.model.network_scores import pose_errors
from flowcam_ns.synthetic.clip import make_clip

LARGEST_FILE = 20_000_000


def test_the_shipped_network_beats_no_motion_and_constant_velocity() -> None:
    frames = make_clip("orbit", seed=3, frames=12, width=192, height=108).to_frames()
    truth = frames.ground_truth
    assert truth is not None
    errors = pose_errors(network_alignment(frames, Path("small"), truth.camera).c2w, torch.from_numpy(truth.c2w))
    assert errors["rotation_deg"] < 0.5 * errors["still_rotation_deg"]
    assert errors["direction_deg"] < 0.5 * min(errors["constant_direction_deg"], errors["still_direction_deg"])
    assert errors["ate"] < errors["constant_ate"]


def test_its_file_is_small_and_says_what_it_is() -> None:
    assert SHIPPED["small"].stat().st_size < LARGEST_FILE
    assert read_checkpoint(Path("small")).long_side == 96


def test_a_file_of_the_users_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(Path("small")) == SHIPPED["small"]
    (tmp_path / "small").touch()
    assert locate(Path("small")) == tmp_path / "small"
