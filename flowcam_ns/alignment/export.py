"""Handing poses to other programs: a dataset folder that nerfstudio, COLMAP's readers and SLAM tools load as it is.

images/            the frames (masks/ too, where there are masks)
transforms.json    nerfstudio's format
sparse_pc.ply      the solve's points
colmap/sparse/0/   the same as COLMAP text
trajectory_tum.txt, trajectory.png, report.json
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.point_cloud import point_cloud
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.formats.atomic import atomic_folder, write_json
from flowcam_ns.formats.colmap_text import write_colmap_text
from flowcam_ns.formats.plot import TrajectoryPlot, write_trajectory_plot
from flowcam_ns.formats.ply import write_ply
from flowcam_ns.formats.point_cloud import PointCloud
from flowcam_ns.formats.report import PoseReport
from flowcam_ns.formats.transforms_json import PosedFrame, UnposedFrame, transforms_dict
from flowcam_ns.formats.tum import write_tum
from flowcam_ns.geometry.metrics import PoseScores, constant_velocity_baseline, score_trajectory
from flowcam_ns.geometry.trajectory import align_sim3
from flowcam_ns.video.frames import Frames
from flowcam_ns.video.write import write_images, write_masks

POINT_CLOUD = "sparse_pc.ply"
SUBFOLDERS = ("images", "masks", "colmap")
"""The folders that `write_dataset` writes to inside its own."""


def write_dataset(
    folder: Path,
    frames: Frames,
    alignment: Alignment,
    image_format: Literal["jpg", "png"] = "jpg",
    overwrite: bool = False,
) -> PoseReport:
    """Write the whole dataset folder (see the top of this file); it appears at once or not at all.

    Args:
        folder: Made where it does not exist; see `flowcam_ns.formats.atomic` for what is replaced and what is refused.
        frames: The frames that were aligned.
        alignment: Their poses, in the world that everything is written in.
        image_format: How the images are stored.
        overwrite: Whether a folder that holds other things may be written into.

    Returns:
        The report that was written, with the time that writing took.

    Raises:
        FlowCamError: the folder may not be written.
    """
    start = time.perf_counter()
    posed = _indices(alignment.posed)
    frames = frames.without(None if alignment.foreign is None else alignment.foreign.numpy())
    with atomic_folder(folder, overwrite) as partial, ThreadPoolExecutor(1) as encoder:
        # Compressing images runs outside Python's lock: a second core does it while this one draws.
        writing = encoder.submit(_write_images, frames, partial, image_format)
        cloud = point_cloud(frames, alignment)
        if len(cloud) > 0:
            write_ply(partial / POINT_CLOUD, cloud.xyz, cloud.rgb)
        ply = POINT_CLOUD if len(cloud) > 0 else None
        c2w = alignment.c2w.numpy()[posed]
        write_tum(partial / "trajectory_tum.txt", frames.timestamps[posed], c2w)
        write_trajectory_plot(partial / "trajectory.png", _plot(frames, alignment, cloud))
        images, masks = writing.result()
        write_json(partial / "transforms.json", alignment_transforms(frames, alignment, images, masks, ply))
        names = [Path(images[i]).name for i in posed]
        in_posed = replace(cloud, frame=np.searchsorted(posed, cloud.frame))
        write_colmap_text(
            partial / "colmap/sparse/0", alignment.camera, c2w, names, in_posed, alignment.reprojection_error
        )
        seconds = {**alignment.seconds, "write": time.perf_counter() - start}
        report = pose_report(frames, replace(alignment, seconds=seconds), len(cloud))
        write_json(partial / "report.json", report.as_dict())
    return report


def _write_images(frames: Frames, folder: Path, image_format: Literal["jpg", "png"]) -> tuple[list[str], list[str]]:
    """Write images and masks; gives their paths relative to `folder`."""
    images = write_images(frames, folder / "images", image_format)
    masks = write_masks(frames, folder / "masks")
    return [p.relative_to(folder).as_posix() for p in images], [p.relative_to(folder).as_posix() for p in masks]


def alignment_transforms(
    frames: Frames,
    alignment: Alignment,
    file_paths: Sequence[str],
    mask_paths: Sequence[str] = (),
    ply_file_path: str | None = None,
) -> dict[str, Any]:
    """The content of the transforms.json of an alignment.

    Args:
        frames: The frames that were aligned.
        alignment: Their poses.
        file_paths: The image of every frame, posed or not, as it shall be named in the file.
        mask_paths: The mask of every frame; empty where there are none.
        ply_file_path: A point cloud in the same world.
    """
    rotation_std, position_std = alignment.rotation_std_deg, alignment.position_std
    posed = [
        PosedFrame(
            file_path=file_paths[i],
            c2w=alignment.c2w[i].numpy(),
            source=frames.sources[i],
            timestamp=float(frames.timestamps[i]),
            mask_path=mask_paths[i] if mask_paths else None,
            rotation_std_deg=None if rotation_std is None else float(rotation_std[i]),
            position_std=None if position_std is None else float(position_std[i]),
        )
        for i in _indices(alignment.posed)
    ]
    lens_std = {"fl_x": alignment.focal_std, "fl_y": alignment.focal_std, **alignment.lens_std}
    return transforms_dict(
        alignment.camera, posed, unposed_frames(frames, alignment), frames.thinned, ply_file_path, lens_std
    )


def unposed_frames(frames: Frames, alignment: Alignment) -> list[UnposedFrame]:
    """The frames that were selected but not posed, each with the reason."""
    missing = _indices(~alignment.posed)
    reasons = alignment.unposed_reasons
    return [UnposedFrame(frames.sources[i], reasons.get(i, "could not be tied to the other frames")) for i in missing]


def pose_report(frames: Frames, alignment: Alignment, points: int) -> PoseReport:
    """What a run found out, with its scores where the frames came with ground truth."""
    uncertainty = {"rotation_std_deg": alignment.rotation_std_deg, "position_std": alignment.position_std}
    return PoseReport(
        name=frames.name,
        camera=alignment.camera,
        focal_std=alignment.focal_std,
        posed=int(alignment.posed.sum()),
        selected=len(frames),
        thinned=frames.thinned,
        reprojection_error=alignment.reprojection_error,
        points=points,
        seconds=alignment.seconds,
        unposed=unposed_frames(frames, alignment),
        warnings=[*frames.warnings, *alignment.warnings],
        scores=score_alignment(frames, alignment),
        trivial_scores=_score_trivial(frames),
        frame_uncertainty={key: std.tolist() for key, std in uncertainty.items() if std is not None},
    )


def score_alignment(frames: Frames, alignment: Alignment) -> PoseScores | None:
    """Scores against the frames' ground truth; None where there is none to compare with."""
    truth = _truth(frames)
    if truth is None or frames.ground_truth is None:
        return None
    return score_trajectory(
        alignment.c2w, torch.from_numpy(truth), alignment.posed, alignment.camera, frames.ground_truth.camera
    )


def _indices(mask: Bool[Tensor, "frames"]) -> list[int]:
    return [i for i, is_set in enumerate(mask.tolist()) if is_set]


def _score_trivial(frames: Frames) -> PoseScores | None:
    truth = _truth(frames)
    return None if truth is None else score_trajectory(constant_velocity_baseline(len(truth)), torch.from_numpy(truth))


def _truth(frames: Frames) -> Float[np.ndarray, "frames 4 4"] | None:
    """True poses, if those of at least two frames are known."""
    if frames.ground_truth is None:
        return None
    known = np.isfinite(frames.ground_truth.c2w).all(axis=(1, 2))
    return frames.ground_truth.c2w if known.sum() >= 2 else None


def _plot(frames: Frames, alignment: Alignment, cloud: PointCloud) -> TrajectoryPlot:
    """The trajectory's picture, with the true one carried into the same world."""
    posed = alignment.posed
    title = f"{frames.name}: {int(posed.sum())} of {len(frames)} frames posed"
    truth, scores = _truth(frames), score_alignment(frames, alignment)
    truth_c2w = None
    if truth is not None and scores is not None:
        estimate, true = alignment.c2w, torch.from_numpy(truth)
        known = torch.isfinite(true).all(-1).all(-1)
        # From the estimate to the truth and back, as the scores do; the inverse fit would shrink a noisy trajectory.
        truth_c2w = align_sim3(estimate, true, posed).inverse().apply_c2w(true[known]).numpy()
        title += f", ATE {100 * scores.ate_relative:.2f} % of the radius, AUC@5 {scores.auc_5:.3f}"
    return TrajectoryPlot(alignment.c2w[posed].numpy(), alignment.camera, title, truth_c2w, cloud)
