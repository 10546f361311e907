"""The pictures of a run: a path that nerfstudio flies along, sheets that show the right thing, small files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from PIL import Image

from flowcam_ns.errors import FlowCamError
from flowcam_ns.synthetic.clip import plan_clip
from flowcam_ns.synthetic.video_file import write_video
from make_camera_path import MakeCameraPath, camera_path, read_cameras
from make_clip import truth_json
from make_pictures import GAP, MARGIN, MakePictures, coloured_depth, main

MEDIA = Path(__file__).resolve().parents[1] / "docs" / "media"
LIMITS = {".jpg": 300_000, ".png": 300_000, ".webp": 1_500_000, ".mp4": 1_000_000}
WIDTH, HEIGHT = 64, 36


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    clip = plan_clip("orbit", seed=1, frames=20, width=WIDTH, height=HEIGHT)
    (tmp_path / "transforms.json").write_text(json.dumps(truth_json(clip, "demo.mp4")))
    return tmp_path


def test_nerfstudio_flies_along_the_cameras(run_folder: Path) -> None:
    path = camera_path(MakeCameraPath(run_folder, period=0.05, slower=2.0, fps=30))
    content, c2w, seconds = read_cameras(run_folder / "transforms.json")
    assert path["seconds"] == pytest.approx(2 * seconds[-1], abs=1 / 30)
    cameras = get_path_from_json(path)
    assert len(cameras) == round(path["seconds"] * 30)
    assert cameras.camera_to_worlds[[0, -1]] == pytest.approx(torch.from_numpy(c2w[[0, -1], :3]).float(), abs=0.01)
    assert float(cameras.fx[0, 0]) == pytest.approx(content["fl_y"], rel=1e-5)
    assert (int(cameras.width[0, 0]), int(cameras.height[0, 0])) == (WIDTH, HEIGHT)


def test_the_flights_video_has_even_sizes_so_that_every_player_shows_it(run_folder: Path) -> None:
    content = json.loads((run_folder / "transforms.json").read_text())
    (run_folder / "transforms.json").write_text(json.dumps({**content, "w": 63, "h": 35}))
    path = camera_path(MakeCameraPath(run_folder, period=0.05))
    assert (path["render_width"], path["render_height"]) == (64, 36)
    assert path["camera_path"][0]["aspect"] == pytest.approx(64 / 36)


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FlowCamError, match="is no transforms"):
        camera_path(MakeCameraPath(tmp_path))
    (tmp_path / "transforms.json").write_text('{"w": 4, "h": 3, "fl_y": 4, "frames": []}')
    with pytest.raises(FlowCamError, match="5 cameras"):
        camera_path(MakeCameraPath(tmp_path))


def test_near_things_are_brighter_and_a_stray_pixel_changes_little() -> None:
    depth = np.linspace(1, 4, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    colours = coloured_depth(depth).astype(int)
    brightness = colours.sum(-1).ravel()
    assert brightness[0] > brightness[len(brightness) // 2] > brightness[-1]
    stray = depth.copy()
    stray[0, 0] = 1e-3
    assert np.abs(coloured_depth(stray).astype(int) - colours)[5:].max() < 8


@pytest.fixture
def demo(tmp_path: Path) -> MakePictures:
    """What the demo's commands leave behind: frame i is red and its rendering green, as bright as i."""
    for i in range(4):
        for name, channel in (("gt-rgb", 0), ("rgb", 1)):
            picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            picture[..., channel] = 100 + i
            (tmp_path / "test" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "test" / name / f"frame_{i:05}.png")
        (tmp_path / "test" / "raw-depth").mkdir(exist_ok=True)
        with gzip.open(tmp_path / "test" / "raw-depth" / f"frame_{i:05}.npy.gz", "wb") as file:
            np.save(file, np.linspace(1, 2, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH, 1))
    shades = np.linspace(20, 220, 12).astype(np.uint8)
    write_video(tmp_path / "flight.mp4", np.tile(shades[:, None, None, None], (1, HEIGHT, WIDTH, 3)))
    Image.new("RGB", (300, 100), "white").save(tmp_path / "plot.png")
    return MakePictures(
        tmp_path / "test", tmp_path / "flight.mp4", tmp_path / "plot.png", tmp_path / "out", 2, 32, 2, 150
    )


def test_each_row_shows_a_frame_its_rendering_and_its_depth(demo: MakePictures) -> None:
    main(demo)
    sheet = np.asarray(Image.open(demo.output_dir / "held_out.jpg").convert("RGB")).astype(int)
    assert sheet.shape == (MARGIN + 2 * HEIGHT + GAP, 3 * WIDTH + 2 * GAP, 3)
    for row, frame in enumerate((0, 3)):
        middle = MARGIN + row * (HEIGHT + GAP) + HEIGHT // 2
        truth, rendering, depth = (sheet[middle, column * (WIDTH + GAP) + WIDTH // 2] for column in range(3))
        assert truth == pytest.approx([100 + frame, 0, 0], abs=4)
        assert rendering == pytest.approx([0, 100 + frame, 0], abs=4)
        assert depth.sum() > 60


def test_the_moving_picture_runs_forward_and_back_without_a_jump(demo: MakePictures) -> None:
    main(demo)
    moving = Image.open(demo.output_dir / "flight.webp")
    shades = []
    for i in range(moving.n_frames):  # type: ignore[attr-defined]
        moving.seek(i)
        shades.append(float(np.asarray(moving.convert("L")).mean()))
    assert moving.size == (32, 18)
    assert len(shades) == 10, "every second of 12 views, there and back"
    around = np.abs(np.diff([*shades, shades[0]]))
    assert around.min() > 10
    assert around.max() < 60
    assert Image.open(demo.output_dir / "trajectory.png").size == (150, 50)
    assert (demo.output_dir / "flight.mp4").read_bytes() == demo.flight.read_bytes()


def test_what_was_not_rendered_is_named(demo: MakePictures, tmp_path: Path) -> None:
    with pytest.raises(FlowCamError, match="ns-render dataset"):
        main(MakePictures(tmp_path / "nowhere", demo.flight, demo.trajectory, demo.output_dir))
    demo.flight.unlink()
    with pytest.raises(FlowCamError, match=r"flight\.mp4"):
        main(demo)


def test_the_readmes_pictures_are_small_and_sound() -> None:
    files = sorted(MEDIA.iterdir())
    assert {file.name for file in files} == {"held_out.jpg", "trajectory.png", "flight.webp", "flight.mp4"}
    assert [file.name for file in files if file.stat().st_size > LIMITS[file.suffix]] == []
    for file in files:
        if file.suffix != ".mp4":
            Image.open(file).load()
