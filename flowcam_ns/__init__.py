"""Camera poses and a radiance field from an ordinary video, by optical flow (FlowCam as a nerfstudio method).

Importing this package is cheap: nerfstudio imports it in every one of its commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowcam_ns.alignment.estimate import estimate_poses
    from flowcam_ns.model.reference import load_reference

__version__ = "0.1.0"
__all__ = ["estimate_poses", "load_reference"]


def __getattr__(name: str) -> object:
    """Load the public functions when they are first asked for (PEP 562)."""
    if name == "estimate_poses":
        from flowcam_ns.alignment.estimate import estimate_poses

        return estimate_poses
    if name == "load_reference":
        from flowcam_ns.model.reference import load_reference

        return load_reference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
