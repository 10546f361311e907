"""`flowcam-poses`: what it prints and writes, and how it ends when something is wrong. A stand-in does the solve."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from flowcam_ns.alignment.result import Alignment
from flowcam_ns.cli.poses import entrypoint
from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.frames import Frames

Command = Callable[..., int]


@pytest.fixture
def images(tmp_path: Path, clip_and_alignment: tuple[Frames, Alignment]) -> Path:
    """The clip as a folder of images; its name would be markup to rich."""
    folder = tmp_path / "my [red]clip"
    folder.mkdir()
    for index, image in enumerate(clip_and_alignment[0].images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, clip_and_alignment: tuple[Frames, Alignment]) -> Command:
    """Run the command in this process with a stand-in for the solve; returns the exit code."""

    def call(*arguments: object, outcome: Alignment | BaseException = clip_and_alignment[1]) -> int:
        def estimate_poses(frames: Frames, camera: object, options: object, progress: Callable) -> Alignment:
            progress("flow", 0.5)
            if isinstance(outcome, BaseException):
                raise outcome
            assert len(frames) == len(outcome.c2w)
            return outcome

        stand_in = types.ModuleType("flowcam_ns.alignment.estimate")
        stand_in.estimate_poses = estimate_poses  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
        monkeypatch.setattr(sys, "argv", ["flowcam-poses", *map(str, arguments)])
        try:
            entrypoint()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def test_writes_the_dataset_and_says_what_was_found(
    command: Command, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(images, "--output-dir", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for fact in ("9 of 10 frames posed", "003.png: no flow to its neighbours", "\u00b1 1.5 px", "0.31 px", "flow 1.2 s",
                 "solve 0.5 s", "decode", "write", str(tmp_path / "out")):  # fmt: skip
        assert fact in printed
    assert "Against ground truth" not in printed
    content = json.loads((tmp_path / "out/transforms.json").read_text())
    assert [frame["source"] for frame in content["frames"]] == [f"{i:03d}.png" for i in range(10) if i != 3]
    assert json.loads((tmp_path / "out/report.json").read_text())["scores"] is None


def test_the_result_can_be_read_again_and_scores_itself(
    command: Command, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    clip_and_alignment: tuple[Frames, Alignment],
) -> None:  # fmt: skip
    assert command(images, "--output-dir", tmp_path / "first") == 0
    capsys.readouterr()
    # The first result is a dataset of the nine posed frames: its poses are the truth of the second run.
    alignment = clip_and_alignment[1]
    keep = alignment.posed
    rest = Alignment(
        alignment.camera, alignment.c2w[keep], keep[keep], alignment.points[keep], alignment.inverse_depth[keep],
        alignment.inverse_depth_std[keep], 0.2,
    )  # fmt: skip
    assert command(tmp_path / "first", "--output-dir", tmp_path / "second", outcome=rest) == 0
    assert "Against ground truth" in capsys.readouterr().out
    scores = json.loads((tmp_path / "second/report.json").read_text())["scores"]
    assert scores["ate_relative"] < 1e-6
    assert scores["focal_error_percent"] == pytest.approx(0, abs=1e-9)


def test_a_second_run_replaces_the_first_but_not_a_users_folder(
    command: Command, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command(images, "--output-dir", out) == 0
    assert command(images, "--output-dir", out, "--image-format", "png") == 0
    assert {path.suffix for path in (out / "images").iterdir()} == {".png"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    capsys.readouterr()
    assert command(images, "--output-dir", tmp_path / "mine") == 1
    assert one_line(capsys).endswith("choose another --output-dir or add --overwrite.")
    assert command(images, "--output-dir", tmp_path / "mine", "--overwrite") == 0
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"
    assert command(images, "--output-dir", images, "--overwrite") == 1


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (FlowCamError("The camera\nstands still."), 1, "flowcam-poses: The camera stands still."),
        (KeyboardInterrupt(), 130, "flowcam-poses: Interrupted."),
        (MemoryError(), 1, "flowcam-poses: Out of memory; use fewer or smaller frames (--max-frames, --max-size)."),
        (OSError(28, "No space left on device", "x.npz"), 1, "flowcam-poses: No space left on device: x.npz"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    command: Command, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    outcome: BaseException, code: int, message: str,
) -> None:  # fmt: skip
    assert command(images, "--output-dir", tmp_path / "out", outcome=outcome) == code
    assert one_line(capsys) == message
    assert [path.name for path in tmp_path.iterdir()] == [images.name]


def test_ctrl_c_while_writing_leaves_nothing(
    command: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowcam_ns.alignment.export.write_tum", interrupt)
    assert command(images, "--output-dir", tmp_path / "out") == 130
    assert [path.name for path in tmp_path.iterdir()] == [images.name]


def test_a_bug_is_not_passed_off_as_the_users_fault(command: Command, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        command(images, "--output-dir", tmp_path / "out", outcome=ZeroDivisionError())


def test_missing_input_and_wrong_usage(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path / "no.mp4", "--output-dir", tmp_path / "out") == 1
    assert "no.mp4 does not exist" in one_line(capsys)
    assert command(tmp_path / "no.mp4") == 2
    assert command(tmp_path / "no.mp4", "--output-dir", tmp_path / "out", "--focal", "wide") == 2


def test_one_posed_frame_is_no_result(
    command: Command, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    clip_and_alignment: tuple[Frames, Alignment],
) -> None:  # fmt: skip
    posed = clip_and_alignment[1].posed.clone()
    posed[1:] = False
    assert command(images, "--output-dir", tmp_path / "out", outcome=replace(clip_and_alignment[1], posed=posed)) == 1
    assert "No two frames" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_help_answers_without_loading_torch() -> None:
    code = (
        "import sys; from flowcam_ns.cli import poses; sys.argv = ['flowcam-poses', '--help']\n"
        "try: poses.entrypoint()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'av', 'scipy', 'matplotlib', 'nerfstudio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    for flag in ("--output-dir", "--overwrite", "--start", "--end", "--max-frames", "--max-size", "--focal", "--masks"):
        assert flag in result.stdout


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line
