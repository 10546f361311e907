"""The first picture after the poses: at once, and recognisable without any training to speak of."""

from __future__ import annotations

from pathlib import Path

from _benchmark.first_picture import first_picture_section
from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video

RECOGNISABLE_DB = 15
SECONDS = 5


def test_a_view_is_recognisable_within_seconds_of_the_poses(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    write_video(video, make_clip("sideways", seed=1, frames=16, width=320, height=180).rgb)
    (row,) = first_picture_section([video]).rows
    assert row["frames"] == 16
    psnr, waited = row["PSNR, dB"], row["picture after the poses, s"]
    assert isinstance(psnr, float)
    assert isinstance(waited, float)
    assert psnr > RECOGNISABLE_DB
    assert 0 < waited < SECONDS
