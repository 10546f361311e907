"""Clips as files and as frames."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip, plan_clip
from flowcam_ns.synthetic.video_file import write_video

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_clip.py"


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("walk", 1, frames=6, width=160, height=90)


def decoded(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, float(stream.average_rate)


def test_a_video_comes_back_nearly_as_rendered(clip: SyntheticClip, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "clip.mp4"
    write_video(path, clip.rgb, fps=25)
    frames, fps = decoded(path)
    assert frames.shape == clip.rgb.shape
    assert fps == 25
    assert np.abs(frames.astype(float) - clip.rgb).mean() < 6
    assert [entry.name for entry in path.parent.iterdir()] == ["clip.mp4"]


def test_a_failed_write_leaves_nothing_and_says_why(clip: SyntheticClip, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(FlowCamError, match="cannot write"):
        write_video(blocker / "clip.mp4", clip.rgb)
    with pytest.raises(FlowCamError, match="even"):
        write_video(tmp_path / "odd.mp4", clip.rgb[:, :-1])
    with pytest.raises(FlowCamError, match="no frames"):
        write_video(tmp_path / "empty.mp4", [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_plan_gives_the_same_frames_and_flow_without_holding_them(clip: SyntheticClip) -> None:
    plan = plan_clip("walk", 1, frames=6, width=160, height=90)
    rgb, depth = plan.view(4)
    np.testing.assert_array_equal(rgb, clip.rgb[4])
    np.testing.assert_array_equal(depth, clip.depth[4])
    for mine, theirs in zip(plan.flow(1, 4), clip.flow(1, 4), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_frames_carry_the_truth_but_do_not_give_the_lens_away(clip: SyntheticClip) -> None:
    frames = clip.to_frames()
    assert len(frames) == len(clip) == 6
    assert frames.camera is None
    assert frames.ground_truth is not None
    assert frames.ground_truth.camera == clip.camera
    np.testing.assert_array_equal(frames.ground_truth.c2w, clip.c2w)
    np.testing.assert_allclose(np.diff(frames.timestamps), 1 / 30)


@pytest.mark.parametrize(("width", "height"), [(2, 90), (160, 5000)])
def test_impossible_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(FlowCamError, match="choose a size"):
        make_clip("orbit", 0, frames=1, width=width, height=height)


def test_the_script_writes_a_video_and_its_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make_clip_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    script.main(script.MakeClip(output_dir=tmp_path, motion="turn", seed=2, frames=3, width=96, height=54, fps=24))
    frames, fps = decoded(tmp_path / "demo.mp4")
    truth = json.loads((tmp_path / "truth.json").read_text())
    expected = make_clip("turn", 2, frames=3, width=96, height=54)
    assert frames.shape == (3, 54, 96, 3)
    assert fps == 24
    assert (truth["w"], truth["h"], truth["fl_x"]) == (96, 54, expected.camera.fx)
    assert [frame["timestamp"] for frame in truth["frames"]] == [0, 1 / 24, 2 / 24]
    opengl = torch.tensor([frame["transform_matrix"] for frame in truth["frames"]], dtype=torch.float64)
    np.testing.assert_allclose(se3.opencv_to_opengl(opengl).numpy(), expected.c2w, atol=1e-12)
