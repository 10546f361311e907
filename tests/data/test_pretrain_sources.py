"""What a folder of many videos holds, and what the known layouts say about lens and poses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from flowcam_ns.data.pretrain_sources import SYNTHETIC, find_sources, held_out_sources
from flowcam_ns.data.pretrain_synthetic import MOTIONS, synthetic_frames
from flowcam_ns.errors import FlowCamError
from flowcam_ns.synthetic.video_file import write_video
from flowcam_ns.video import container, decode
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions

WIDTH, HEIGHT = 64, 48
CO3D_VIEW = {"R": np.eye(3).tolist(), "T": [0, 0, 0], "focal_length": [1, 1], "principal_point": [0, 0]}


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name in names:
        Image.fromarray(random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / name)


def film(path: Path, codec: str, pixels: str, frames: int) -> None:
    """A video with a keyframe every ten frames."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no encoder {codec}")
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = HEIGHT, WIDTH, pixels, 10
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, k, axis=1), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            file.mux(stream.encode(frame.reformat(format=pixels)))
        file.mux(stream.encode(None))


def some_poses(count: int) -> np.ndarray:
    """World-to-camera poses that turn and move."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for k in range(count):
        cosine, sine = np.cos(0.1 * k), np.sin(0.1 * k)
        poses[k, :3, :3] = [[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]
        poses[k, :3, 3] = [0.1 * k, 0.02 * k, -0.3 * k]
    return poses


def the_only_truth(data: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Poses and lens of the one source below `data`, loaded in full."""
    (source,) = find_sources(data)
    frames = source.load(0, 10, WIDTH)
    truth = frames.ground_truth
    assert truth is not None
    assert truth.camera is not None
    lens = truth.camera
    return truth.c2w, (lens.fx, lens.fy, lens.cx, lens.cy)


def test_any_mix_is_found_and_odd_files_are_passed_over(tmp_path: Path) -> None:
    images(tmp_path / "trip" / "day1", ["a1.png", "a2.png", "a10.png"])
    images(tmp_path / "few", ["a.png", "b.png"])
    images(tmp_path / "trip" / "masks", ["a.png", "b.png", "c.png"])
    images(tmp_path / "set" / "images", ["a.png", "b.png", "c.png"])
    frames = [{"file_path": f"images/{name}.png", "transform_matrix": np.eye(4).tolist()} for name in "abc"]
    (tmp_path / "set" / "transforms.json").write_text(json.dumps({"fl_x": 50, "frames": frames}))
    write_video(tmp_path / "deep" / "er" / "clip.mp4", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 5)
    (tmp_path / "deep" / "notes.txt").write_text("nothing")
    found = {source.name: source.kind for source in find_sources(tmp_path)}
    assert found == {"deep/er/clip.mp4": "video", "set": "dataset", "trip/day1": "images"}
    by_name = {source.name: source for source in find_sources(tmp_path)}
    assert [by_name[name].count() for name in sorted(by_name)] == [5, 3, 3]
    assert by_name["trip/day1"].load(0, 3, WIDTH).sources == ["a1.png", "a2.png", "a10.png"]


def test_a_piece_of_a_video_is_its_neighbouring_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [np.full((HEIGHT, WIDTH, 3), 8 * k, np.uint8) for k in range(20)])
    (source,) = find_sources(tmp_path)
    assert source.load(5, 6, WIDTH).sources == [str(k) for k in range(5, 11)]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mp4", "libx264", "yuv420p"),
        ("clip.mkv", "libx264", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.gif", "gif", "rgb8"),
    ],
)
def test_a_late_piece_of_any_video_is_found_without_decoding_all_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, pixels: str
) -> None:
    film(tmp_path / name, codec, pixels, frames=60)
    (source,) = find_sources(tmp_path)
    assert source.count() == pytest.approx(60, abs=1)
    whole = load_frames(tmp_path / name, FrameOptions(thin=False))
    assert len(whole) == 60
    seen = []

    def counted(*arguments: Any) -> Iterator[Any]:
        for picture in container.pictures(*arguments):
            seen.append(picture)
            yield picture

    monkeypatch.setattr(decode, "pictures", counted)
    piece = source.load(44, 6, WIDTH)
    assert piece.sources == [str(k) for k in range(44, 50)]
    assert np.array_equal(piece.images, whole.images[44:50])
    assert codec == "gif" or len(seen) < 20
    assert len(source.load(55, 64, WIDTH)) == 5
    with pytest.raises(FlowCamError, match="frames from number 1000 on"):
        source.load(1000, 64, WIDTH)


def test_what_would_open_other_files_is_no_video(tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", "libx264", "yuv420p", frames=10)
    (tmp_path / "list.mkv").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    listed = {source.name: source for source in find_sources(tmp_path)}["list.mkv"]
    assert listed.count() == 0
    with pytest.raises(FlowCamError, match="not a video"):
        listed.load(0, 5, WIDTH)


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    images(tmp_path / "store" / "abc", ["a.png", "b.png", "c.png"])
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "trip").symlink_to(tmp_path / "store" / "abc")
    (tmp_path / "data" / "trip_again").symlink_to(tmp_path / "store" / "abc")
    (tmp_path / "data" / "deep" / "loop").symlink_to(tmp_path / "data")
    (source,) = find_sources(tmp_path / "data")
    assert (source.name, source.count()) == ("trip", 3)


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_data_that_holds_nothing_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / make
    if make == "file":
        path.write_text("x")
    if make == "empty":
        path.mkdir()
    with pytest.raises(FlowCamError, match=str(make)):
        find_sources(path)


def test_validation_videos_stay_the_same_when_others_are_added(tmp_path: Path) -> None:
    sources = find_sources(Path(SYNTHETIC))
    train, held_out = held_out_sources(sources[:200], 0.2)
    more_train, more_held_out = held_out_sources(sources[:400], 0.2)
    assert len(train) + len(held_out) == 200
    assert 20 < len(held_out) < 60
    assert {s.name for s in held_out} <= {s.name for s in more_held_out}
    assert {s.name for s in more_train}.isdisjoint({s.name for s in more_held_out})
    one, other = held_out_sources(sources[:2], 0.0)
    assert len(one) == len(other) == 1
    with pytest.raises(FlowCamError, match="one more"):
        held_out_sources(sources[:1], 0.1)


@pytest.mark.parametrize("number", [12, 3])
def test_a_procedural_clip_is_the_same_each_time_and_comes_with_its_truth(number: int) -> None:
    first, again = (synthetic_frames(number, frames=4, width=64, height=36) for _ in range(2))
    assert np.array_equal(first.images, again.images)
    assert len(first) == 4
    assert first.ground_truth is not None
    assert first.ground_truth.c2w.shape == (4, 4, 4)
    assert ("clutter" if number == 3 else MOTIONS[3]) in first.name
    other = synthetic_frames(number + 4, frames=4, width=64, height=36)
    assert not np.array_equal(first.images, other.images)


def test_realestate10k(tmp_path: Path) -> None:
    poses = some_poses(4)
    names = [f"{1000 * k}.png" for k in (1, 2, 3, 10)]
    images(tmp_path / "train" / "abc", names)
    lines = ["https://example.org/video"]
    for name, pose in zip(names, poses, strict=True):
        numbers = [0.9, 1.2, 0.5, 0.5, 0, 0, *pose[:3].flatten()]
        lines.append(" ".join([name.removesuffix(".png"), *map(str, numbers)]))
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "abc.txt").write_text("\n".join(lines))
    c2w, lens = the_only_truth(tmp_path)
    assert np.allclose(c2w, np.linalg.inv(poses))
    assert np.allclose(lens, [0.9 * WIDTH, 1.2 * HEIGHT, 0.5 * WIDTH, 0.5 * HEIGHT])


@pytest.mark.parametrize("style", ["ndc_norm_image_bounds", "ndc_isotropic"])
def test_co3d(tmp_path: Path, style: str) -> None:
    poses = some_poses(3)
    names = [f"frame00000{k}.jpg" for k in range(3)]
    images(tmp_path / "cat" / "seq1" / "images", names)
    flip = np.diag([-1.0, -1.0, 1.0])
    half = np.array([WIDTH, HEIGHT]) / 2 if style.endswith("bounds") else np.full(2, HEIGHT / 2)
    entries = [
        {
            "sequence_name": "seq1",
            "frame_number": k,
            "image": {"path": f"cat/seq1/images/{name}", "size": [HEIGHT, WIDTH]},
            "viewpoint": {
                "R": (flip @ pose[:3, :3]).T.tolist(),
                "T": (flip @ pose[:3, 3]).tolist(),
                "focal_length": (np.array([60, 66]) / half).tolist(),
                "principal_point": ((np.array([WIDTH / 2 - 30, HEIGHT / 2 - 25])) / half).tolist(),
                "intrinsics_format": style,
            },
        }
        for k, (name, pose) in enumerate(zip(names, poses, strict=True))
    ]
    with gzip.open(tmp_path / "cat" / "frame_annotations.jgz", "wt") as file:
        json.dump(entries, file)
    c2w, lens = the_only_truth(tmp_path)
    assert np.allclose(c2w, np.linalg.inv(poses))
    assert np.allclose(lens, [60, 66, 30, 25])


def test_kitti_odometry_and_raw(tmp_path: Path) -> None:
    poses = some_poses(3)
    names = [f"00000{k}.png" for k in range(3)]
    odometry, raw = tmp_path / "odometry", tmp_path / "raw"
    images(odometry / "sequences" / "07" / "image_2", names)
    matrix = "70 0 31 35 0 70 22 0 0 0 1 0"
    (odometry / "sequences" / "07" / "calib.txt").write_text(f"P0: 70 0 31 0 0 70 22 0 0 0 1 0\nP2: {matrix}\n")
    (odometry / "poses").mkdir()
    (odometry / "poses" / "07.txt").write_text("\n".join(" ".join(map(str, pose[:3].flatten())) for pose in poses))
    c2w, lens = the_only_truth(odometry)
    assert np.allclose(lens, [70, 70, 31, 22])
    # The colour camera stands half a metre to the left of the one whose poses are given.
    assert np.allclose(c2w[:, :3, 3], (poses @ [-0.5, 0, 0, 1])[:, :3])
    images(raw / "2011_09_26" / "drive_1" / "image_02" / "data", names)
    (raw / "2011_09_26" / "calib_cam_to_cam.txt").write_text(f"calib_time: 09-Jan\nP_rect_02: {matrix}\n")
    (source,) = find_sources(raw)
    truth = source.load(0, 10, WIDTH).ground_truth
    assert truth is not None
    assert truth.camera is not None
    assert np.isnan(truth.c2w).all(), "raw drives come without poses"
    assert truth.camera.fx == pytest.approx(70)


@pytest.mark.parametrize(
    ("where", "content"),
    [
        ("sequences/00/calib.txt", b"P2: 1 2 three"),
        ("sequences/00/calib.txt", b"P2: 0 0 31 35 0 0 22 0 0 0 1 0"),
        ("image_2.txt", b"0 " + b"0 " * 18),
        ("co3d/frame_annotations.jgz", gzip.compress(b"[]", mtime=0)[:-6]),
        ("co3d/frame_annotations.jgz", gzip.compress(b"[3]", mtime=0)),
        ("co3d/frame_annotations.jgz", gzip.compress(b'[{"sequence_name": "s", "image": {"path": "0.png"', mtime=0)),
        *(
            (
                "co3d/frame_annotations.jgz",
                gzip.compress(json.dumps([{"sequence_name": "s", **entry}]).encode(), mtime=0),
            )
            for entry in (
                {"image": {"path": "0.png", "size": [0, 0]}, "viewpoint": CO3D_VIEW},
                {"image": {"path": "0.png", "size": [4, 4]}, "viewpoint": {**CO3D_VIEW, "T": [10**400, 0, 0]}},
                {"image": {"path": "0.png", "size": [4, 4]}, "viewpoint": {**CO3D_VIEW, "focal_length": [10**400, 1]}},
            )
        ),
    ],
)
def test_annotations_are_read_with_the_frames_and_damaged_ones_told_in_one_line(
    tmp_path: Path, where: str, content: bytes
) -> None:
    folder = "co3d/s/images" if where.startswith("co3d") else "sequences/00/image_2"
    images(tmp_path / folder, ["0.png", "1.png", "2.png"])
    (tmp_path / where).write_bytes(content)
    (source,) = find_sources(tmp_path)
    with pytest.raises(FlowCamError, match=r"(image_2|images) cannot be read") as error:
        source.load(0, 3, WIDTH)
    assert "\n" not in str(error.value)
