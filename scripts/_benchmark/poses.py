"""How good estimated poses are, on clips whose truth is known exactly and on recorded sequences."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from _benchmark.tables import Row, Section
from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.geometry.metrics import PoseScores, constant_velocity_baseline, score_trajectory
from flowcam_ns.synthetic.clip import ClipPlan, plan_clip
from flowcam_ns.synthetic.exact_flow import ExactFlowStore, rows_of
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.video.frames import Frames, GroundTruth
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions


@dataclass(frozen=True)
class Solve:
    """Frames and what was made of them."""

    frames: Frames
    alignment: Alignment
    decoding_seconds: float
    seconds: float
    """Wall-clock from the files to poses."""


def synthetic_section(motions: Iterable[str], seeds: Iterable[int], folder: Path) -> Section:
    """Every motion and seed through an H.264 file, with exact and with estimated flow."""
    section = Section("Synthetic motions, 60 frames of 480x270 through H.264")
    for seed in seeds:
        for motion in motions:
            plan = plan_clip(motion, seed)
            path = folder / f"{motion}_{seed}.mp4"
            write_video(path, (plan.view(index)[0] for index in range(len(plan))))
            section.rows.append(_synthetic_row(plan, solve(path, plan), "exact"))
            section.rows.append(_synthetic_row(plan, solve(path), "estimated"))
    section.notes.append(
        "Errors are the largest over all frames, after a Sim(3) fit of the positions and one rotation of the world; "
        "position in % of the trajectory's RMS radius."
    )
    return section


def recorded_section(folders: Iterable[Path]) -> Section:
    """Sequences with known poses: scores, time, and the trivial trajectory beside them."""
    section = Section("Recorded sequences")
    for folder in folders:
        solved = solve(folder)
        section.rows += _recorded_rows(folder.name, solved)
        stages = ", ".join(f"{name} {value:.1f} s" for name, value in solved.alignment.seconds.items())
        section.notes.append(f"{folder.name}: reading {solved.decoding_seconds:.1f} s; {stages}.")
        section.notes += [f"{folder.name}: {text}" for text in solved.alignment.warnings]
    section.notes.append(
        "ATE after a Sim(3) fit, in % of the trajectory's RMS radius; AUC@5 over all pairs of frames; time from files "
        "to poses with an empty flow cache, imports aside. Constant velocity: a straight line at even speed."
    )
    return section


def solve(path: Path, exact: ClipPlan | None = None) -> Solve:
    """Decode and solve with default options; `exact` lends its flow in place of an estimator."""
    started = time.monotonic()
    frames = load_frames(path, FrameOptions())
    decoded = time.monotonic()
    flow = None if exact is None else ExactFlowStore(exact, frames)
    alignment = estimate_poses(frames, flow=flow)
    return Solve(frames, alignment, decoded - started, time.monotonic() - started)


def _synthetic_row(plan: ClipPlan, solved: Solve, flow: str) -> Row:
    scores = _scores(solved, GroundTruth(plan.c2w[rows_of(solved.frames)], plan.camera))
    return {
        "motion": f"{plan.motion} (seed {plan.seed})",
        "flow": flow,
        "posed": f"{scores.posed}/{scores.frames}",
        "rotation, degrees": scores.max_rotation_deg,
        "position, %": 100 * scores.max_position_relative,
        "focal length, %": scores.focal_error_percent,
        "seconds": solved.seconds,
    }


def _recorded_rows(name: str, solved: Solve) -> list[Row]:
    truth = solved.frames.ground_truth
    if truth is None:
        raise ValueError(f"{name} has no transforms.json with true poses")
    scores = _scores(solved, truth)
    trivial = score_trajectory(constant_velocity_baseline(len(truth.c2w)), torch.from_numpy(truth.c2w))
    return [
        {
            "sequence": name,
            "poses": "ours",
            "posed": f"{scores.posed}/{scores.frames}",
            "ATE, %": 100 * scores.ate_relative,
            "AUC@5": scores.auc_5,
            "focal length, %": scores.focal_error_percent,
            "reprojection, px": solved.alignment.reprojection_error,
            "seconds": solved.seconds,
        },
        {
            "sequence": name,
            "poses": "constant velocity",
            "posed": f"{trivial.posed}/{trivial.frames}",
            "ATE, %": 100 * trivial.ate_relative,
            "AUC@5": trivial.auc_5,
            "focal length, %": None,
            "reprojection, px": None,
            "seconds": None,
        },
    ]


def _scores(solved: Solve, truth: GroundTruth) -> PoseScores:
    alignment = solved.alignment
    return score_trajectory(alignment.c2w, torch.from_numpy(truth.c2w), alignment.posed, alignment.camera, truth.camera)
