"""The JSON report of a run: what was posed, the lens, how well it fits, and how long it took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flowcam_ns.formats.transforms_json import UnposedFrame
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.metrics import PoseScores


@dataclass(frozen=True)
class PoseReport:
    """What a run found out; `as_dict` is the report's content."""

    name: str
    """The input's name."""
    camera: Camera
    focal_std: float
    """Standard deviation of the focal length, px; not finite where it is unknown."""
    posed: int
    """Number of posed frames."""
    selected: int
    """Number of frames that were to be posed."""
    thinned: int
    """Number of frames that were left out beforehand."""
    reprojection_error: float
    """Median distance between measured and pose-induced flow, px."""
    points: int
    """Size of the point cloud."""
    seconds: Mapping[str, float]
    """Wall-clock of each stage."""
    unposed: Sequence[UnposedFrame] = ()
    warnings: Sequence[str] = ()
    scores: PoseScores | None = None
    """Against ground truth, where there is one."""
    trivial_scores: PoseScores | None = None
    """Of the constant-velocity trajectory, to read the scores by."""
    frame_uncertainty: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Standard deviations of every selected frame, by name of the quantity."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; None stands where a figure is not known."""
        return plain(
            {
                "name": self.name,
                "frames": {"selected": self.selected, "posed": self.posed, "thinned": self.thinned},
                "unposed": [asdict(frame) for frame in self.unposed],
                "camera": {"model": "OPENCV", **asdict(self.camera)},
                "focal_px": (self.camera.fx + self.camera.fy) / 2,
                "focal_std_px": self.focal_std,
                "reprojection_error_px": self.reprojection_error,
                "points": self.points,
                "seconds": dict(self.seconds),
                "seconds_total": sum(self.seconds.values()),
                "scores": None if self.scores is None else self.scores.as_dict(),
                "scores_of_constant_velocity": None if self.trivial_scores is None else self.trivial_scores.as_dict(),
                "frame_uncertainty": {key: list(values) for key, values in self.frame_uncertainty.items()},
                "warnings": list(self.warnings),
            }
        )


def plain(value: Any) -> Any:
    """`value` with every number that JSON does not know (NaN, infinity) replaced by None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
