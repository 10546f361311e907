#!/usr/bin/env python3
"""Small pictures of a run for a README: held-out frames beside their renderings and depths, trajectory, moving flight.

ns-render dataset --load-config CONFIG --split test --rendered-output-names gt-rgb rgb raw-depth --image-format png
python scripts/make_pictures.py --renders renders/test --flight flight.mp4 --trajectory poses/trajectory.png
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import tyro
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from flowcam_ns.errors import FlowCamError
from flowcam_ns.formats.atomic import atomic_file

Picture = UInt8[np.ndarray, "height width 3"]

GAP, MARGIN = 6, 26
"""px between pictures, and above them for their titles."""
TITLES = ("held-out frame", "rendering", "depth")
NEAR_AND_FAR = (0.02, 0.98)
"""Quantiles of inverse depth that become the ends of the colour scale: single stray pixels must not stretch it."""
JPEG_QUALITY, WEBP_QUALITY = 88, 60


@dataclass
class MakePictures:
    """Compose small pictures of a run."""

    renders: Path = Path("demo/renders/test")
    """What `ns-render dataset` rendered of the held-out frames: folders gt-rgb, rgb and raw-depth."""
    flight: Path = Path("demo/flight.mp4")
    """Video of a camera path."""
    trajectory: Path = Path("demo/poses/trajectory.png")
    """The plot that comes with the poses."""
    output_dir: Path = Path("demo/pictures")
    """Folder for held_out.jpg, trajectory.png, flight.webp and flight.mp4."""
    rows: int = 3
    """How many held-out frames are shown, spread evenly."""
    webp_width: int = 400
    """Width of the moving picture, px."""
    webp_every: int = 2
    """Every which view of the flight the moving picture shows."""
    plot_width: int = 1200
    """Width of the trajectory plot, px."""


def coloured_depth(depth: Float[np.ndarray, "height width"]) -> Picture:
    """Depth as colours, near ones bright; even steps of colour are even steps of inverse depth, as parallax is."""
    from matplotlib import colormaps

    inverse = 1 / np.maximum(depth, 1e-6)
    far, near = np.quantile(inverse, NEAR_AND_FAR)
    return colormaps["inferno"]((inverse - far) / max(near - far, 1e-12), bytes=True)[..., :3]


def held_out_sheet(renders: Path, rows: int) -> Image.Image:
    """Held-out frames, what the field shows in their place, and its depth, side by side; FlowCamError if missing."""
    files = sorted((renders / "rgb").glob("*.png"))
    if not files:
        raise FlowCamError(f"{renders}/rgb holds no pictures: render them with ns-render dataset (see --help)")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(rows, len(files))).round().astype(int))]
    lines = []
    for file in chosen:
        with gzip.open(renders / "raw-depth" / f"{file.stem}.npy.gz") as stored:
            depth = coloured_depth(np.load(stored)[..., 0])
        lines.append([_load(renders / "gt-rgb" / file.name), _load(file), depth])
    return sheet(lines, TITLES)


def sheet(lines: Sequence[Sequence[Picture]], titles: Sequence[str]) -> Image.Image:
    """Pictures of one size in rows, with a title over every column."""
    height, width = lines[0][0].shape[:2]
    font = ImageFont.load_default(15)
    across, down = len(titles) * (width + GAP) - GAP, len(lines) * (height + GAP) - GAP
    page = Image.new("RGB", (across, MARGIN + down), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((column * (width + GAP) + width / 2, MARGIN / 2), title, fill="#333333", font=font, anchor="mm")
    for row, line in enumerate(lines):
        for column, picture in enumerate(line):
            page.paste(Image.fromarray(picture), (column * (width + GAP), MARGIN + row * (height + GAP)))
    return page


def write_moving_picture(video: Path, target: Path, width: int, every: int) -> None:
    """A video as an animated WebP that runs forward and back for ever, so that it has no jump."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 24)
        frames = [frame.to_image() for i, frame in enumerate(container.decode(stream)) if i % every == 0]
    height = round(frames[0].height * width / frames[0].width)
    small = [frame.resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    loop = small + small[-2:0:-1]
    duration = round(1000 * every / fps)
    with atomic_file(target) as temporary:
        loop[0].save(temporary, save_all=True, append_images=loop[1:], duration=duration, loop=0,
                     quality=WEBP_QUALITY, method=6)  # fmt: skip


def main(options: MakePictures) -> None:
    """Write all pictures, and say how large they are."""
    for file in (options.flight, options.trajectory):
        if not file.is_file():
            raise FlowCamError(f"there is no {file}")
    out = options.output_dir
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "held_out.jpg") as temporary:
        held_out_sheet(options.renders, options.rows).save(temporary, quality=JPEG_QUALITY, optimize=True)
    plot = Image.open(options.trajectory).convert("RGB")
    size = (options.plot_width, round(plot.height * options.plot_width / plot.width))
    with atomic_file(out / "trajectory.png") as temporary:
        # 256 colours are plenty for a plot, and a third of the bytes.
        plot.resize(size, Image.Resampling.LANCZOS).quantize(256).save(temporary, optimize=True)
    write_moving_picture(options.flight, out / "flight.webp", options.webp_width, options.webp_every)
    with atomic_file(out / "flight.mp4") as temporary:
        shutil.copyfile(options.flight, temporary)
    for name in ("held_out.jpg", "trajectory.png", "flight.webp", "flight.mp4"):
        print(f"{out / name}: {(out / name).stat().st_size / 1000:.0f} kB")


def _load(file: Path) -> Picture:
    return np.asarray(Image.open(file).convert("RGB"))


if __name__ == "__main__":
    try:
        main(tyro.cli(MakePictures, description=__doc__))
    except FlowCamError as error:
        raise SystemExit(f"error: {error}") from None
