"""Whether the same video, given in another way, leads to the same trajectory.

Each sequence is solved as it is, once more, reversed in time, at 0.9 of its size, and without every tenth frame. All
are compared with the first: no truth is asked for.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Int

from _benchmark.methods import Outcome, run_method
from _benchmark.pictures import write_picture
from _benchmark.sequences import RecordedSequence
from _benchmark.tables import Row, Section
from flowcam_ns.geometry.metrics import score_trajectory

RESIZED = 0.9
EVERY = 10
"""One of so many frames is left out, from the middle of the first ten on."""
VARIANTS = ("again", "reversed", f"{RESIZED} of the size", "a tenth left out")
NOTE = (
    "Trajectories compared with that of the sequence as it is, over the frames that both posed, after a right-handed "
    "Sim(3) fit: root mean square and largest distance of the camera centres in % of the RMS radius, mean and largest "
    "rotation. Focal length: relative change, and the standard deviation that the first run reports. Unaligned: the "
    "largest difference of any entry of the poses, the trajectory's radius being 1 (for `again`: the two should be "
    "identical)."
)


def stability_section(sequences: Iterable[RecordedSequence], folder: Path, cores: int, time_limit: float) -> Section:
    """A row for every sequence and way of giving it."""
    section = Section("Stability", notes=[NOTE])
    for sequence in sequences:
        name = sequence.name.replace(":", "_")
        with tempfile.TemporaryDirectory(prefix="flowcam-benchmark-") as scratch:
            first = _solve(sequence.link_images(Path(scratch) / "as_it_is"), folder / f"{name}.json", cores, time_limit)
            for variant in VARIANTS:
                images, frames = write_variant(sequence, variant, Path(scratch) / variant.replace(" ", "_"))
                result = folder / f"{name}-{variant.replace(' ', '_')}.json"
                outcome = _solve(images, result, cores, time_limit)
                section.rows.append(stability_row(sequence.name, variant, first, outcome, frames))
                print(f"{sequence.name}, {variant}: {outcome.seconds:.1f} s", flush=True)
    return section


def _solve(images: Path, result: Path, cores: int, time_limit: float) -> Outcome:
    return run_method("ours", images, len(list(images.iterdir())), result, cores=cores, time_limit=time_limit)


def write_variant(sequence: RecordedSequence, variant: str, folder: Path) -> tuple[Path, Int[np.ndarray, "frames"]]:
    """A folder of images, and which frame of the sequence each of them is."""
    frames = np.arange(len(sequence.files))
    if variant == "reversed":
        frames = frames[::-1].copy()
    elif variant.startswith("a tenth"):
        frames = frames[frames % EVERY != EVERY // 2]
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames.tolist()):
        file = sequence.files[frame]
        if variant.startswith(str(RESIZED)):
            image = sequence.frames.images[frame]
            size = round(RESIZED * image.shape[1]), round(RESIZED * image.shape[0])
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            write_picture(folder / f"{index:06}.png", small)
        else:
            (folder / f"{index:06}{file.suffix}").symlink_to(file.absolute())
    return folder, frames


def stability_row(name: str, variant: str, first: Outcome, outcome: Outcome, frames: Int[np.ndarray, "frames"]) -> Row:
    """How far a variant's trajectory lies from the first one; `frames` says which of the first's frames it has."""
    here, there = outcome.estimate.c2w, first.estimate.c2w[frames]
    row: dict[str, float | int | str | None] = {
        "sequence": name,
        "given": variant,
        "posed": f"{int(outcome.estimate.posed.sum())}/{len(frames)}",
    }
    shared = outcome.estimate.posed & first.estimate.posed[frames]
    if shared.sum() < 3:
        return row | _columns(*[math.nan] * 7)
    scores = score_trajectory(torch.from_numpy(here[shared]), torch.from_numpy(there[shared]))
    return row | _columns(
        100 * scores.ate_relative,
        100 * scores.max_position_relative,
        scores.mean_rotation_deg,
        scores.max_rotation_deg,
        *_focal_change(first, outcome),
        _unaligned(here[shared], there[shared]),
    )


def _columns(
    rms: float, largest: float, rotation: float, largest_rotation: float, focal: float, std: float, unaligned: float
) -> dict[str, float | int | str | None]:
    return {
        "apart, %": rms,
        "largest, %": largest,
        "rotation, degrees": rotation,
        "largest, degrees": largest_rotation,
        "focal length, %": focal,
        "reported, %": std,
        "unaligned": unaligned,
    }


def _focal_change(first: Outcome, outcome: Outcome) -> tuple[float, float]:
    """Change of the focal length (shares of the long side) and the first one's reported deviation, both in %."""
    one, other, std = first.camera, outcome.camera, first.estimate.focal_std
    if one is None or other is None:
        return math.nan, math.nan
    change = (other.fx / max(other.width, other.height)) / (one.fx / max(one.width, one.height)) - 1
    return 100 * change, 100 * std / one.fx if std is not None else math.nan


def _unaligned(here: Float64[np.ndarray, "n 4 4"], there: Float64[np.ndarray, "n 4 4"]) -> float:
    """Largest difference of an entry, positions in the RMS radius of the second trajectory."""
    centre = there[:, :3, 3] - there[:, :3, 3].mean(0)
    radius = float(np.sqrt((centre**2).sum(1).mean()))
    difference = np.abs(here - there)
    difference[:, :3, 3] /= radius
    return float(difference.max())
