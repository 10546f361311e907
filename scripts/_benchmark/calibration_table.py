"""The table of reported against true uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from _benchmark.calibration import INTERVAL, Deviations, pool, pose_deviations
from _benchmark.methods import Outcome, run_method
from _benchmark.tables import Row, Section, Value
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.metrics import focal_error_percent
from flowcam_ns.synthetic.clip import plan_clip
from flowcam_ns.synthetic.video_file import write_video

SYNTHETIC, INDEPENDENT = "synthetic", "recorded, independent truth"
"""Groups whose truth owes nothing to the images."""
WELL_KNOWN = 3.0
"""Reported standard deviation of a focal length, %, up to which it must hold."""
NOTE = (
    "Standard deviations that our estimates report, against true errors after a Sim(3) fit (positions) and one "
    "rotation of the world (rotations). Rank: Spearman's correlation over the frames. Covered: share of the errors "
    "within 2 standard deviations. Ratio: root mean square of error / deviation, 1 where the size is right. Pooled "
    "rows take positions as shares of the radius, all frames alike. The truth's own errors count as ours."
)


@dataclass(frozen=True)
class Case:
    """Our estimate of something whose truth is known."""

    name: str
    group: str
    """What it is pooled with."""
    outcome: Outcome
    c2w: Float64[np.ndarray, "frames 4 4"]
    """True poses of the frames that were estimated."""
    camera: Camera | None


def synthetic_cases(motions: Iterable[str], seeds: Iterable[int], folder: Path, cores: int) -> Iterable[Case]:
    """Film and solve synthetic motions: 60 frames of 480x270 through H.264, flow estimated."""
    for seed in seeds:
        for motion in motions:
            plan = plan_clip(motion, seed)
            path = folder / f"{motion}_{seed}.mp4"
            write_video(path, (plan.view(index)[0] for index in range(len(plan))))
            outcome = run_method("ours", path, len(plan), path.with_suffix(".json"), cores=cores)
            rows = [int(source) for source in outcome.estimate.sources] or list(range(len(plan)))
            yield Case(f"{motion} (seed {seed})", SYNTHETIC, outcome, plan.c2w[rows], plan.camera)


def calibration_section(cases: Iterable[Case]) -> Section:
    """A row for every case, and for the frames of every group together."""
    section = Section("Uncertainty: reported against true", notes=[NOTE])
    groups: dict[str, list[tuple[Deviations, Deviations]]] = {}
    for case in cases:
        deviations = pose_deviations(case.outcome.estimate, case.c2w)
        if deviations is None:
            section.notes.append(f"{case.name}: nothing reported. {case.outcome.estimate.problem}")
            continue
        groups.setdefault(case.group, []).append(deviations)
        section.rows.append({**_row(case.name, *deviations), **_focal(case)})
    if {SYNTHETIC, INDEPENDENT} <= groups.keys():
        groups["truth not made from the images"] = groups[SYNTHETIC] + groups[INDEPENDENT]
    for group, members in groups.items():
        together = _row(f"{group}, all frames", *(pool(kind) for kind in zip(*members, strict=True)))
        section.rows.append({**together, "focal error, %": None, "reported, %": None, "error / reported": None})
    section.notes.append(_focal_note(section.rows))
    return section


def _focal_note(rows: Sequence[Row]) -> str:
    """How many focal lengths that are said to be well known are."""
    known = [row for row in rows if _number(row["reported, %"]) <= WELL_KNOWN and row["focal error, %"] is not None]
    good = [row for row in known if _number(row["error / reported"]) <= INTERVAL]
    return (
        f"Focal lengths with a reported standard deviation of at most {WELL_KNOWN:.0f} %: {len(known)}, of which "
        f"{len(good)} lie within {INTERVAL:.0f} of them."
    )


def _number(value: Value) -> float:
    return float(value) if isinstance(value, (int, float)) else math.inf


def _row(name: str, position: Deviations, rotation: Deviations) -> Row:
    row: dict[str, float | int | str | None] = {"video": name, "frames": len(position.error)}
    for kind, deviations in (("position", position), ("rotation", rotation)):
        row[f"{kind}: rank"] = deviations.rank_correlation
        row[f"{kind}: covered, %"] = 100 * deviations.coverage
        row[f"{kind}: ratio"] = deviations.typical_ratio
    return row


def _focal(case: Case) -> Row:
    """The focal length's error and its reported standard deviation, both in % of the true one."""
    camera, std = case.outcome.camera, case.outcome.estimate.focal_std
    error = focal_error_percent(camera, case.camera)
    reported = 100 * std / camera.fx if camera is not None and std is not None else None
    ratio = error / reported if reported else None
    return {"focal error, %": error, "reported, %": reported, "error / reported": ratio}
