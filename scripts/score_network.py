#!/usr/bin/env python3
"""Score a network's own feed-forward poses of recorded sequences, given their lens, beside two trivial answers.

python scripts/score_network.py --data ../shared/data --checkpoint flowcam.pt
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from _benchmark.sequences import NAMES, load_sequence
from _benchmark.tables import Row, Section
from flowcam_ns.alignment.estimate import flow_store
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.data.network_video import network_video
from flowcam_ns.model.checkpoint import Checkpoint, read_checkpoint
from flowcam_ns.model.network_scores import pose_errors
from flowcam_ns.model.online import network_poses
from flowcam_ns.video.frames import Frames

CLIP = 6
"""Frames over which positions are compared: what the small network is trained on."""


@dataclass
class ScoreNetwork:
    """Print a table of rotation and direction errors between neighbours and of positions over six frames."""

    checkpoint: Path
    """The network's file."""
    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences."""
    sequences: tuple[str, ...] = NAMES
    """Folders under `data`; ":n" takes only the first n frames."""
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    """How flow is computed."""


def score(frames: Frames, checkpoint: Checkpoint, options: AlignmentOptions) -> Row:
    """Errors of a network on frames whose poses and lens are known."""
    truth = frames.ground_truth
    assert truth is not None
    assert truth.camera is not None
    lens = truth.camera.scaled_to(frames.width, frames.height)
    whole = slice(0, len(frames))
    video = network_video(frames, flow_store(frames, options), lens, whole, checkpoint.long_side, options.device)
    poses = network_poses(checkpoint.build().to(options.device), video).cpu()
    true_poses = torch.from_numpy(truth.c2w)
    errors = pose_errors(poses, true_poses)
    starts = range(0, max(len(frames) - CLIP, 0) + 1, CLIP - 1)
    clips = [pose_errors(poses[s : s + CLIP], true_poses[s : s + CLIP]) for s in starts]
    middle = {name: float(torch.tensor([clip[name] for clip in clips]).median()) for name in ("ate", "constant_ate")}
    return {
        "sequence": frames.name,
        "rotation, degrees": errors["rotation_deg"],
        "no motion": errors["still_rotation_deg"],
        "direction, degrees": errors["direction_deg"],
        "constant velocity": errors["constant_direction_deg"],
        "ATE over 6 frames, %": 100 * middle["ate"],
        "constant velocity's": 100 * middle["constant_ate"],
    }


def main(options: ScoreNetwork) -> Section:
    """One row for each sequence."""
    section = Section(f"{options.checkpoint.name}, feed-forward")
    checkpoint = read_checkpoint(options.checkpoint)
    for name in options.sequences:
        section.rows.append(score(load_sequence(options.data, name).frames, checkpoint, options.alignment))
    print(section.markdown())
    return section


if __name__ == "__main__":
    main(tyro.cli(ScoreNetwork, description=__doc__))
