"""How sure the estimated cameras are, as a viewer tells it: a line of text, and a colour for every camera."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

SURE, UNSURE = np.array([60.0, 180.0, 75.0]), np.array([220.0, 30.0, 30.0])
"""Colours of the surest camera that there could be, and of the least sure one of the video."""


def colours(position_std: Float[np.ndarray, "frames"]) -> UInt8[np.ndarray, "frames 3"]:
    """From green, where a position is exact, to red, where it is least sure; red too where nothing is known of it."""
    known = np.isfinite(position_std)
    largest = max(float(position_std[known].max(initial=0.0)), 1e-12)
    share = np.where(known, position_std / largest, 1.0).clip(0, 1)[:, None]
    return np.rint(SURE + share * (UNSURE - SURE)).astype(np.uint8)


def describe(
    names: list[str],
    position_std: Float[np.ndarray, "frames"],
    rotation_std_deg: Float[np.ndarray, "frames"],
    focal: float,
    focal_std: float,
    extent: float,
) -> str:
    """One line on how sure lens and poses are; empty where nothing is known of that.

    Args:
        names: of the frames.
        position_std: standard deviation of each position, world units.
        rotation_std_deg: of each rotation.
        focal: focal length, px.
        focal_std: its standard deviation.
        extent: RMS radius of the trajectory, world units.
    """
    known: Bool[np.ndarray, "frames"] = np.isfinite(position_std) & np.isfinite(rotation_std_deg)
    if not known.any():
        return ""
    least = names[int(np.where(known, position_std, -1.0).argmax())]
    lens = f"Focal length {focal:.0f} px" + (f" ± {focal_std:.1f}" if np.isfinite(focal_std) else "")
    share = 100 * float(np.median(position_std[known])) / max(extent, 1e-12)
    turn = float(np.median(rotation_std_deg[known]))
    return f"{lens}; positions ± {share:.2g} % of the way's radius, rotations ± {turn:.2g}°; least sure: {least}"
