"""What `ns-train flowcam` says about inputs it cannot use: one line, exit code 1, nothing left behind."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video


def train_in_process(data: Path | None, output: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and last words of `ns-train flowcam --data data`."""
    from flowcam_ns.method_configs.flowcam import flowcam_method
    from nerfstudio.scripts.train import main

    config = copy.deepcopy(flowcam_method.config)
    config.data, config.output_dir, config.vis, config.max_num_iterations = data, output, "tensorboard", 1
    with pytest.raises(SystemExit) as stopped:
        main(config)
    return int(stopped.value.code or 0), capsys.readouterr().err.strip()


def noise_image(path: Path, size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def bad_inputs(folder: Path) -> dict[str, Path | None]:
    (folder / "empty").mkdir()
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video")
    noise_image(folder / "one" / "a.png")
    noise_image(folder / "sizes" / "a.png")
    noise_image(folder / "sizes" / "b.png", (96, 48))
    names = ("missing.mp4", "empty", "zero.mp4", "text.mp4", "one", "sizes")
    return {name: folder / name for name in names} | {"none": None}


@pytest.mark.parametrize("name", ["missing.mp4", "empty", "zero.mp4", "text.mp4", "one", "sizes", "none"])
def test_unusable_input_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = train_in_process(bad_inputs(tmp_path)[name], tmp_path / "out", capsys)
    assert code == 1
    assert said.startswith("Error: ")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_still_camera_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip("still", seed=0, frames=6, width=160, height=96)
    write_video(tmp_path / "still.mp4", clip.rgb)
    code, said = train_in_process(tmp_path / "still.mp4", tmp_path / "out", capsys)
    assert code == 1
    assert "still" in said
    assert "\n" not in said
    assert not list((tmp_path / "out").rglob("*.ckpt"))


def test_output_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip("orbit", seed=0, frames=3, width=160, height=96)
    write_video(tmp_path / "clip.mp4", clip.rgb)
    (tmp_path / "file").write_text("in the way")
    code, said = train_in_process(tmp_path / "clip.mp4", tmp_path / "file", capsys)
    assert code == 1
    assert said.startswith("Error: cannot write to")
    assert "\n" not in said


def test_installed_command_says_it_too(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("ns-train")
    done = subprocess.run(
        [program, "flowcam", "--data", "nowhere.mp4"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    assert "nowhere.mp4 does not exist" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_splats_without_cuda_name_the_method_that_works(tmp_path: Path) -> None:
    """The device is hidden, so that this holds on GPU machines too."""
    done = subprocess.run(
        [Path(sys.executable).with_name("ns-train"), "flowcam-splat", "--data", "video.mp4"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert "ns-train flowcam --data" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
