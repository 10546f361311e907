"""The benchmark of views: one scale for all methods, and a dataset that nerfstudio reads as we mean it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from _benchmark.view_methods import Task, Views, write_dataset, write_images
from benchmark_views import score
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.model.depth_warp import depth_warped_blend
from flowcam_ns.model.image_scores import ImageScores, nearest_frame_copy
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

COUNT, WIDTH, HEIGHT = 14, 128, 80


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


@pytest.fixture
def task(clip: SyntheticClip, tmp_path: Path) -> Task:
    frames = list(clip.rgb)
    images = write_images(tmp_path / "images", frames)
    return Task("clip", images, images, frames, held_out_frames(COUNT), tmp_path, 1.0)


def test_the_truth_scores_best_and_missing_frames_are_counted(task: Task) -> None:
    first, second = task.held_out
    perfect = score(task, Views("truth", {first: task.frames[first]}))
    copied = score(task, Views("copy", {i: task.frames[i - 1] for i in task.held_out}))
    assert (perfect["frames"], copied["frames"]) == ("1/2", "2/2")
    assert perfect["psnr"] == 100
    assert isinstance(copied["psnr"], float)
    assert copied["psnr"] < 30
    assert (task.folder / "pictures" / f"copy_{second:03}.png").is_file()
    failed = score(task, Views("failed", problem="found no model"))
    assert failed["psnr"] is None
    assert str(failed["method"]).endswith("found no model")


def test_nerfstudio_reads_the_dataset_with_the_same_frames_held_out(task: Task, clip: SyntheticClip) -> None:
    posed = [i for i in range(COUNT) if i != 2]
    write_dataset(task.folder / "set", task, posed, clip.c2w, clip.camera)
    parser = NerfstudioDataParserConfig(data=task.folder / "set").setup()
    train, held_out = parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("test")
    assert [int(path.stem) for path in held_out.image_filenames] == task.held_out
    assert [int(path.stem) for path in train.image_filenames] == [i for i in posed if i not in task.held_out]
    assert float(train.cameras.fx[0]) == pytest.approx(clip.camera.fx)


def test_the_depth_warp_needs_no_training_to_beat_a_copy(clip: SyntheticClip) -> None:
    held_out = held_out_frames(COUNT)
    usable = torch.ones(COUNT, dtype=torch.bool)
    usable[held_out] = False
    inverse = 1 / torch.from_numpy(clip.depth)
    images, c2w = torch.from_numpy(clip.rgb), torch.from_numpy(clip.c2w)
    scene = ContextScene(images, c2w, clip.camera, inverse, torch.ones_like(inverse), usable)
    truth = images[held_out[0]].float() / 255
    psnr = [ImageScores()(make(scene, held_out[0]), truth)["psnr"] for make in (depth_warped_blend, nearest_frame_copy)]
    assert psnr[0] > psnr[1] + 3
    assert np.isfinite(psnr).all()
