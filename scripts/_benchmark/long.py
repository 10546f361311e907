"""A long walk with one true loop: time, memory and drift, by the number of frames."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from _benchmark.command import run
from _benchmark.estimate import Estimate
from _benchmark.long_run import before_path
from _benchmark.methods import OUR_MODULES, Outcome
from _benchmark.tables import Row, Section
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import focal_error_percent, score_trajectory
from flowcam_ns.geometry.trajectory import align_sim3
from flowcam_ns.synthetic.clip import ClipPlan, plan_clip
from flowcam_ns.synthetic.video_file import write_video

MOTION = "long_walk"
APART = 20.0
"""Metres of way that must lie between two frames for the camera to have left and come back."""
NEAR = 2.0
"""Metres within which two cameras count as in the same place."""
NOTE = (
    "The first frames of one walk around a town's lane, which sees its start again at the very end and nothing else "
    "twice; all frames used, an empty flow cache, a process of its own. Memory: largest resident set, imports and the "
    "decoded frames included. Before: poses from pairs of near frames alone; after: with the returns found and their "
    "drift taken out. ATE after a Sim(3) fit, in % of the RMS radius. Gap: how far the relative pose of the two "
    "frames where the loop closes is off, in % of the way walked, and degrees; `-` where the loop is not reached."
)


def long_section(
    counts: Sequence[int], size: tuple[int, int], seed: int, folder: Path, cores: int, time_limit: float
) -> Section:
    """A row for every number of frames, all from one film of the longest."""
    section = Section(f"Length: a walk of {size[0]}x{size[1]} px (seed {seed})", notes=[NOTE])
    video = folder / f"{MOTION}_{seed}_{max(counts)}_{size[0]}x{size[1]}.mp4"
    plan = plan_clip(MOTION, seed, max(counts), *size)
    if not video.is_file():
        write_video(video, film(seed, max(counts), size, cores), plan.fps)
    for count in sorted(counts):
        result = folder / f"{video.stem}-{count}.json"
        outcome = solve_first(video, count, result, cores, time_limit)
        before = np.load(before_path(result)) if before_path(result).is_file() else None
        section.rows.append(long_row(plan, count, outcome, before))
        stages = ", ".join(f"{name} {value:.1f} s" for name, value in outcome.estimate.stages.items())
        section.notes.append(f"{count} frames: {stages}. {outcome.estimate.problem}".strip())
        print(f"{count} frames: {outcome.seconds:.0f} s, {outcome.peak_mib:.0f} MiB", flush=True)
    return section


def film(seed: int, frames: int, size: tuple[int, int], workers: int) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The walk's pictures one after another, rendered by several processes."""
    # A fresh interpreter each: forked ones would lack the threads that libraries have started here.
    context, set_up = get_context("spawn"), partial(_set_up, seed, frames, size)
    with ProcessPoolExecutor(workers, context, set_up) as pool:
        yield from pool.map(_view, range(frames), chunksize=4)


_filmed: list[ClipPlan] = []
"""What a filming process films."""


def _set_up(seed: int, frames: int, size: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    _filmed[:] = [plan_clip(MOTION, seed, frames, *size)]


def _view(index: int) -> UInt8[np.ndarray, "height width 3"]:
    return _filmed[0].view(index)[0]


def solve_first(video: Path, count: int, result: Path, cores: int, time_limit: float) -> Outcome:
    """Our poses of the first `count` frames, and what they cost. RuntimeError where the process breaks down."""
    result.parent.mkdir(parents=True, exist_ok=True)
    before_path(result).unlink(missing_ok=True)
    command = ["python", "-m", "_benchmark.long_run", video.absolute(), count, result.absolute(), cores]
    with tempfile.TemporaryDirectory(prefix="flowcam-cache-") as cache:
        environment = {
            "FLOWCAM_CACHE": cache,
            "OMP_NUM_THREADS": str(cores),
            **OUR_MODULES,
        }
        finished = run([str(word) for word in command], result.with_suffix(".log"), environment, time_limit)
    estimate = Estimate.read(result)
    return Outcome("ours", estimate, estimate.seconds, finished.peak_mib)


def long_row(plan: ClipPlan, count: int, outcome: Outcome, before: Float64[np.ndarray, "frames 4 4"] | None) -> Row:
    """Cost and drift of one run; `before` are its poses before loop closure."""
    estimate, truth = outcome.estimate, plan.c2w[:count]
    row: dict[str, float | int | str | None] = {
        "frames": count,
        "posed": f"{int(estimate.posed.sum())}/{count}",
        "seconds": estimate.seconds,
        "ms a frame": 1000 * estimate.seconds / count,
        "processor, s": estimate.processor_seconds,
        "peak memory, MiB": outcome.peak_mib,
    }
    for name, c2w in (("before", before), ("after", estimate.c2w)):
        whole = c2w is not None and len(c2w) == count
        row |= _drift(name, c2w, truth) if whole and c2w is not None else dict.fromkeys(_names(name))
    row["focal length, %"] = focal_error_percent(outcome.camera, plan.camera)
    return row


def _names(when: str) -> list[str]:
    return [f"{when}: ATE, %", f"{when}: rotation, degrees", f"{when}: gap, %", f"{when}: gap, degrees"]


def _drift(
    when: str, c2w: Float64[np.ndarray, "frames 4 4"], truth: Float64[np.ndarray, "frames 4 4"]
) -> dict[str, float | int | str | None]:
    scores = score_trajectory(torch.from_numpy(c2w), torch.from_numpy(truth))
    gap = loop_gap(c2w, truth)
    return dict(
        zip(_names(when), (100 * scores.ate_relative, scores.mean_rotation_deg, *(gap or (None, None))), strict=True)
    )


def loop_gap(
    c2w: Float64[np.ndarray, "frames 4 4"], truth: Float64[np.ndarray, "frames 4 4"]
) -> tuple[float, float] | None:
    """Error of the relative pose between the two frames where the loop closes: % of the way, degrees; None: no loop."""
    ends = loop_ends(truth)
    known = np.isfinite(c2w).all((1, 2))
    if ends is None or not known[list(ends)].all():
        return None
    scale = float(align_sim3(torch.from_numpy(c2w[known]), torch.from_numpy(truth[known])).scale)
    found, true = (np.linalg.inv(poses[ends[0]]) @ poses[ends[1]] for poses in (c2w, truth))
    way = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=-1).sum()
    turn = se3.rotation_angle_deg(torch.from_numpy(found[:3, :3].T @ true[:3, :3]))
    return 100 * float(np.linalg.norm(scale * found[:3, 3] - true[:3, 3]) / way), float(turn)


def loop_ends(truth: Float64[np.ndarray, "frames 4 4"]) -> tuple[int, int] | None:
    """The two frames a long way apart whose cameras stand closest together; None where none come within `NEAR`."""
    centre = truth[:, :3, 3]
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centre, axis=0), axis=-1))])
    distance = np.linalg.norm(centre[:, None] - centre[None], axis=-1)
    distance[np.subtract.outer(walked, walked) > -APART] = np.inf
    i, j = np.unravel_index(int(distance.argmin()), distance.shape)
    return (int(i), int(j)) if distance[i, j] <= NEAR else None
