"""The real commands on a CUDA device: the default field, its flow and network switches, and Gaussian splats."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video

STEPS = 50
SECONDS = 500


def command(*args: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name(str(args[0])), *map(str, args[1:])],
        cwd=cwd,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{args[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "clip.mp4"
    write_video(path, make_clip("orbit", seed=0, frames=24, width=320, height=180).rgb)
    return path


def train(video: Path, folder: Path, method: str, *flags: str, steps: int = STEPS) -> Path:
    """Run `ns-train` and give the path of its config.yml."""
    options = ["--max-num-iterations", str(steps), "--timestamp", "t", "--output-dir", str(folder)]
    command("ns-train", method, "--data", video, *options, "--vis", "tensorboard", *flags, cwd=video.parent)
    return folder / "clip" / method / "t" / "config.yml"


def scores(config: Path) -> dict[str, float]:
    output = config.with_name("scores.json")
    command("ns-eval", "--load-config", config, "--output-path", output, cwd=config.parent)
    return json.loads(output.read_text())["results"]


@pytest.mark.parametrize("flow", ["dis", "raft"])
def test_the_default_field_trains_and_beats_the_nearest_frame(
    flow: str, video: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if flow == "raft":
        request.getfixturevalue("shared")  # RAFT's weights
    config = train(video, tmp_path, "flowcam", "--alignment.flow", flow)
    assert yaml.load(config.read_text(), Loader=yaml.Loader).machine.device_type == "cuda"
    found = scores(config)
    assert found["psnr"] > found["nearest_psnr"] + 3
    assert found["pose_ate_relative"] < 0.02


@pytest.mark.skipif(importlib.util.find_spec("tinycudann") is None, reason="tiny-cuda-nn is not installed")
def test_tiny_cuda_nn_and_torch_reach_the_same_quality(video: Path, tmp_path: Path) -> None:
    flag = "--pipeline.model.blend.implementation"
    reached = {
        name: scores(train(video, tmp_path / name, "flowcam", flag, name, steps=300))["psnr"]
        for name in ("tcnn", "torch")
    }
    assert abs(reached["tcnn"] - reached["torch"]) < 1.0


def test_splats_train_score_render_and_export(video: Path, tmp_path: Path, shared: Path) -> None:
    """`shared` holds the weights of LPIPS, without which splatfacto cannot be built offline."""
    config = train(video, tmp_path, "flowcam-splat", steps=400)
    found = scores(config)
    assert found["psnr"] > 20
    command("ns-export", "gaussian-splat", "--load-config", config, "--output-dir", tmp_path / "out", cwd=tmp_path)
    assert (tmp_path / "out" / "splat.ply").stat().st_size > 100_000
    render = [
        "ns-render",
        "dataset",
        "--load-config",
        config,
        "--split",
        "test",
        "--output-path",
        tmp_path / "held_out",
    ]
    command(*render, cwd=tmp_path)
    assert len(list((tmp_path / "held_out").rglob("*.jpg")) + list((tmp_path / "held_out").rglob("*.png"))) >= 3


def test_a_resumed_splat_run_goes_on(video: Path, tmp_path: Path, shared: Path) -> None:
    config = train(video, tmp_path, "flowcam-splat", steps=200)
    resumed = train(
        video, tmp_path / "again", "flowcam-splat", "--load-dir", str(config.parent / "nerfstudio_models"), steps=50
    )
    assert list((resumed.parent / "nerfstudio_models").glob("step-*.ckpt"))
