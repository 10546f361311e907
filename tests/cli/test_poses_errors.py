"""`flowcam-poses`, for real: what it says of inputs from which it can make nothing, or only a part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowcam_ns.cli.poses import entrypoint
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video

Command = Callable[..., int]
WIDTH, HEIGHT = 192, 108


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the installed command's entry point in this process; returns the exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["flowcam-poses", *map(str, arguments)])
        try:
            entrypoint()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


@pytest.fixture(scope="module")
def orbit() -> np.ndarray:
    """A few good frames."""
    return make_clip("orbit", seed=1, frames=12, width=WIDTH, height=HEIGHT).rgb


def save(images: np.ndarray, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return folder


def missing(tmp_path: Path, orbit: np.ndarray) -> Path:
    return tmp_path / "missing.mp4"


def empty_folder(tmp_path: Path, orbit: np.ndarray) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def one_frame(tmp_path: Path, orbit: np.ndarray) -> Path:
    return save(orbit[:1], tmp_path / "in")


def zero_bytes(tmp_path: Path, orbit: np.ndarray) -> Path:
    (tmp_path / "zero.mp4").touch()
    return tmp_path / "zero.mp4"


def truncated(tmp_path: Path, orbit: np.ndarray) -> Path:
    whole = tmp_path / "whole.mp4"
    write_video(whole, orbit)
    (tmp_path / "truncated.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    return tmp_path / "truncated.mp4"


def text_named_mp4(tmp_path: Path, orbit: np.ndarray) -> Path:
    (tmp_path / "notes.mp4").write_text("buy milk\n" * 100)
    return tmp_path / "notes.mp4"


def still_camera(tmp_path: Path, orbit: np.ndarray) -> Path:
    return save(np.repeat(orbit[:1], 6, axis=0), tmp_path / "in")


def two_sizes(tmp_path: Path, orbit: np.ndarray) -> Path:
    folder = save(orbit[:4], tmp_path / "in")
    Image.fromarray(orbit[4]).resize((96, 54)).save(folder / "004.png")
    return folder


def no_texture(tmp_path: Path, orbit: np.ndarray) -> Path:
    random = np.random.default_rng(0)
    return save(random.integers(0, 255, (6, HEIGHT, WIDTH, 3), dtype=np.uint8), tmp_path / "in")


UNUSABLE = {
    missing: "does not exist",
    empty_folder: "no images",
    one_frame: "1 image",
    zero_bytes: "empty",
    truncated: "truncated.mp4",
    text_named_mp4: "notes.mp4",
    still_camera: "still",
    two_sizes: "size",
    no_texture: "texture",
}


@pytest.mark.parametrize(("make", "says"), UNUSABLE.items(), ids=lambda item: getattr(item, "__name__", ""))
def test_unusable_input_ends_in_one_clear_line(
    make: Callable, says: str, command: Command, tmp_path: Path, orbit: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path, orbit)
    before = sorted(tmp_path.rglob("*"))
    assert command(data, "--output-dir", tmp_path / "out") == 1
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("flowcam-poses: ")
    assert says in line
    assert printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be_written_to_is_named_before_any_work(
    command: Command, tmp_path: Path, orbit: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    data = save(orbit, tmp_path / "in")
    (tmp_path / "file").write_text("mine")
    assert command(data, "--output-dir", tmp_path / "file" / "out") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line
    assert (tmp_path / "file").read_text() == "mine"


def test_weights_that_cannot_be_fetched_are_one_line(
    command: Command, tmp_path: Path, orbit: np.ndarray, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = save(orbit[:4], tmp_path / "in")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert command(data, "--output-dir", tmp_path / "out", "--alignment.flow", "raft", "--alignment.no-cache") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "weights" in line
    assert not (tmp_path / "out").exists()


def test_pure_rotation_is_a_named_warning_and_gives_rotations(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip("pure_rotation", seed=1, frames=12, width=WIDTH, height=HEIGHT)
    assert command(save(clip.rgb, tmp_path / "in"), "--output-dir", tmp_path / "out") == 0
    printed = capfd.readouterr()
    assert "Warning: The camera only turns" in printed.out
    assert printed.err == ""
    frames = json.loads((tmp_path / "out/transforms.json").read_text())["frames"]
    poses = torch.tensor([frame["transform_matrix"] for frame in frames])
    assert len(poses) == 12
    assert (poses[:, :3, 3] - poses[0, :3, 3]).abs().max() < 1e-6
    assert (poses[-1, :3, :3] - poses[0, :3, :3]).abs().max() > 0.05


def test_a_cut_is_a_named_warning_and_the_other_part_stands_under_unposed(
    command: Command, tmp_path: Path, orbit: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    other = make_clip("sideways", seed=2, frames=8, width=WIDTH, height=HEIGHT).rgb
    video = tmp_path / "cut.mp4"
    write_video(video, np.concatenate([orbit, other]))
    assert command(video, "--output-dir", tmp_path / "out") == 0
    printed = capfd.readouterr()
    assert "Warning: " in printed.out
    assert "cut" in printed.out
    assert printed.err == ""
    content = json.loads((tmp_path / "out/transforms.json").read_text())
    assert len(content["frames"]) + len(content["unposed"]) + content["thinned"] == 20
    assert {int(frame["source"]) for frame in content["unposed"]} <= set(range(12, 20))
    assert {int(frame["source"]) for frame in content["frames"]} <= set(range(12))
    assert all(frame["reason"] for frame in content["unposed"])


def test_in_a_shell_an_error_is_one_line_without_traceback(tmp_path: Path) -> None:
    ended = in_a_shell(tmp_path / "missing.mp4", "--output-dir", tmp_path / "out")
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "missing.mp4 does not exist" in line


def test_in_a_shell_a_video_becomes_a_dataset(tmp_path: Path, orbit: np.ndarray) -> None:
    write_video(tmp_path / "orbit.mp4", orbit)
    ended = in_a_shell(tmp_path / "orbit.mp4", "--output-dir", tmp_path / "out")
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "frames posed" in ended.stdout
    content = json.loads((tmp_path / "out/transforms.json").read_text())
    poses = torch.tensor([frame["transform_matrix"] for frame in content["frames"]])
    assert len(poses) >= 10
    assert (poses[-1, :3, 3] - poses[0, :3, 3]).norm() > 0.05
    assert all((tmp_path / "out" / frame["file_path"]).is_file() for frame in content["frames"])


def in_a_shell(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as its own process, on one thread."""
    code = "from flowcam_ns.cli.poses import entrypoint; entrypoint()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False, env=environment,
    )  # fmt: skip


def test_a_networks_poses_are_written_and_its_flags_belong_together(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flowcam_ns.model.checkpoint import write_checkpoint
    from flowcam_ns.model.flowcam_network import FlowCamNetwork
    from flowcam_ns.model.network_config import small_config

    video, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_video(video, make_clip("orbit", seed=0, frames=12, width=WIDTH, height=HEIGHT).rgb)
    checkpoint = tmp_path / "net.pt"
    write_checkpoint(checkpoint, FlowCamNetwork(small_config()), long_side=48)
    assert command(video, "--output-dir", out, "--method", "network", "--checkpoint", checkpoint) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["frames"]["posed"] == 12
    assert "network" in report["seconds"]
    for flags in (
        ["--method", "network"],
        ["--checkpoint", checkpoint],
        ["--refine"],
        ["--method", "network", "--checkpoint", tmp_path / "absent.pt"],
    ):
        assert command(video, "--output-dir", tmp_path / "none", *flags) == 1
        assert "checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
