"""What `flowcam-poses` prints when it is done."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowcam_ns.formats.report import PoseReport
from flowcam_ns.geometry.metrics import PoseScores

MOST_REASONS = 10


def print_summary(report: PoseReport, folder: Path, console: Console | None = None) -> None:
    """Say what was posed, the lens, the fit, the time of each step, and the scores where there is ground truth."""
    # Names and reasons may hold brackets, which rich would take for markup; soft wrap keeps paths whole.
    console = console or Console(markup=False, highlight=False, soft_wrap=True)
    for warning in report.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))
    thinned = f" ({report.thinned} more were left out beforehand)" if report.thinned else ""
    console.print(Text(f"{report.posed} of {report.selected} frames posed{thinned}", style="bold"))
    for frame in report.unposed[:MOST_REASONS]:
        console.print(f"  not posed: {frame.source}: {frame.reason}")
    if len(report.unposed) > MOST_REASONS:
        console.print(f"  and {len(report.unposed) - MOST_REASONS} more; see report.json")
    console.print(f"focal length        {_focal(report)}")
    console.print(f"reprojection error  {report.reprojection_error:.2f} px (median)")
    console.print(f"points              {report.points}")
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    console.print(f"time                {sum(report.seconds.values()):.1f} s ({steps})")
    if report.scores is not None:
        console.print(_score_table(report.scores, report.trivial_scores))
    console.print(f"written to          {folder}")
    console.print(f"next                ns-train splatfacto --data {folder}")


def _focal(report: PoseReport) -> str:
    focal = (report.camera.fx + report.camera.fy) / 2
    std = f" \u00b1 {report.focal_std:.1f} px" if math.isfinite(report.focal_std) else ""
    return f"{focal:.1f} px{std} at {report.camera.width}x{report.camera.height} px"


def _score_table(scores: PoseScores, trivial: PoseScores | None) -> Table:
    """The scores against ground truth, and beside them those of a trajectory that knows nothing."""
    table = Table(title="Against ground truth", title_justify="left")
    table.add_column("score")
    table.add_column("these poses", justify="right")
    table.add_column("constant velocity", justify="right")
    rows = [
        ("ATE / radius", "ate_relative", 100, " %"),
        ("AUC@5", "auc_5", 1, ""),
        ("AUC@10", "auc_10", 1, ""),
        ("AUC@30", "auc_30", 1, ""),
        ("mean rotation error of pairs", "mean_pair_rotation_deg", 1, " deg"),
        ("focal length error", "focal_error_percent", 1, " %"),
    ]
    for label, name, factor, unit in rows:
        table.add_row(label, *(_figure(who, name, factor, unit) for who in (scores, trivial)))
    return table


def _figure(scores: PoseScores | None, name: str, factor: float, unit: str) -> str:
    value = math.nan if scores is None else factor * getattr(scores, name)
    return f"{value:.3f}{unit}" if math.isfinite(value) else "-"
