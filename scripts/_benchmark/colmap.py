"""COLMAP by its own Python package: SIFT on the CPU, sequential matching, incremental or global mapping."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pycolmap  # pyright: ignore[reportMissingImports] (an extra)

from _benchmark.estimate import Estimate

if TYPE_CHECKING:
    from flowcam_ns.geometry.camera import Camera

MAX_IMAGE_SIZE = 960
SIFT_THREADS = 2
LENS_PARAMETERS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
}


def has_global_mapper() -> bool:
    """Whether this release of pycolmap brings one."""
    return hasattr(pycolmap, "global_mapping")


def reconstruct(images: Path, scratch: Path, global_mapper: bool = False, lens: Camera | None = None) -> Estimate:
    """Poses of a folder of images whose names sort in temporal order; everything else is left at pycolmap's defaults.

    Args:
        images: the folder; all files in it are images.
        scratch: an empty folder for the database and the models.
        global_mapper: map all at once in place of image by image.
        lens: held where it is given, estimated otherwise.
    """
    names = sorted(path.name for path in images.iterdir())
    database = scratch / "database.db"
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.max_image_size, extraction.num_threads = MAX_IMAGE_SIZE, SIFT_THREADS
    times = [time.monotonic()]
    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=_reader(lens),
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    times.append(time.monotonic())
    pycolmap.match_sequential(database, device=pycolmap.Device.cpu)
    times.append(time.monotonic())
    models = (_map_at_once if global_mapper else _map_one_by_one)(database, images, scratch, lens is not None)
    times.append(time.monotonic())
    stages: dict[str, float] = dict(zip(("features", "matching", "mapping"), np.diff(times).tolist(), strict=True))
    if not models:
        return Estimate.nothing(len(names), "found no model", stages)
    best = max(models.values(), key=lambda model: model.num_reg_images())
    problem = "" if len(models) == 1 else f"{len(models)} models, the largest counts"
    return Estimate(_poses(best, names), _lens(best), stages, problem=problem)


def _reader(lens: Camera | None) -> Any:
    options = pycolmap.ImageReaderOptions()
    if lens is not None:
        options.camera_model = "OPENCV"
        options.camera_params = ",".join(map(str, (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion)))
    return options


def _map_one_by_one(database: Path, images: Path, scratch: Path, lens_known: bool) -> dict[int, Any]:
    options = pycolmap.IncrementalPipelineOptions()
    options.ba_refine_focal_length = options.ba_refine_extra_params = not lens_known
    return pycolmap.incremental_mapping(database, images, scratch, options)


def _map_at_once(database: Path, images: Path, scratch: Path, lens_known: bool) -> dict[int, Any]:
    options = pycolmap.GlobalPipelineOptions()
    if lens_known:
        adjustment = options.mapper.bundle_adjustment
        adjustment.refine_focal_length = adjustment.refine_extra_params = False
    elif hasattr(pycolmap, "calibrate_view_graph"):  # It no longer guesses focal lengths itself since it stands apart.
        pycolmap.calibrate_view_graph(database)
    return pycolmap.global_mapping(database, images, scratch, options)


def _poses(model: Any, names: list[str]) -> np.ndarray:
    c2w = np.full((len(names), 4, 4), np.nan)
    for image in model.images.values():
        if image.has_pose:
            c2w[names.index(image.name)] = np.eye(4)
            c2w[names.index(image.name), :3] = image.cam_from_world().inverse().matrix()
    return c2w


def _lens(model: Any) -> dict[str, float]:
    camera = next(iter(model.cameras.values()))
    named = dict(zip(LENS_PARAMETERS[camera.model.name], (float(value) for value in camera.params), strict=True))
    focal = named.pop("f", None)
    if focal is not None:
        named |= {"fx": focal, "fy": focal}
    return {"width": camera.width, "height": camera.height, **named}
