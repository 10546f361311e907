"""Folders of images: any bit depth and orientation, natural order, one size; EXIF tells the focal length."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.frames import DEFAULT_FPS
from flowcam_ns.video.image_file import natural_key
from flowcam_ns.video.load import load_frames
from flowcam_ns.video.options import FrameOptions
from flowcam_ns.video.orientation import EXIF_ORIENTATIONS

Slide = Callable[..., list[np.ndarray]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    return path


def write_all(folder: Path, pictures: list[np.ndarray], suffix: str = ".png", **options: object) -> None:
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"shot{i + 1}{suffix}", **options)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".tif", ".tiff"])
def test_reads_image_formats_in_natural_order(folder: Path, slide: Slide, suffix: str):
    pictures = slide(np.arange(12) * 4.0)
    write_all(folder, pictures, suffix, quality=95)
    (folder / "notes.txt").write_text("not an image")
    (folder / f"._shot1{suffix}").write_bytes(b"resource fork")
    frames = load_frames(folder)
    assert frames.name == "photos"
    assert frames.sources == [f"shot{i}{suffix}" for i in range(1, 13)]
    assert np.allclose(frames.timestamps, np.arange(12) / DEFAULT_FPS)
    assert np.abs(frames.images.astype(int) - np.stack(pictures)).mean() < 6


def test_folder_within_the_budget_keeps_all_and_above_it_is_thinned(folder: Path, slide: Slide):
    write_all(folder, slide(np.concatenate([np.zeros(20), np.arange(20) * 3.0])))
    everything, thinned = load_frames(folder), load_frames(folder, FrameOptions(max_frames=25))
    assert (len(everything), everything.thinned) == (40, 0)
    assert 15 <= len(thinned) <= 25
    assert thinned.thinned == 40 - len(thinned)
    numbers = [int(source[4:-4]) - 1 for source in thinned.sources]
    assert sum(n < 20 for n in numbers) <= 2
    assert np.array_equal(thinned.images, everything.images[numbers])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(folder: Path, slide: Slide, orientation: int):
    picture = slide([30.0])[0]
    stored = Image.fromarray(picture)
    # Pillow's own transposition is the judge.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[274] = orientation
    for name in ("a.png", "b.png", "c.png"):
        stored.save(folder / name, exif=exif)
    frames = load_frames(folder)
    assert np.array_equal(frames.images[0], picture)
    assert (orientation in EXIF_ORIENTATIONS) == (orientation != 1)


def test_grey_and_sixteen_bit(folder: Path, slide: Slide):
    grey = slide([0.0])[0][..., 0]
    deep = grey.astype(np.uint16) * 256 + 17
    Image.fromarray(grey).save(folder / "1.png")
    Image.fromarray(deep).save(folder / "2.png")
    Image.fromarray(deep).save(folder / "3.tif")
    Image.fromarray(grey).convert("1").save(folder / "4.png")
    frames = load_frames(folder)
    for i in range(3):
        assert np.array_equal(frames.images[i], np.repeat(grey[..., None], 3, 2))
    assert set(np.unique(frames.images[3])) == {0, 255}


def test_transparent_parts_become_black(folder: Path, slide: Slide):
    picture = slide([0.0])[0]
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:, :40] = 0
    rgba = np.dstack([picture, alpha])
    for name in ("a.png", "b.webp", "c.png"):
        Image.fromarray(rgba).save(folder / name, lossless=True)
    for image in load_frames(folder).images:
        assert not image[:, :40].any()
        assert np.array_equal(image[:, 40:], picture[:, 40:])


def test_large_photos_are_scaled(folder: Path, slide: Slide):
    write_all(folder, slide([0.0, 5.0, 10.0], size=(600, 180)), ".jpg", quality=95)
    frames = load_frames(folder, FrameOptions(max_size=150))
    assert frames.images.shape == (3, 45, 150, 3)


def test_exif_focal_length_as_35mm_equivalent(folder: Path, slide: Slide):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    write_all(folder, slide([0.0, 5.0, 10.0]), ".jpg", exif=exif)
    frames = load_frames(folder, FrameOptions(max_size=80))
    assert frames.focal_prior == pytest.approx(26 / math.hypot(36, 24) * math.hypot(80, 48), rel=1e-3)
    assert frames.camera is None


def test_exif_focal_length_by_focal_plane_resolution(folder: Path, slide: Slide):
    exif = Image.Exif()
    ifd = exif.get_ifd(0x8769)
    ifd[0x920A], ifd[0xA20E], ifd[0xA210], ifd[0xA002] = 50.0, 1000.0, 2, 1600
    write_all(folder, slide([0.0, 5.0, 10.0]), ".jpg", exif=exif)
    taken = 50.0 * 1000 / 25.4  # px at 1600 px of width; the file has 160
    assert load_frames(folder).focal_prior == pytest.approx(taken / 10, rel=1e-3)


def test_zoomed_photos_have_no_common_focal_length(folder: Path, slide: Slide):
    for i, picture in enumerate(slide([0.0, 5.0, 10.0])):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = 26 + 20 * i
        Image.fromarray(picture).save(folder / f"{i}.jpg", exif=exif)
    frames = load_frames(folder)
    assert frames.focal_prior is None
    assert "zoom" in frames.warnings[0]


def test_two_sizes_are_refused_by_name(folder: Path, slide: Slide):
    Image.fromarray(slide([0.0])[0]).save(folder / "a.png")
    for name in ("b.png", "c.png"):
        Image.fromarray(slide([0.0], size=(120, 90))[0]).save(folder / name)
    with pytest.raises(FlowCamError, match=r"a\.png is 160x96 px, b\.png is 120x90 px"):
        load_frames(folder)


def test_a_broken_image_is_named(folder: Path, slide: Slide):
    write_all(folder, slide([0.0, 5.0, 10.0]))
    broken = folder / "shot2.png"
    broken.write_bytes(broken.read_bytes()[:3000])
    with pytest.raises(FlowCamError, match=r"shot2\.png cannot be read"):
        load_frames(folder)


def test_decompression_bomb_is_refused(folder: Path, slide: Slide):
    write_all(folder, slide([0.0, 5.0, 10.0]))
    Image.new("1", (20000, 20000)).save(folder / "shot2.png")
    with pytest.raises(FlowCamError, match=r"shot2\.png"):
        load_frames(folder)


def test_one_image_or_none_is_refused(folder: Path, slide: Slide):
    with pytest.raises(FlowCamError, match="holds no images"):
        load_frames(folder)
    write_all(folder, slide([0.0]))
    with pytest.raises(FlowCamError, match="1 image in the range"):
        load_frames(folder)
    write_all(folder, slide([0.0, 5.0]))
    with pytest.raises(FlowCamError, match="2 images in the range asked for; poses need at least 3"):
        load_frames(folder)
    with pytest.raises(FlowCamError, match="single image"):
        load_frames(folder / "shot1.png")


def test_missing_path_and_folder_of_videos(folder: Path, slide: Slide):
    with pytest.raises(FlowCamError, match="does not exist"):
        load_frames(folder / "nowhere")
    (folder / "clip.mp4").write_bytes(b"x")
    with pytest.raises(FlowCamError, match=r"the video clip\.mp4"):
        load_frames(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission_to_read_the_folder(folder: Path, slide: Slide):
    write_all(folder, slide([0.0, 5.0, 10.0]))
    folder.chmod(0)
    try:
        with pytest.raises(FlowCamError, match="No permission"):
            load_frames(folder)
    finally:
        folder.chmod(0o755)


def test_no_permission_is_one_line(folder: Path, slide: Slide, monkeypatch: pytest.MonkeyPatch):
    write_all(folder, slide([0.0, 5.0, 10.0]))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(FlowCamError, match="No permission to read"):
        load_frames(folder)


@pytest.mark.parametrize(
    "options",
    [
        FrameOptions(start=3, end=2),
        FrameOptions(start=float("nan")),
        FrameOptions(start_frame=5, end_frame=5),
        FrameOptions(max_frames=2),
        FrameOptions(max_size=8),
        FrameOptions(focal=-1.0),
        FrameOptions(use_dataset_intrinsics=True, focal=100.0),
        FrameOptions(use_dataset_intrinsics=True),
        FrameOptions(masks=Path("/nowhere/masks")),
    ],
)
def test_options_without_sense_are_refused(folder: Path, slide: Slide, options: FrameOptions):
    write_all(folder, slide([0.0, 5.0, 10.0]))
    with pytest.raises(FlowCamError):
        load_frames(folder, options)


def test_tiny_images_are_refused(folder: Path, slide: Slide):
    write_all(folder, slide([0.0, 5.0, 10.0], size=(20, 12)))
    with pytest.raises(FlowCamError, match="at least 32 px"):
        load_frames(folder)


def test_panoramic_strips_are_thinned_without_trouble(folder: Path, slide: Slide):
    write_all(folder, slide(np.arange(6) * 40.0, size=(800, 32)))
    assert len(load_frames(folder, FrameOptions(max_frames=4))) <= 4


def test_numbers_of_any_length_sort_as_numbers():
    names = ["f9.png", "f10.png", "f010a.png", f"f{'1' * 5000}.png", f"f{'2' * 5000}.png", f"f1{'0' * 5000}.png"]
    mixed = [names[k] for k in (3, 0, 5, 1, 4, 2)]
    assert sorted(mixed, key=lambda name: natural_key(PurePath(name))) == names
