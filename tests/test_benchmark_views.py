"""The benchmark of views: one scale for all methods, and a dataset that nerfstudio reads as we mean it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from _benchmark.nerfacto_run import FINAL_SHARE, SMALL, configured, render, train_for
from _benchmark.pictures import read_picture, write_pictures
from _benchmark.stored import StoredRows
from _benchmark.view_methods import Task, Views, write_dataset
from benchmark_views import Options, main, score
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
    images = write_pictures(tmp_path / "images", frames)
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


def test_measured_rows_are_found_again_but_not_those_of_other_settings(tmp_path: Path) -> None:
    stored = StoredRows(tmp_path / "rows")
    assert stored.find("fox:23-ours", {"seconds": 300.0}) is None
    rows = [{"sequence": "fox:23", "method": "flowcam", "psnr": 25.5, "lpips": None}]
    stored.keep("fox:23-ours", {"seconds": 300.0}, rows)
    assert stored.find("fox:23-ours", {"seconds": 300.0}) == rows
    assert stored.find("fox:23-ours", {"seconds": 60.0}) is None
    assert stored.find("fox:23-nerfacto", {"seconds": 300.0}) is None


def test_a_benchmark_that_was_broken_off_goes_on_where_it_stopped(
    clip: SyntheticClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sequences and methods are stand-ins; what is measured, and how often, is the benchmark's own doing."""
    measured: list[str] = []
    failures = iter([True])

    def make_task(options: Options, sequence: str) -> Task:
        frames = list(clip.rgb)
        images = write_pictures(tmp_path / "images", frames)
        return Task(sequence, images, images, frames, held_out_frames(COUNT), tmp_path / sequence, 1.0)

    def run_method(method: str, task: Task, options: Options) -> list[Views]:
        if (task.name, method) == ("second", "nerfacto") and next(failures, False):
            raise RuntimeError("power cut")
        measured.append(f"{task.name} {method}")
        return [Views(method, {i: task.frames[i - 1] for i in task.held_out}, seconds=1.0)]

    monkeypatch.setattr("benchmark_views.make_task", make_task)
    monkeypatch.setattr("benchmark_views.run_method", run_method)
    options = Options(tmp_path, ("first", "second"), tmp_path / "out", methods=("ours", "nerfacto"), motions=())
    with pytest.raises(RuntimeError, match="power cut"):
        main(options)
    main(options)
    everything = ["first ours", "first nerfacto", "second ours", "second nerfacto"]
    assert measured == everything
    main(options)
    assert measured == everything, "the third call only prints"
    table = capsys.readouterr().out.split("###")[-1]
    assert [table.count(f"| {name} |") for name in ("first", "second", "ours", "nerfacto")] == [2, 2, 2, 2]
    options.again = True
    main(options)
    assert measured == everything * 2


def test_nerfacto_trains_until_its_time_is_up_and_shows_what_was_held_out(
    task: Task, clip: SyntheticClip, shared: Path
) -> None:
    """nerfacto with a handful of rays and samples, on the true poses; its constructor wants the weights of LPIPS."""
    write_dataset(task.folder / "set", task, list(range(COUNT)), clip.c2w, clip.camera)
    tiny = {**SMALL, "num_levels": 2, "log2_hashmap_size": 10, "num_proposal_samples_per_ray": (4, 4),
            "num_nerf_samples_per_ray": 4}  # fmt: skip
    trainer = configured(task.folder / "set", task.folder / "out", False, tiny, rays=16).setup(
        local_rank=0, world_size=1
    )
    trainer.setup()
    shares = iter([0.2, 0.6, 1.0])
    train_for(trainer, lambda: next(shares))
    assert trainer.step == 3
    optimizer = trainer.optimizers.optimizers["fields"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * FINAL_SHARE)
    render(trainer, task.folder / "set", task.folder / "out")
    shown = sorted((task.folder / "out").glob("*.png"))
    assert [int(file.stem) for file in shown] == task.held_out
    assert read_picture(shown[0]).shape == task.frames[0].shape
