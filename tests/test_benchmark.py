"""The pieces that the project's figures rest on: exact flow, written numbers, scores of one file against another."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import benchmark
from _benchmark.command import run
from _benchmark.tables import Section, markdown_table, write_report, written
from flowcam_ns.errors import FlowCamError
from flowcam_ns.synthetic.clip import ClipPlan, plan_clip
from flowcam_ns.synthetic.exact_flow import ExactFlowStore
from flowcam_ns.video.frames import Frames
from make_clip import truth_json
from score_poses import Trajectory, read_trajectory, score


@pytest.fixture(scope="module")
def clip() -> ClipPlan:
    return plan_clip("sideways", seed=3, frames=4, width=96, height=54)


def decoded(clip: ClipPlan) -> Frames:
    """The clip's frames as if they had come out of a video file."""
    images = np.stack([clip.view(index)[0] for index in range(len(clip))])
    return Frames(images, [str(index) for index in range(len(clip))], np.arange(len(clip)) / 30, "clip")


def test_exact_flow_agrees_with_the_rendered_depth_at_pixel_centres(clip: ClipPlan) -> None:
    store = ExactFlowStore(clip, decoded(clip))
    x, y = np.meshgrid(np.arange(96) + 0.5, np.arange(54) + 0.5)
    points = np.stack([x, y], axis=-1).reshape(1, -1, 2)
    targets, seen = store.sample([(0, 3)], points, per_pair=True)
    flow, visible = clip.flow(0, 3)
    both = visible & (seen[0].reshape(54, 96) > 0)
    assert both.mean() > 0.7
    assert np.abs((targets - points).reshape(54, 96, 2) - flow)[both].max() < 1e-3


def test_exact_flow_there_and_back_returns_to_any_sub_pixel_point(clip: ClipPlan) -> None:
    store = ExactFlowStore(clip, decoded(clip))
    points = np.random.default_rng(0).uniform((1, 1), (95, 53), (1, 200, 2)).astype(np.float32)
    there, seen = store.sample([(1, 2)], points, per_pair=True)
    back, _ = store.sample([(2, 1)], there, per_pair=True)
    assert seen.sum() > 100
    assert np.abs(back - points)[seen > 0].max() < 1e-3


def test_exact_flow_is_measured_from_the_frames_that_were_decoded(clip: ClipPlan) -> None:
    """Frame 1 of a video whose second frame was thinned out is frame 2 of the clip."""
    frames = decoded(clip)
    kept = Frames(frames.images[[0, 2]], ["0", "2"], frames.timestamps[[0, 2]], frames.name)
    points = np.full((1, 1, 2), 40.5, np.float32)
    thinned, _ = ExactFlowStore(clip, kept).sample([(0, 1)], points, per_pair=True)
    complete, _ = ExactFlowStore(clip, frames).sample([(0, 2)], points, per_pair=True)
    assert np.array_equal(thinned, complete)


def test_numbers_keep_three_digits_and_what_is_unknown_is_a_dash() -> None:
    assert [written(x) for x in (0.012345, 1.2345, 123.45, 0.0, math.nan, None, 7, "x")] == [
        "0.0123", "1.23", "123", "0.00", "-", "-", "7", "x",
    ]  # fmt: skip


def test_a_table_has_heads_alignment_and_one_line_a_row() -> None:
    table = markdown_table([{"name": "a", "error, %": 0.5}, {"name": "b", "error, %": None}])
    assert table == "| name | error, % |\n| --- | ---: |\n| a | 0.500 |\n| b | - |"


def test_the_report_is_strict_json_beside_the_markdown(tmp_path: Path) -> None:
    write_report(tmp_path, {"cpu": "any"}, [Section("Poses", [{"sequence": "a", "ATE": math.nan}], ["A note."])])
    content = json.loads((tmp_path / "benchmark.json").read_text(), parse_constant=pytest.fail)
    assert content["sections"]["Poses"]["rows"] == [{"sequence": "a", "ATE": None}]
    assert (tmp_path / "benchmark.md").read_text().endswith("| a | - |\n\nA note.\n")


def test_a_commands_time_and_memory_are_measured(tmp_path: Path) -> None:
    code = "import time; block = bytearray(64 * 2**20); block[::4096] = b'x' * 16384; time.sleep(0.3)"
    finished = run([Path(sys.executable).name, "-c", code], tmp_path / "log")
    assert finished.seconds >= 0.3
    assert 64 < finished.peak_mib < 1000


def test_a_failing_command_is_not_scored(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        run([Path(sys.executable).name, "-c", "raise SystemExit(3)"], tmp_path / "log")


def test_the_truth_scores_perfectly_against_itself_and_a_wrong_frame_does_not(clip: ClipPlan, tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth_json(clip, "demo.mp4")))
    truth = read_trajectory(path)
    ours, trivial = score(truth, truth)
    assert ours.ate_relative < 1e-9
    assert trivial.auc_5 < ours.auc_5 == pytest.approx(1)
    moved = Trajectory({**truth.c2w, "2": truth.c2w["0"]}, truth.camera)
    assert score(moved, truth)[0].ate_relative > 0.1


def test_a_file_without_poses_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "transforms.json"
    path.write_text("{}")
    with pytest.raises(FlowCamError, match="is no transforms"):
        read_trajectory(path)


def test_what_one_section_computed_spares_no_other_its_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = []

    def measured(*_: object) -> dict[str, Callable[[], Section]]:
        return dict.fromkeys(
            ("views", "recorded"), lambda: (caches.append(os.environ["FLOWCAM_CACHE"]), Section("x"))[1]
        )

    monkeypatch.setenv("FLOWCAM_CACHE", str(tmp_path))  # put back afterwards
    monkeypatch.setattr(benchmark, "_measures", measured)
    benchmark.main(benchmark.BenchmarkOptions(sections=("views", "recorded"), output_dir=tmp_path / "out"))
    assert len(set(caches)) == 2
