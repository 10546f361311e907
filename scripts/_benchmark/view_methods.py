"""Renderings of a sequence's held-out frames, method by method: every method gets the same frames and the same time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from _benchmark.command import run
from _benchmark.methods import OUR_MODULES, run_method
from _benchmark.pictures import Picture, read_picture
from flowcam_ns.formats.transforms_json import PosedFrame, transforms_dict
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.depth_warp import depth_warped_blend
from flowcam_ns.model.image_scores import nearest_frame_copy
from flowcam_ns.pipeline import FlowCamPipeline

SAVING_SECONDS = 3.0
"""Kept back from the budget for writing the checkpoint."""


@dataclass
class Views:
    """What one method made of the held-out frames."""

    method: str
    pictures: dict[int, Picture] = field(default_factory=dict)
    """By frame; those that the method could not pose are missing."""
    truths: dict[int, Picture] = field(default_factory=dict)
    """What they are compared with, where that is not the frame itself (undistorted, say)."""
    seconds: float | None = None
    """From files to the finished field."""
    view_seconds: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Task:
    """One sequence, as all methods get it."""

    name: str
    source: Path
    """Folder of the sequence's own image files: what poses are estimated from."""
    images: Path
    """Folder of PNG images of the size that is trained on and scored."""
    frames: list[Picture]
    held_out: list[int]
    folder: Path
    """Where runs may leave their files."""
    seconds: float
    """Wall-clock from files to field."""


def ours(task: Task) -> list[Views]:
    """`ns-train flowcam`, and what its poses and depths give without training."""
    output = task.folder / "runs"
    started = time.monotonic()
    command = ["ns-train", "flowcam", "--data", str(task.source), "--output-dir", str(output), "--vis", "tensorboard"]
    size = ["--pipeline.datamanager.dataparser.train-long-side", str(max(task.frames[0].shape))]
    limits = ["--max-num-iterations", "1000000", "--pipeline.total-seconds", str(task.seconds - SAVING_SECONDS)]
    run([*command, *size, *limits], task.folder / "flowcam.log")
    seconds = time.monotonic() - started
    from nerfstudio.utils.eval_utils import eval_setup

    (config,) = output.glob("*/flowcam/*/config.yml")
    _, pipeline, _, _ = eval_setup(config, test_mode="test")
    assert isinstance(pipeline, FlowCamPipeline)
    model, dataset = pipeline.flowcam, pipeline.datamanager.eval_dataset
    height, width = task.frames[0].shape[:2]
    # What the others are compared with reads frames of the size that is scored.
    scene = model.scene_of_size(width, height)
    rendered = Views("flowcam", seconds=seconds)
    begun = time.monotonic()
    for row, frame in enumerate(dataset.metadata["frame_index"].tolist()):
        rendered.pictures[frame] = _bytes(model.get_outputs_for_camera(dataset.cameras[row : row + 1])["rgb"])
    rendered.view_seconds = (time.monotonic() - begun) / max(len(rendered.pictures), 1)
    posed = list(rendered.pictures)
    warp = Views("depth warp of two frames, no training", {i: _bytes(depth_warped_blend(scene, i)) for i in posed})
    copy = Views("nearest frame", {i: _bytes(nearest_frame_copy(scene, i)) for i in task.held_out})
    return [rendered, warp, copy]


def nerfacto(task: Task) -> list[Views]:
    """nerfstudio's nerfacto on COLMAP's poses, in what time the poses leave."""
    views = Views("nerfacto on COLMAP's poses")
    left = _colmap_dataset(task, views)
    if left is not None:
        started = time.monotonic()
        out = task.folder / "nerfacto"
        arguments = [str(task.folder / "colmap"), str(out), str(left - SAVING_SECONDS)]
        _attempt(views, lambda: run(["python", "-m", "_benchmark.nerfacto_run", *arguments],
                                    task.folder / "nerfacto.log", OUR_MODULES))  # fmt: skip
        if not views.problem:
            report = json.loads((out / "report.json").read_text())
            views.seconds = task.seconds - left + (time.monotonic() - started) - report["render seconds"]
            _read(views, out)
            views.view_seconds = report["render seconds"] / max(len(views.pictures), 1)
            views.method += f" ({report['what']})"
    return [views]


def splats(task: Task, steps: int) -> list[Views]:
    """`flowcam-splat`, and splatfacto on COLMAP's poses; both need a GPU."""
    found = [_splats(task, "flowcam-splat", task.source, steps)]
    theirs = Views("splatfacto on COLMAP's poses")
    if _colmap_dataset(task, theirs) is None:
        return [*found, theirs]
    return [*found, _splats(task, "splatfacto", task.folder / "colmap", steps)]


def _splats(task: Task, method: str, data: Path, steps: int) -> Views:
    views = Views(f"{method}, {steps} steps")
    output = task.folder / f"{method}-{steps}"
    # splatfacto's checkpoints hold NumPy numbers, which torch >= 2.6 loads only when told to.
    environment = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    train = ["ns-train", method, "--data", str(data), "--output-dir", str(output), "--vis", "tensorboard"]
    if method == "flowcam-splat":
        train += ["--pipeline.datamanager.dataparser.train-long-side", str(max(task.frames[0].shape))]
    started = time.monotonic()
    _attempt(views, lambda: run([*train, "--max-num-iterations", str(steps)], output / "train.log", environment))
    views.seconds = time.monotonic() - started
    if views.problem:
        return views
    (config,) = output.glob(f"*/{method}/*/config.yml")
    evaluate = ["ns-eval", "--load-config", str(config), "--output-path", str(output / "scores.json")]
    pictures = output / "eval"
    _attempt(views, lambda: run([*evaluate, "--render-output-path", str(pictures)], output / "eval.log", environment))
    # Frames in order; both methods hold out the same ones, of those that they could pose.
    for frame, file in zip(task.held_out, sorted(pictures.glob("*img*.png")), strict=False):
        truth, picture = np.split(read_picture(file), 2, axis=1)
        views.truths[frame], views.pictures[frame] = truth, picture
    return views


def _colmap_dataset(task: Task, views: Views) -> float | None:
    """Poses by COLMAP (once a sequence), written as nerfstudio's dataset; gives the seconds that are left, or None."""
    target = task.folder / "colmap"
    outcome = run_method("colmap", task.source, len(task.frames), task.folder / "colmap.json")
    estimate, camera = outcome.estimate, outcome.camera
    posed = np.flatnonzero(estimate.posed).tolist()
    if len(posed) < 3 or camera is None:
        views.problem, views.seconds = estimate.problem or "COLMAP posed too few frames", outcome.seconds
        return None
    height, width = task.frames[0].shape[:2]
    write_dataset(target, task, posed, estimate.c2w, camera.scaled_to(width, height))
    return task.seconds - outcome.seconds


def write_dataset(target: Path, task: Task, posed: list[int], c2w: np.ndarray, camera: Camera) -> None:
    """A folder that nerfstudio's own parser reads, with the same frames held out."""
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(task.images.iterdir())
    frames = [PosedFrame(str(files[i].absolute()), c2w[i], files[i].name, float(i)) for i in posed]
    content = transforms_dict(camera, frames)
    split = {True: [], False: []}
    for i in posed:
        split[i in task.held_out].append(str(files[i].absolute()))
    content |= {"train_filenames": split[False], "val_filenames": split[True], "test_filenames": split[True]}
    content["held_out"] = {str(files[i].absolute()): i for i in task.held_out}
    (target / "transforms.json").write_text(json.dumps(content))


def _attempt(views: Views, work: Callable[[], object]) -> None:
    try:
        work()
    except RuntimeError as error:
        views.problem = str(error)


def _read(views: Views, folder: Path) -> None:
    for file in sorted(folder.glob("*.png")):
        views.pictures[int(file.stem)] = read_picture(file)


def _bytes(image: torch.Tensor) -> Picture:
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
