"""What one method says about one sequence, and the file in which its process leaves that.

Nothing heavy is imported here: the memory of a method that needs no torch is weighed without torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64


@dataclass
class Estimate:
    """Poses, lens and cost; a method that found nothing has no posed frame and a `problem`."""

    c2w: Float64[np.ndarray, "frames 4 4"]
    """OpenCV camera-to-world; NaN for frames without a pose."""
    lens: dict[str, float] = field(default_factory=dict)
    """Fields of `Camera`; empty where there is none."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall-clock of every stage, seconds, imports apart."""
    processor_seconds: float | None = None
    """Processor time of all threads, imports apart: what other work on the machine disturbs least."""
    sources: list[str] = field(default_factory=list)
    """Which frames of the input these are; empty where they are all of it."""
    problem: str = ""
    """What went wrong, or what the method warns about."""
    rotation_std_deg: list[float] | None = None
    """Infinite for frames without a pose."""
    position_std: list[float] | None = None
    """In the unit of `c2w`."""
    focal_std: float | None = None
    """Px."""

    @classmethod
    def nothing(cls, frames: int, problem: str, stages: dict[str, float] | None = None) -> Estimate:
        """No frame posed, and why."""
        return cls(np.full((frames, 4, 4), np.nan), stages=stages or {}, problem=problem)

    @property
    def posed(self) -> Bool[np.ndarray, "frames"]:
        """Which frames have a pose."""
        return np.isfinite(self.c2w).all((1, 2))

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(self.stages.values())

    def write(self, path: Path) -> None:
        """Leave it in a JSON file; what is not finite becomes null."""
        poses = [pose.tolist() if known else None for pose, known in zip(self.c2w, self.posed, strict=True)]
        content = {**asdict(self), "c2w": poses}
        for name in ("rotation_std_deg", "position_std"):
            content[name] = content[name] and [_known(value) for value in content[name]]
        content["focal_std"] = _known(self.focal_std)
        path.write_text(json.dumps(content, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Estimate:
        """Read what `write` wrote."""
        content = json.loads(path.read_text())
        missing = np.full((4, 4), np.nan)
        poses = [missing if pose is None else np.array(pose, dtype=np.float64) for pose in content.pop("c2w")]
        for name in ("rotation_std_deg", "position_std"):
            values = content.pop(name)
            content[name] = values and [math.inf if value is None else value for value in values]
        return cls(c2w=np.stack(poses), **content)


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
