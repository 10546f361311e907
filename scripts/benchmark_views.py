#!/usr/bin/env python3
"""Score held-out views of recorded sequences: the blend field against what needs no training.

python scripts/benchmark_views.py --data ../shared/data
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn.functional import interpolate

from _benchmark.machine import describe_machine
from _benchmark.tables import Row, Section, write_report
from flowcam_ns.alignment.dense_depth import dense_inverse_depth
from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.model.blend_field import BlendField, BlendFieldConfig
from flowcam_ns.model.blend_training import camera_rays, training_step
from flowcam_ns.model.image_scores import ImageScores, nearest_frame_copy
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions


@dataclass
class Options:
    """What to measure, and where to put it."""

    data: Path = Path("../shared/data")
    """Folder that holds the recorded sequences."""
    sequences: tuple[str, ...] = ("flip_phone_desk", "redkitchen_a", "box_realsense", "kitti06_street", "fox:23")
    """Folders under `data`; ":n" takes only the first n frames."""
    output_dir: Path = Path("outputs/benchmark_views")
    """Folder for benchmark.md, benchmark.json and pictures."""
    size: int = 480
    """Long side of frames and views, px."""
    seconds: float = 120.0
    """Wall-clock of training per sequence."""
    poses: Literal["estimated", "truth"] = "estimated"
    """Cameras from our own bundle adjustment, or the true ones (to tell pose errors from field errors)."""
    motions: tuple[str, ...] = ("orbit", "forward", "walk")
    """Synthetic motions whose dense depth is scored against the truth."""


def main(options: Options) -> None:
    """One row for each sequence and method; what is measured is on disk before the next sequence starts."""
    depths = depth_section(options.motions)
    print(depths.markdown(), flush=True)
    section = Section(f"Held-out views at {options.size} px, {options.poses} poses")
    section.notes.append(
        "Depth warp: the two nearest frames, warped by our depths and blended, no training. Seconds: from decoded "
        "frames to the field, training included; the time of one view has its own column."
    )
    for sequence in options.sequences:
        name, _, count = sequence.partition(":")
        frames = load_frames(
            options.data / name, FrameOptions(max_size=options.size, end_frame=int(count) - 1 if count else None)
        )
        section.rows.extend(measure(name, frames, options))
        write_report(options.output_dir, describe_machine(), [depths, section])
        print(section.markdown(), flush=True)


def depth_section(motions: tuple[str, ...]) -> Section:
    """Relative error of dense inverse depth, estimated flow and true cameras, 24 frames at 480 x 270."""
    section = Section("Dense depth of the synthetic scene (true cameras, estimated flow)")
    for motion in motions:
        clip = make_clip(motion, 0, frames=24, width=480, height=270)
        usable = torch.ones(len(clip), dtype=torch.bool)
        usable[held_out_frames(len(clip))] = False
        c2w, images = torch.from_numpy(clip.c2w), torch.from_numpy(clip.rgb)
        inverse, _ = dense_inverse_depth(c2w, clip.camera, FlowStore(clip.rgb), usable, images)
        truth = interpolate(torch.from_numpy(clip.depth)[:, None], size=inverse.shape[1:], mode="nearest")[:, 0]
        error = (inverse * truth - 1).abs()[usable].numpy() * 100
        section.rows.append(
            {"motion": motion, "median error, %": float(np.median(error)), "p90, %": float(np.quantile(error, 0.9))}
        )
    return section


def measure(name: str, frames: Frames, options: Options) -> list[Row]:
    """All rows of one sequence."""
    started = time.monotonic()
    scene = build_scene(frames, options.poses)
    prepared = time.monotonic() - started
    held_out = held_out_frames(len(frames))
    scores = ImageScores()
    rows: list[Row] = []

    def add(method: str, views: dict[int, Tensor], seconds: float, view_seconds: float) -> None:
        each = [scores(view, scene.images[i].float() / 255) for i, view in views.items()]
        mean = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        rows.append(
            {"sequence": name, "method": method, **mean, "seconds": round(seconds), "s per view": view_seconds or None}
        )
        for i, view in views.items():
            picture = torch.cat([view.clamp(0, 1) * 255, scene.images[i].float()], dim=1).byte().numpy()
            cv2.imwrite(str(folder / f"{method.replace(' ', '_')}_{i:03}.png"), picture[..., ::-1])

    folder = options.output_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    add("nearest frame", {i: nearest_frame_copy(scene, i) for i in held_out}, 0, 0)
    for method, config, seconds in (
        ("depth warp", BlendFieldConfig(contexts=2, guide_contexts=2, refiner_width=0), 0.0),
        ("ours untrained", BlendFieldConfig(), 0.0),
        ("ours", BlendFieldConfig(), options.seconds),
    ):
        torch.manual_seed(0)
        field = BlendField(config)
        field.set_scene(scene)
        train(field, seconds)
        begun = time.monotonic()
        views = {i: render(field, i) for i in held_out}
        add(method, views, prepared + seconds, (time.monotonic() - begun) / len(held_out))
    return rows


def build_scene(frames: Frames, poses: str) -> ContextScene:
    """Poses, dense depth and colours of the frames that are not held out."""
    flows = FlowStore(frames.images)
    usable = torch.ones(len(frames), dtype=torch.bool)
    usable[held_out_frames(len(frames))] = False
    if poses == "truth":
        if frames.ground_truth is None or frames.ground_truth.camera is None:
            raise FlowCamError(f"{frames.name} has no true poses: use --poses estimated")
        c2w, camera = torch.from_numpy(frames.ground_truth.c2w), frames.ground_truth.camera
    else:
        alignment = estimate_poses(frames, flow=flows)
        c2w, camera = alignment.c2w, alignment.camera
        usable &= alignment.posed
    images = torch.from_numpy(frames.images)
    inverse_depth, confidence = dense_inverse_depth(c2w, camera, flows, usable, images)
    return ContextScene(images, c2w.float(), camera, inverse_depth, confidence, usable)


def train(field: BlendField, seconds: float, learning_rate: float = 2e-3) -> None:
    """Train on random patches of the usable frames for a time."""
    assert field.scene is not None
    targets = torch.nonzero(field.scene.usable)[:, 0]
    optimizer = torch.optim.Adam(field.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    started = time.monotonic()
    while (spent := time.monotonic() - started) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * max(0.02, 1 - spent / seconds)
        target = int(targets[torch.randint(len(targets), (1,), generator=generator)])
        losses = training_step(field, target, generator)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()


@torch.no_grad()
def render(field: BlendField, frame: int) -> Tensor:
    """The view of one frame, never read from that frame itself."""
    assert field.scene is not None
    origins, directions, forward = camera_rays(field.scene.camera, field.scene.c2w[frame])
    return field(origins, directions, exclude=frame, forward=forward)["rgb"]


if __name__ == "__main__":
    main(tyro.cli(Options))
