"""The first picture after the poses: at once, and recognisable without any training to speak of."""

from __future__ import annotations

import time
from pathlib import Path

from _benchmark.first_picture import first_picture, first_picture_section, likeness, new_pipeline
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video

RECOGNISABLE_DB = 15
SECONDS = 5


def test_a_view_is_recognisable_within_seconds_of_the_poses(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    write_video(video, make_clip("sideways", seed=1, frames=16, width=320, height=180).rgb)
    pipeline = new_pipeline(video)
    scores = likeness(pipeline, first_picture(pipeline, step=0))
    assert min(scores.values()) > RECOGNISABLE_DB
    assert scores["PSNR (frame), dB"] > scores["PSNR (nearest), dB"], "it shows its own place, not the neighbour's"
    # The same work once more, without the poses; processor time, because a busy machine proves nothing.
    before = time.process_time()
    first_picture(pipeline, step=1)
    assert time.process_time() - before < SECONDS


def test_the_table_separates_poses_and_picture(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    write_video(video, make_clip("sideways", seed=1, frames=8, width=160, height=90).rgb)
    started = time.monotonic()
    (row,) = first_picture_section([video]).rows
    elapsed = time.monotonic() - started
    poses, picture = row["poses and depths, s"], row["picture after the poses, s"]
    assert isinstance(poses, float)
    assert isinstance(picture, float)
    assert min(poses, picture) > 0
    assert poses + picture < elapsed
    assert row["frames"] == 8
